"""Every encoder and pooling: no trace of padding in outputs or gradients, all parameters learn."""

import pytest
import torch

from ser.models.capsules import CapsulePooling, MultiScaleConvEncoder
from ser.models.conv_attention import ConvAttentionPooling
from ser.models.encoders import ConvRecurrentEncoder
from ser.models.graph import GINEncoder
from ser.models.parallel import ParallelEncoder
from ser.models.pooling import (
    AttentionPooling,
    LastPooling,
    MeanPooling,
    SelfAttentionPooling,
    StatisticsPooling,
)
from ser.models.raw import RawConvEncoder

RNN = {"rnn_type": "lstm", "bidirectional": True, "hidden_size": 3}
RAW = {"channels": 4, "kernel1": 8, "channel_pool": 2, "step": 40, "hidden_size": 3}
PARALLEL = {"lld_size": 4, "channels": (4, 8), "hidden_size": 3, "output_size": 5}
PLAIN = {"frame_attention": False, "dimension_attention": False}
CONVS = {
    "one channel, GRU": {"convs": [{"channels": 3, "kernel": [2, 5], "pool": [2, 2]}]},
    "three channels, odd pools, BLSTM": {
        "in_channels": 3,
        "convs": [
            {"channels": 2, "kernel": [4, 3], "pool": [3, 2]},
            {"channels": 3, "kernel": [5, 4], "pool": [2, 3]},
        ],
        "rnn_type": "lstm",
        "bidirectional": True,
        "num_layers": 2,
    },
    "batch norm": {
        "convs": [
            {"channels": 2, "kernel": [3, 2], "pool": [2, 1], "norm": "batch"},
            {"channels": 2, "kernel": [3, 3], "pool": [1, 2], "norm": "batch"},
        ]
    },
    "no recurrence": {"convs": [{"channels": 2, "kernel": [3, 3]}], "rnn_type": "none"},
    "no convolution": {"rnn_type": "lstm"},
}
# name -> (size of a frame, frames of the batch's utterances, module)
ENCODERS = {
    **{
        name: (8, [9, 1, 4, 7], lambda conf=conf: ConvRecurrentEncoder(8, hidden_size=4, **conf))
        for name, conf in CONVS.items()
    },
    "gin": (6, [9, 4, 1], lambda: GINEncoder(6, size=4, window=2, frames_per_node=2, rnn_conf=RNN)),
    "cycle": (6, [9, 4, 1], lambda: GINEncoder(6, size=4, cycle=True, rnn_conf=RNN)),
    "multi_scale": (6, [9, 4, 1], lambda: MultiScaleConvEncoder(6, channels=2, last_channels=3)),
    "parallel": (12, [11, 6, 1], lambda: ParallelEncoder(12, **PARALLEL)),
    "parallel, plain": (12, [11, 6, 1], lambda: ParallelEncoder(12, **PARALLEL, **PLAIN)),
    "raw": (1, [201, 80, 3], lambda: RawConvEncoder(1, kernel2=6, **RAW)),
    "raw, long kernel": (1, [201, 80, 3], lambda: RawConvEncoder(1, kernel2=90, **RAW)),
}
POOLINGS = {
    "mean": lambda: MeanPooling(6),
    "last": lambda: LastPooling(6),
    "statistics": lambda: StatisticsPooling(6),
    "last of two directions": lambda: LastPooling(6, bidirectional=True),
    "attention": lambda: AttentionPooling(6),
    "self-attention": lambda: SelfAttentionPooling(6, size=3, hops=2),
    "conv_attention": lambda: ConvAttentionPooling(6, size=5, kernel=3, hops=2),
    "capsules": lambda: CapsulePooling(6, capsules=3, size=4, types=2),
    "dynamic": lambda: CapsulePooling(6, capsules=3, size=4, types=2, routing="dynamic"),
}
MODULES = {**ENCODERS, **{name: (6, [9, 4, 1], make) for name, make in POOLINGS.items()}}
WITHOUT_PARAMETERS = ("mean", "last", "statistics", "last of two directions")
RANDOM = ("parallel", "raw")  # dropout and noise, drawn for padding as well
MULTIPLIED = ("capsules", "dynamic")  # by zero where it is padding, which NaN survives


def module_and_frames(name: str, beyond: int = 0, fill: float = 0.0):
    """Always the same module and utterances, with ``beyond`` more frames of padding."""
    size, lengths, make = MODULES[name]
    torch.manual_seed(1)
    module = make().double()
    batch = torch.full((len(lengths), max(lengths) + beyond, size), fill, dtype=torch.float64)
    for row, length in zip(batch, lengths, strict=True):
        row[:length] = torch.randn(length, size, dtype=torch.float64)
    return module, batch, torch.tensor(lengths)


def real_outputs(module, frames, lengths) -> list[torch.Tensor]:
    """What comes out for each utterance; an encoder's padding is zero."""
    out = module(frames, lengths)
    if isinstance(out, torch.Tensor):
        assert out.shape == (len(lengths), module.output_size())
        return list(out)
    outputs, counts, _ = out
    assert outputs.size(-1) == module.output_size()
    rows = list(zip(outputs, counts.tolist(), strict=True))
    assert not any(row[count:].any() for row, count in rows)
    return [row[:count] for row, count in rows]


@pytest.mark.parametrize("name", MODULES)
def test_an_utterance_in_a_batch_gets_what_it_would_get_alone(name):
    module, batch, lengths = module_and_frames(name)
    together = real_outputs(module.eval(), batch, lengths)
    for row, length in enumerate(lengths.tolist()):
        (alone,) = real_outputs(module, batch[row : row + 1, :length], lengths[row : row + 1])
        assert torch.allclose(alone, together[row], atol=1e-10)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", MODULES)
def test_padding_changes_neither_an_output_nor_a_gradient(name, training):
    found = []
    for beyond, fill in ((0, 0.0), (11, 7.0 if name in MULTIPLIED else float("nan"))):
        module, frames, lengths = module_and_frames(name, beyond, fill)
        module.train(training and not name.startswith(RANDOM))
        frames.requires_grad_()
        outputs = real_outputs(module, frames, lengths)
        directions = (torch.linspace(-1.0, 2.0, out.numel()).view_as(out) for out in outputs)
        sum((d * out.tanh()).sum() for d, out in zip(directions, outputs, strict=True)).backward()
        rows = list(zip(frames.grad, lengths.tolist(), strict=True))
        assert not any(row[length:].any() for row, length in rows)
        gradients = [p.grad for p in module.parameters()] + [row[:length] for row, length in rows]
        found.append([out.detach() for out in outputs] + gradients)
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in MODULES if name not in WITHOUT_PARAMETERS])
def test_a_gradient_reaches_every_parameter(name):
    module, frames, lengths = module_and_frames(name)
    sum(out.square().sum() for out in real_outputs(module.train(), frames, lengths)).backward()
    assert [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("name", "expected"), [("raw", [6, 2, 1]), ("parallel", [1, 1, 1]), ("gin", [5, 2, 1])]
)
def test_encoders_say_how_many_frames_they_make(name, expected):
    module, frames, lengths = module_and_frames(name)
    outputs, counts, _ = module(frames, lengths)
    assert counts.tolist() == expected
    assert outputs.size(1) == max(expected)
