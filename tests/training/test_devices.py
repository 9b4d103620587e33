"""Training and inference on a device that is not the CPU: no operation takes tensors of both."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from espnet2.train.reporter import SubReporter
from torch.nn.utils.rnn import PackedSequence

from ser.config import load_config
from ser.data.features import FEATS_SIZES
from ser.errors import UserError
from ser.models.encoders import ConvRecurrentEncoder
from ser.models.model import SERModel, to_device
from ser.predict.package import build_network_model
from ser.training.devices import find_device
from ser.training.passes import Batches, Statistics, Training, train_pass
from ser.training.trainer import place_step_counts
from tests.support import ROOT
from tests.support.elsewhere import NAME, Elsewhere, process, waits
from tests.support.packable import UNITS, make_network
from tests.support.tiny import EMOTIONS, ENCODERS

SIZES = {"raw": (16000,), **{name: (60, size) for name, size in FEATS_SIZES.items()}}
TASKS = {
    "pr": {"type": "ctc", "weight": 0.1},
    "who": {"type": "label", "weight": 0.1, "gradient_reversal": 1.0},
}
CONF = ROOT / "conf"
ON_FEATURES = ("s4_cgru_attention", "s4b_lstm_attention", "s4c_dcnn_lstm", "s5_cnn_blstm_gender")
NO_DROPOUT = dict.fromkeys(("attention_dropout", "hidden_dropout", "activation_dropout"), 0.0)


def on_waveforms(encoder: str = "wav2vec2-base-like", **options: Any) -> dict[str, Any]:
    """The part of a YAML that chooses a tiny encoder."""
    model_type, config = ENCODERS[encoder]
    config = config if model_type == "whisper" else {**config, **NO_DROPOUT}
    conf = {"init": "random", "model_type": model_type, "config": config, **options}
    return {"frontend_conf": conf}


def of_system(name: str) -> dict[str, Any]:
    """The network of a system on features, as its YAML has it."""
    config = load_config(CONF / f"train_{name}.yaml")
    return {key: config.get(key, {}) for key in make_network() if key in config or "conf" in key}


CASES = {
    **{name: on_waveforms(name) for name in ENCODERS},
    "fast: false": on_waveforms(fast=False),
    "time_mask": on_waveforms(
        time_mask={"num_mask": 2, "mask_width_ratio_range": [0.0, 0.05]},
    ),
    "freeze: all": on_waveforms(freeze="all"),
    "freeze: cnn": on_waveforms(freeze="cnn"),
    "layers: last": on_waveforms(layers="last"),
    "pooling: attention": {**on_waveforms(), "pooling": "attention"},
    "pooling: self_attention": {**on_waveforms(), "pooling": "self_attention"},
    "pooling: last": {**on_waveforms(), "pooling": "last"},
    **{name: of_system(name) for name in ON_FEATURES},
}


def step_and_scores(
    changes: dict[str, Any], kept: Path | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Train a step on the device; what the model then says there, and what it says on the CPU.

    ``kept`` is a folder for what a frozen part makes of an utterance.
    """
    model, batch = on_the_device(changes, kept)
    with Elsewhere():
        model.to(NAME)
        model.begin_epoch(1)
        assert model.counts.device.type == NAME  # where nccl can sum them, also before any batch
        model(**to_device(batch, model))[0].backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        torch.optim.SGD(trained, lr=0.1).step()
        model.eval()
        there = model.infer(batch["speech"].to(NAME), batch["speech_lengths"])["emotion_logp"]
        assert there.device.type == NAME
        model.to("cpu")
        here = model.infer(batch["speech"], batch["speech_lengths"])["emotion_logp"]
        return there.to("cpu"), here


def on_the_device(
    changes: dict[str, Any], kept: Path | None, recurrent: type[torch.nn.Module] | None = None
) -> tuple[SERModel, dict[str, torch.Tensor]]:
    """A model that is ready to be moved and trained, and a batch.

    ``recurrent`` takes the place of recurrent networks, whose kernels a device has of its own.
    """
    torch.manual_seed(0)
    network = make_network(**{**changes, "aux_conf": TASKS})
    model = build_network_model(network, UNITS, {"who": ["a", "b"]}).float()
    if isinstance(model.encoder, ConvRecurrentEncoder):
        model.encoder.rnn = (recurrent or StaysOnCPU)(model.encoder.rnn)
    if kept is not None:
        model.frontend.cache_dir = kept
    return model.train(), utterances(*SIZES[network["feats_type"]])


