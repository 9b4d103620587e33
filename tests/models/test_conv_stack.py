"""The convolutions as matrix products against the modules of transformers that they stand for."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModel

from ser.models.cpu.conv_stack import conv_features
from tests.support.tiny import ENCODERS, TINY

OTHER_GEOMETRY = {  # a kernel of one more group of samples, and one without overlap
    **TINY,
    "conv_dim": [16] * 4,
    "conv_kernel": [10, 7, 2, 3],
    "conv_stride": [5, 3, 2, 1],
    "num_feat_extract_layers": 4,
    "conv_bias": True,
}
MODELS = {
    **{name: model for name, model in ENCODERS.items() if name != "whisper"},
    "other geometry": ("wav2vec2", OTHER_GEOMETRY),
    "other activation": ("wav2vec2", {**TINY, "feat_extract_activation": "silu"}),
}


def extractor(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model_type, config = MODELS[name]
    config = {**config, "conv_dim": [24] * len(config["conv_dim"])}
    module = AutoModel.from_config(AutoConfig.for_model(model_type, **config)).feature_extractor
    for parameter in module.parameters():  # norms begin as ones and zeros, biases small
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=0.5)
    return module


def speech_like(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Neighbouring samples alike, and garbage where an utterance has ended."""
    generator = torch.Generator().manual_seed(1)
    speech = torch.randn(len(lengths), max(lengths), generator=generator).cumsum(1)
    speech = (speech - speech.mean(1, keepdim=True)) / speech.std(1, keepdim=True)
    for row, length in zip(speech, lengths, strict=True):
        row[length:] = 7.0
    return speech, torch.tensor(lengths)


def alone(module: torch.nn.Module, speech: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """transformers' own output for each utterance by itself, (B, T, C) with zeros as padding."""
    outputs = [module(row[None, :n])[0].T for row, n in zip(speech, lengths.tolist(), strict=True)]
    return torch.nn.utils.rnn.pad_sequence(outputs, batch_first=True)


def gradients(module: torch.nn.Module, output: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(output.shape, generator=generator)
    module.zero_grad()
    (output * direction).sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_frames_and_gradients_are_those_of_transformers_for_each_utterance_alone(name):
    module = extractor(name)
    speech, lengths = speech_like([6000, 3217, 400, 4799])
    with torch.no_grad():
        expected, found = alone(module, speech, lengths), conv_features(module, speech, lengths)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    # gradients in float64, where rounding hides nothing
    module, speech = module.double(), speech.double()
    expected = gradients(module, alone(module, speech, lengths))
    found = gradients(module, conv_features(module, speech, lengths))
    for parameter, value in expected.items():
        assert (found[parameter] - value).abs().max() <= 1e-9 * value.abs().max() + 1e-9, parameter


@pytest.mark.parametrize("name", ["wav2vec2-base-like", "wav2vec2-large-like"])
def test_bfloat16_is_as_close_to_float32_as_that_of_transformers(name):
    module = extractor(name)
    speech, lengths = speech_like([6000, 3217])
    exact = alone(module, speech, lengths)
    exact_gradients = gradients(module, exact)
    errors = []
    for run in (alone, conv_features):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = run(module, speech, lengths)
        found = gradients(module, output)
        # of one norm's biases rounding can leave little, so all parameters are taken together
        distance = sum((found[key] - exact_gradients[key]).square().sum() for key in found)
        errors.append(((output - exact).norm(), distance.sqrt()))
    (their_output, their_gradient), (output, gradient) = errors
    assert output <= 1.2 * their_output
    assert gradient <= 1.5 * their_gradient


def test_frozen_convolutions_keep_nothing_for_a_backward_pass():
    module = extractor("wav2vec2-base-like").requires_grad_(False)
    assert not conv_features(module, *speech_like([3000, 2000])).requires_grad


def test_silence_gives_finite_features():
    module = extractor("wav2vec2-base-like")
    assert conv_features(module, torch.zeros(1, 2000), torch.tensor([2000])).isfinite().all()


class Products(TorchDispatchMode):
    """Notes the sizes of all matrix products, but for those of the first layer's windows."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in ("aten::mm", "aten::addmm", "aten::addmm_", "aten::linear"):
            sizes = tuple(tuple(a.shape) for a in args if isinstance(a, torch.Tensor))
            if not any(10 in size for size in sizes):
                self.sizes.add(sizes)
        return func(*args, **(kwargs or {}))


def test_batches_of_about_the_same_length_are_products_of_the_same_sizes():
    """For each new one oneDNN compiles."""
    module = extractor("wav2vec2-base-like")
    sizes = []
    # 29 + 50, 38 + 44 and 65 + 63 strides of 320 samples, all filled up to 128; and one more
    for lengths in ([9000, 16000], [12000, 14000], [20800, 20160], [20800, 20480]):
        with Products() as products:
            conv_features(module, *speech_like(lengths)).sum().backward()
        sizes.append(products.sizes)
    assert len(sizes[0]) > 10
    assert sizes[0] == sizes[1] == sizes[2] != sizes[3]
