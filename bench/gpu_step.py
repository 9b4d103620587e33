"""One variant of training S1 on a GPU, measured by bench.gpu in its own process.

ESPnet is not imported: the model comes from ser/models, the training loop from stage 4
(ser/training/passes.py). ESPnet's reporter is replaced by a stub, and so are the libraries that
read audio files if they are missing.
"""

import contextlib
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

UTTERANCES = 320  # per round
ROUNDS = 7  # at most
SPARE = 3.0  # seconds of a variant's share reserved for its end
TINY = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 64, "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16},
    "num_conv_pos_embedding_groups": 4,
}
QUICK = SimpleNamespace(utterances=64, scale=0.1, round=16, rounds=2, least=1.0)
STEP = {"batch_size": 16, "accum_grad": 1}  # the paper's, in one batch


@dataclass(frozen=True)
class Variant:
    """A training variant; compiled layers and explicit attention are not options of the recipe."""

    options: str  # after `./run.sh --ngpu 1 --`
    changes: dict[str, Any] = field(default_factory=dict)  # to the YAML
    seconds: float = 0.0  # of padded audio in a batch; 0: batch_size utterances
    compiled: bool = False
    written_out: bool = False  # explicit attention, without a fused kernel


def by_seconds(seconds: int, more: str = "", **options: Any) -> Variant:
    """Variant with batches of up to ``seconds`` of padded audio, one update each."""
    cut = f"--batch_type numel --batch_bins {16000 * seconds} --length_jitter 0 --accum_grad 1"
    changes = {**STEP, **options.pop("changes", {})}
    return Variant(f"{cut}{more}", changes, seconds=seconds, **options)


VARIANTS = {  # in the order in which they are measured
    "4 x 4 utterances": Variant("(none)"),
    "16 utterances": Variant("--batch_size 16 --accum_grad 1", STEP),
    "72 s": by_seconds(72),
    "288 s": by_seconds(288),
    "72 s, torch.compile": by_seconds(
        72, changes={"frontend_conf": {"fast": False}}, compiled=True
    ),
    "72 s, gradient checkpointing": by_seconds(
        72,
        " --frontend_conf gradient_checkpointing=true",
        changes={"frontend_conf": {"gradient_checkpointing": True}},
    ),
    "72 s, attention written out": by_seconds(72, written_out=True),
    "16 utterances at random": Variant(
        "--batch_type unsorted --length_jitter 0 --batch_size 16 --accum_grad 1",
        {**STEP, "batch_type": "unsorted"},
    ),
    "72 s, convolutions frozen": by_seconds(
        72, " --frontend_conf freeze=cnn", changes={"frontend_conf": {"freeze": "cnn"}}
    ),
    "72 s, float32": by_seconds(
        72, " --model_conf amp_dtype=float32", changes={"model_conf": {"amp_dtype": "float32"}}
    ),
}