class StaysOnCPU(torch.nn.Module):
    """A recurrent network for packed frames of any device."""

    def __init__(self, rnn: torch.nn.RNNBase):
        super().__init__()
        self.rnn = rnn

    def _apply(self, fn, recurse=True):
        return self

    def __getattr__(self, name: str):
        return (
            getattr(super().__getattr__("rnn"), name)
            if name != "rnn"
            else super().__getattr__(name)
        )

    def forward(self, frames: PackedSequence) -> tuple[PackedSequence, None]:
        outputs, _ = self.rnn(frames.to("cpu"))
        return outputs.to(frames.data.device), None


class OfOneFrame(torch.nn.Module):
    """A layer with the shapes of a recurrent network, in the operations that the device has."""

    def __init__(self, rnn: torch.nn.RNNBase):
        super().__init__()
        directions = 2 if rnn.bidirectional else 1
        self.linear = torch.nn.Linear(rnn.input_size, directions * rnn.hidden_size)

    def forward(self, frames: PackedSequence) -> tuple[PackedSequence, None]:
        return frames._replace(data=self.linear(frames.data)), None


def utterances(length: int, *size: int) -> dict[str, torch.Tensor]:
    """Three, of samples or of frames of a size; the last has no words and a speaker not known."""
    generator = torch.Generator().manual_seed(1)
    return {
        "speech": 0.1 * torch.rand(3, length, *size, generator=generator),
        "speech_lengths": torch.tensor([length, length // 2, length // 3]),
        "emotion": torch.tensor([[0], [1], [2]]) % len(EMOTIONS),
        "text": torch.tensor([[1, 2, 1], [1, -1, -1], [-1, -1, -1]]),
        "text_lengths": torch.tensor([3, 1, 0]),
        "who_label": torch.tensor([[0], [1], [-1]]),
    }


@pytest.fixture(scope="module")
def in_process(processes):
    """Calls a function where the device exists."""
    with process(processes) as call:
        yield call


@pytest.mark.parametrize("name", CASES)
def test_a_model_trains_and_scores_on_another_device_as_on_the_cpu(name, in_process):
    there, here = in_process(step_and_scores, CASES[name])
    assert torch.allclose(there, here, atol=1e-5)


@pytest.mark.parametrize("name", [*CASES, "kept layers", "kept convolutions"])
def test_a_step_never_waits_for_the_device(name, tmp_path, in_process):
    frozen = {"kept layers": "all", "kept convolutions": "cnn"}.get(name)
    case = on_waveforms(freeze=frozen) if frozen else CASES[name]
    kept = tmp_path if frozen else None
    assert in_process(waits_of_two_steps, case, kept) == {"steps": [], "log": ["_fetch"]}


def test_an_optimizer_that_is_not_fused_waits_to_learn_whether_the_gradient_is_finite(in_process):
    found = in_process(waits_of_two_steps, CASES["whisper"], None, False)
    assert found == {"steps": ["_update", "_update"], "log": ["_fetch"]}


def waits_of_two_steps(
    changes: dict[str, Any], kept: Path | None = None, fused: bool = True
) -> dict[str, list[str]]:
    """In which functions two steps of two batches each wait for the device, and logging does."""
    model, batch = on_the_device(changes, kept, recurrent=OfOneFrame)
    with Elsewhere():
        model.to(NAME)
        model.begin_epoch(1)
        if kept is not None:
            model(**to_device(batch, model))  # which has to be written
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, fused=fused, foreach=False)
        statistics = LateStatistics(SubReporter("train", 1, 0))
        waits.clear()
        train_pass(training_of(model, optimizer), Batches([(["a"], batch)] * 4, ""), statistics)
        steps = waits.copy()
        waits.clear()
        reporter = Statistics.flush(statistics)
        assert len(reporter.stats["loss_pr"]) == 4
        return {"steps": steps, "log": waits.copy()}


def training_of(model: SERModel, optimizer: torch.optim.Optimizer) -> Training:
    """A training that updates after two batches."""
    options = SimpleNamespace(
        accum_grad=2, log_interval=9, grad_clip=5.0, grad_clip_type=2.0, grad_noise=False
    )
    return Training(model, model, [optimizer], [None], None, options, False)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_whose_gradient_is_not_finite_is_left_out_and_told(fused, caplog):
    model, batch = on_the_device(CASES["whisper"], None)
    model.begin_epoch(1)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, fused=fused, foreach=False)
    before = [p.detach().clone() for p in trained]
    batches = [(["a"], {**batch, "speech": batch["speech"] * factor}) for factor in (1, 1e30)]
    reporter = SubReporter("train", 1, 0)
    train_pass(training_of(model, optimizer), Batches(batches, ""), Statistics(reporter))
    assert all(torch.equal(p, was) for p, was in zip(trained, before, strict=True))
    assert "The grad norm is nan. The model was not updated." in caplog.text
    assert "grad_norm" not in reporter.stats
    train_pass(training_of(model, optimizer), Batches(batches[:1], ""), Statistics(reporter))
    assert not all(torch.equal(p, was) for p, was in zip(trained, before, strict=True))
    assert {float(state["step"]) for state in optimizer.state.values()} == {1.0}


