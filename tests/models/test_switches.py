"""Every switch for speed against the plain path: the loss of a whole S1, and all its gradients."""

import copy
from argparse import Namespace

import numpy as np
import pytest
import torch
from espnet2.tasks.abs_task import optim_classes

from ser.config import load_config
from ser.models import wav2vec
from ser.models.build import FEATS_SIZES, build_network
from ser.models.cpu import attention as attention_module
from ser.models.cpu.attention import attention, written_out
from ser.models.encoders import IdentityEncoder
from ser.models.heads import CTCHead
from ser.models.model import SERModel
from ser.models.pooling import MeanPooling
from ser.models.ssl import HFFrontend
from tests.support import ROOT
from tests.support.tiny import EMOTIONS, ENCODERS

DROPOUTS = ("attention_dropout", "hidden_dropout", "activation_dropout", "feat_proj_dropout")
UNITS = ["<blank>", *(f"u{i}" for i in range(1, 25))]


def s1(
    fast: bool | list[str],
    dropout: float = 0.0,
    amp_dtype: str = "float32",
    name: str = "wav2vec2-base-like",
) -> SERModel:
    """S1 over a small encoder, wav2vec 2.0 with the norm of the base model, ready to train."""
    torch.manual_seed(0)
    model_type, config = ENCODERS[name]
    config = {**config, **dict.fromkeys(DROPOUTS, dropout)}
    frontend = HFFrontend(init="random", model_type=model_type, config=config, fast=fast)
    size = frontend.output_size()
    return SERModel(
        emotions=EMOTIONS,
        frontend=frontend,
        encoder=IdentityEncoder(size),
        pooling=MeanPooling(size),
        aux_heads={"pr": CTCHead(size, size, UNITS)},
        aux_weights={"pr": 0.1},
        amp_dtype=amp_dtype,
    ).train()


def utterances(count: int = 4) -> dict[str, torch.Tensor]:
    """Of different lengths; the last has no words."""
    generator = torch.Generator().manual_seed(1)
    lengths = [16000, 4320, 9000, 12345, *(5000 + 500 * i for i in range(count - 4))]
    speech = 0.1 * torch.randn(count, max(lengths), generator=generator)
    for row, length in zip(speech, lengths, strict=True):
        row[length:] = 0.0
    return {
        "speech": speech,
        "speech_lengths": torch.tensor(lengths),
        "emotion": torch.arange(count)[:, None] % len(EMOTIONS),
        "text": torch.randint(1, len(UNITS), (count, 5), generator=generator),
        "text_lengths": torch.tensor([5, 3, 4, *([2] * (count - 4)), 0]),
    }