def measure(name: str, device: str, quick: bool, end: float) -> dict[str, Any]:
    """Measure rounds of one variant until the wall-clock time ``end``.

    Returns:
        ``rounds`` of audio (s), seconds and flops; ``memory`` (bytes), ``waits`` (host-device
        synchronisations per update), ``where`` these are.
    """
    import torch

    import_without_audio()
    from bench.flops import training_flops
    from bench.system import make_batch
    from bench.workload import representative
    from ser.training.passes import Batches, Statistics, train_pass

    variant = VARIANTS[name]
    torch.backends.cudnn.deterministic = True  # as ESPnet sets it
    training, epoch = make_training(variant, device, quick)
    utterances = QUICK.round if quick else UTTERANCES
    count = max(1, round(utterances * len(epoch) / sum(map(len, epoch))))
    shape = training.model.frontend.encoder.config
    frozen = ("convolutions",) if training.model.frontend.freeze == "cnn" else ()

    def train(number: int, count: int, statistics: Callable = Statistics) -> dict[str, float]:
        chosen = representative(epoch, min(count, len(epoch)), number)
        made = [make_batch(batch, "cpu", i) for i, batch in enumerate(chosen)]
        if device != "cpu":  # as in ESPnet's data loader
            made = [{key: value.pin_memory() for key, value in batch.items()} for batch in made]
        work = Batches([(None, batch) for batch in made], name)
        taken = timed(lambda: train_pass(training, work, statistics(Unreported())), device)
        return {
            "audio": float(sum(map(sum, chosen))),
            "seconds": taken,
            "flops": float(sum(training_flops(s, shape, frozen) for b in chosen for s in b)),
        }

    with attention(variant):
        train(0, max(1, count // 5))  # a warm-up
        waits = host_waits(lambda late: train(0, 4 * training.options.accum_grad, late), device)
        rounds: list[dict[str, float]] = []
        for number in range(1, 1 + (QUICK.rounds if quick else ROUNDS)):
            begin = time.time()
            rounds.append(train(number, count))
            if time.time() + (time.time() - begin) > end - SPARE:
                break
    return {
        "rounds": rounds,
        "memory": peak_memory(device),
        "waits": None if waits is None else len(waits) / 4,
        "where": sorted(set(waits or ())),
    }


def make_training(variant: Variant, device: str, quick: bool) -> tuple[Any, list]:
    """Make the training objects of stage 4, and all batches of an epoch."""
    import numpy as np

    from bench.recipe import jittered_batches, make_model, make_optimizer, read_system
    from bench.system import MODEL
    from bench.workload import batches_by_seconds, durations, random_batches
    from ser.training.passes import Training

    config = read_system(variant.changes)
    model = make_model(config, {**MODEL, **(TINY if quick else {})}).to(device)
    model.train()
    model.begin_epoch(1)
    if variant.compiled:
        for layer in model.frontend.stages.layers:
            layer.compile(dynamic=True)
    seconds = durations()
    if quick:
        seconds = np.maximum(QUICK.scale * seconds[: QUICK.utterances], 0.2)
    if variant.seconds:
        epoch = batches_by_seconds(seconds, variant.seconds * (QUICK.scale if quick else 1))
    elif config["batch_type"] == "unsorted":
        epoch = random_batches(seconds, config["batch_size"])
    else:
        epoch = jittered_batches(config["batch_size"], config["length_jitter"], seconds)
    options = SimpleNamespace(
        accum_grad=config["accum_grad"],
        log_interval=config["log_interval"],
        grad_clip=config["grad_clip"],
        grad_clip_type=2.0,
        grad_noise=False,
        use_wandb=False,
    )
    optimizer = make_optimizer(config, model)
    return Training(model, model, [optimizer], [None], None, options, False), epoch


@contextlib.contextmanager
def attention(variant: Variant) -> Iterator[None]:
    """Use torch's choice of attention kernel, or explicit attention."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH) if variant.written_out else contextlib.nullcontext():
        yield


def import_without_audio() -> None:
    """Import ser.data.audio with missing audio libraries mocked, since no audio is read here."""
    missing = [n for n in ("soundfile", "soxr") if importlib.util.find_spec(n) is None]
    sys.modules.update({name: MagicMock() for name in missing})
    importlib.import_module("ser.data.audio")
    for name in missing:
        del sys.modules[name]


class Unreported:
    """Stub for ESPnet's reporter."""

    def register(self, stats: dict[str, Any], weight: Any = None) -> None:
        pass

    def next(self) -> None:
        pass

    def log_message(self, start: int) -> str:
        return ""


def host_waits(train: Callable[[Callable], Any], device: str) -> list[str] | None:
    """Find host-device synchronisations in some steps, except for logging; None on a CPU."""
    import torch

    from ser.training.passes import Statistics

    class Late(Statistics):
        """Statistics whose transfers for the log do not count."""

        def flush(self) -> Any:
            torch.cuda.set_sync_debug_mode("default")
            return super().flush()

    if device == "cpu":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def begin(reporter: Any) -> Late:
            torch.cuda.set_sync_debug_mode("warn")
            return Late(reporter)

        train(begin)
    return [
        f"{Path(told.filename).name}:{told.lineno}"
        for told in caught
        if "synchronizing CUDA operation" in str(told.message)
    ]


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds between two events on the device, or wall-clock seconds on a CPU."""
    if device == "cpu":
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin
    import torch

    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    torch.cuda.synchronize()
    events[0].record()
    work()
    events[1].record()
    events[1].synchronize()
    return events[0].elapsed_time(events[1]) / 1000


def peak_memory(device: str) -> int:
    """Peak bytes allocated by torch on the device, or peak resident memory of this process."""
    if device == "cpu":
        from bench.worker import peak_memory

        return peak_memory()
    import torch

    return torch.cuda.max_memory_reserved()