class LateStatistics(Statistics):
    """Those that are fetched when the test does it."""

    def flush(self):
        return self.reporter


def test_counts_of_steps_are_put_on_the_cpu_unless_the_step_is_fused(in_process):
    assert in_process(resumed_counts) == ["cpu", NAME]


def resumed_counts() -> list[str]:
    """Devices of the step counts of a plain and a fused Adam, loaded to the parameter's device."""
    found = []
    with Elsewhere():
        for fused in (False, True):
            parameter = torch.nn.Parameter(torch.zeros(2).to(NAME))
            optimizer = torch.optim.Adam([parameter])
            optimizer.param_groups[0]["fused"] = fused
            optimizer.state[parameter]["step"] = torch.tensor(3.0).to(NAME)
            place_step_counts(optimizer)
            found.append(optimizer.state[parameter]["step"].device.type)
    return found


def test_a_gpu_that_computes_nothing_is_left_alone(monkeypatch, capsys):
    """One that this build of torch has no kernels for, or no CUDA at all as here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == "cpu"
    assert "warning: the GPU does not compute" in capsys.readouterr().err
    with pytest.raises(UserError, match="--device cuda: .*; use cpu, or auto"):
        find_device("cuda")


@pytest.mark.parametrize("freeze", ["all", "cnn"])
def test_what_is_kept_of_a_frozen_part_serves_both_devices(freeze, tmp_path, in_process):
    there, here = in_process(step_and_scores, on_waveforms(freeze=freeze), tmp_path)
    assert torch.allclose(there, here, atol=1e-5)
    assert list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("name", ["wav2vec2-base-like", "wavlm", "whisper"])
def test_adapters_train_and_score_on_another_device_as_on_the_cpu(name, in_process):
    pytest.importorskip("peft", reason="peft (requirements-apps.txt) is missing")
    case = on_waveforms(name, freeze=0, lora={"r": 2, "targets": ["q_proj", "k_proj"]})
    there, here = in_process(step_and_scores, case)
    assert torch.allclose(there, here, atol=1e-5)


def test_the_device_tells_tensors_of_the_cpu_from_its_own(in_process):
    with pytest.raises(RuntimeError, match="aten::add: tensors of two devices"):
        in_process(add_here_and_there)


@pytest.mark.parametrize("name", ["item", "list", "copy back", "copy there", "mask", "none"])
def test_the_device_counts_what_it_is_waited_for(name, in_process):
    assert in_process(waits_of, name) == (0 if name == "none" else 1)


def waits_of(name: str) -> int:
    there, mask = torch.ones(3), torch.tensor([True, False, True])
    with Elsewhere():
        there, mask = there.to(NAME), mask.to(NAME)
        waits.clear()
        {
            "item": lambda: there.sum().item(),
            "list": lambda: there.tolist(),
            "copy back": lambda: there.to("cpu"),
            "copy there": lambda: torch.ones(3).to(NAME),
            "mask": lambda: there[mask],
            "none": lambda: (there * torch.ones(3).to(NAME, non_blocking=True)).sum(),
        }[name]()
        return len(waits)


def add_here_and_there() -> None:
    with Elsewhere():
        torch.ones(3, device=NAME) + torch.ones(3)