def part(batch: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    rest = {key: value[rows] for key, value in batch.items()}
    return {**rest, "speech": rest["speech"][:, : rest["speech_lengths"].max()]}


def loss_and_gradients(model: SERModel, *batches) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Of as many batches as one step accumulates."""
    total = torch.tensor(0.0)
    for batch in batches:
        loss = model(**batch)[0].squeeze() / len(batches)
        loss.backward()
        total += loss.detach()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return total, gradients


def assert_same(found, expected, tolerance: float) -> None:
    """Loss and gradients, within a share of the loss and of each gradient's norm."""
    (loss, gradients), (plain_loss, plain_gradients) = found, expected
    assert loss.item() == pytest.approx(plain_loss.item(), rel=tolerance)
    assert gradients.keys() == plain_gradients.keys()
    for name, plain in plain_gradients.items():
        apart = (gradients[name] - plain).norm()
        assert apart <= tolerance * plain.norm() + 1e-7, name


@pytest.fixture
def nothing_dropped(monkeypatch) -> None:
    """Cheap dropout runs, and keeps everything."""
    for module in ("dropout", "attention"):
        monkeypatch.setattr(
            f"ser.models.cpu.{module}.keep_mask", lambda size, p, seed: np.ones(size, dtype=bool)
        )
        monkeypatch.setattr(f"ser.models.cpu.{module}.keep_scale", lambda p: 1.0)


@pytest.mark.parametrize("fast", ["convolutions", "dropout", "attention"])
def test_a_step_of_s1_is_the_plain_one(fast, nothing_dropped, monkeypatch):
    calls = []
    apply = attention_module._Attention.apply
    monkeypatch.setattr(
        attention_module._Attention, "apply", lambda *args: calls.append(1) or apply(*args)
    )
    used = s1([fast], 0.0 if fast == "convolutions" else 0.1)
    if fast == "dropout":  # torch's own, of attention, would drop
        used.frontend.encoder.config.attention_dropout = 0.0
        for layer in used.frontend.encoder.encoder.layers:
            layer.attention.dropout = 0.0
    if fast == "attention":  # the other places have torch's
        for module in used.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    batch = utterances()
    assert_same(loss_and_gradients(used, batch), loss_and_gradients(s1(False), batch), 1e-4)
    assert bool(calls) is (fast == "attention")


@pytest.mark.parametrize(
    ("name", "fast", "amp_dtype"),
    [
        ("wav2vec2-base-like", True, "bfloat16"),
        ("wav2vec2-base-like", False, "float32"),
        ("wav2vec2-large-like", True, "float32"),
        ("wavlm", True, "float32"),
        ("hubert", True, "float32"),
        ("data2vec", True, "float32"),
    ],
)
def test_a_long_batch_keeps_less_and_makes_the_same_step(monkeypatch, name, fast, amp_dtype):
    """With dropout: what is computed again draws what was drawn before."""
    computed, asked = [], []
    monkeypatch.setattr(wav2vec, "return_freed_memory", asked.append)
    batch = utterances()
    found = []
    for limit in (batch["speech"].numel(), batch["speech"].numel() - 1):
        monkeypatch.setattr(wav2vec, "KEPT_SAMPLES", limit)
        model = s1(fast, 0.1, amp_dtype, name)
        layers = model.frontend.encoder.encoder.layers
        layers[0].feed_forward.register_forward_pre_hook(lambda *_: computed.append(1))
        torch.manual_seed(3)
        found.append(loss_and_gradients(model, batch))
    assert len(computed) == 1 + 2
    assert_same(*found, 1e-6)
    model(**part(batch, slice(1, 3)))  # a short one again
    assert asked == [True, False]
    assert not layers[0].gradient_checkpointing


def test_bfloat16_moves_the_loss_by_a_percent_and_is_as_far_off_by_any_way():
    """The fast step loses nothing that autocast does not lose on the modules of transformers."""
    batch = utterances()
    loss, exact = loss_and_gradients(s1(False), batch)

    def apart(fast: bool) -> float:
        mixed_loss, mixed = loss_and_gradients(s1(fast, amp_dtype="bfloat16"), batch)
        assert mixed_loss.item() == pytest.approx(loss.item(), rel=0.01)
        differences = [(mixed[name] - value).norm() for name, value in exact.items()]
        norms = [value.norm() for value in exact.values()]
        return (torch.stack(differences).norm() / torch.stack(norms).norm()).item()

    assert 0.01 < apart(fast=False) < 0.4  # an untrained model this small; its direction is kept
    assert apart(fast=True) < 1.05 * apart(fast=False)


SMALLER = {
    "s6_small": {},
    "s8_parallel": {"channels": [16, 32, 32]},
    "s18_xvector": {"depth": 18, "width": 8},
}


@pytest.mark.parametrize("name", SMALLER)
def test_so_it_is_in_systems_without_a_pretrained_encoder_that_train_in_it(name, monkeypatch):
    config = load_config(ROOT / f"conf/train_{name}.yaml")
    assert config["model_conf"]["amp_dtype"] == "bfloat16"
    monkeypatch.setattr("torch.randn_like", torch.zeros_like)  # S6's noise
    config["encoder_conf"] |= SMALLER[name]
    torch.manual_seed(0)
    network = build_network(Namespace(**{"pooling_conf": {}, "frontend_conf": {}} | config))
    model = SERModel(EMOTIONS, *network, aux_heads={}, aux_weights={}).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.RNNBase):
            module.dropout = 0.0
    width = FEATS_SIZES.get(config["feats_type"])
    lengths = torch.tensor([90, 84, 77, 70]) * (1 if width else 160)
    batch = {
        "speech": torch.randn(4, int(lengths[0]), *([width] if width else [])),
        "speech_lengths": lengths,
        "emotion": torch.arange(4)[:, None],
    }
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model.zero_grad()
        model.amp_dtype = dtype
        loss, gradients = loss_and_gradients(model, batch)
        found.append((loss, torch.cat([g.flatten() for g in gradients.values()])))
    (loss, exact), (mixed_loss, mixed) = found
    assert mixed_loss.item() == pytest.approx(loss.item(), rel=0.02)
    assert 0.001 < (mixed - exact).norm() / exact.norm() < 0.4


@pytest.mark.parametrize(("spread", "bound"), [(1.0, 0.01), (9.0, 0.02)])
@pytest.mark.parametrize("way", ["each utterance alone", "written out"])
def test_attention_in_bfloat16_is_as_exact_as_its_scores(way, spread, bound, nothing_dropped):
    """With twelve heads of 64 and 220 frames, and scores as small and as large as in training."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 12, 220, 64, generator=generator) for _ in range(3))
    query *= spread
    low = [x.to(torch.bfloat16) for x in (query, key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(*(x.float() for x in low))
    if way == "written out":
        found = written_out(*low, None, 64**-0.5)
    else:
        found = attention(*low, [220], 0.1, 64**-0.5)
    expected = expected.transpose(1, 2)
    assert (found.float() - expected).norm() <= bound * expected.norm()


def test_accumulated_batches_make_the_step_of_one():
    batch = utterances(16)
    parts = [part(batch, slice(start, start + 4)) for start in range(0, 16, 4)]
    whole = loss_and_gradients(s1(False), batch)
    assert_same(loss_and_gradients(s1(False), *parts), whole, 1e-4)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_fused_optimiser_makes_the_same_steps(name):
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.GELU(), torch.nn.Linear(30, 4))
    models = [model, copy.deepcopy(model)]
    options = {"lr": 1e-2, "weight_decay": 1e-3}
    optimizers = [
        optim_classes[name](m.parameters(), fused=fused, **options)
        for m, fused in zip(models, (False, True), strict=True)
    ]
    inputs = torch.randn(8, 20)
    for _ in range(5):
        for m, optimizer in zip(models, optimizers, strict=True):
            m(inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(*(m.parameters() for m in models), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)
