"""Time a few batches of a training in a temporary folder; only figures and a log are kept.

Trainings and phases of trainings are of the same kind, with the same cost, if they differ only in
learning rates, loss weights and the like.
"""

import argparse
import contextlib
import gc
import hashlib
import json
import math
import random
import resource
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ser.data.audio import SAMPLE_RATE
from ser.data.tables import read_lines, read_table
from ser.training.experiment import HISTORY, LAYER_CACHE

VALID_COST = 1 / 3  # of a training pass: forward without backward
STEPS = 20  # batches of the timed epoch, or a few more to complete the last update
# Arguments that do not affect the cost; nor does the weight of an auxiliary head.
FREE = (
    *("output_dir", "run_label", "config", "seed", "max_epoch", "patience", "stated", "paper"),
    *("sweep", "optim_conf", "lr_conf", "scheduler_conf", "heads_first_conf", "warm_start"),
    *("best_model_criterion", "keep_nbest_models", "grad_clip", "model_conf", "log_interval"),
)


@dataclass(frozen=True)
class Kind:
    """Trainings of equal cost."""

    label: str
    args: argparse.Namespace  # of one of them
    protocol: str

    @property
    def key(self) -> str:
        """Hash that is equal for equal kinds."""
        settings = {k: v for k, v in vars(self.args).items() if k not in FREE}
        settings["amp_dtype"] = self.args.model_conf.get("amp_dtype")
        heads = self.args.aux_conf.items()
        settings["aux_conf"] = {n: {**head, "weight": None} for n, head in heads}
        text = json.dumps(settings, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def kept_as(self) -> str:
        """Key that is equal if the outputs of frozen layers are shared."""
        return json.dumps(self.args.frontend_conf, sort_keys=True, default=str)


def time_training(kind: Kind, directory: Path, dump_dir: Path) -> dict[str, float]:
    """Train two short epochs of the first fold in a temporary folder, and time the second.

    Returns:
        Per second of audio, ``rate`` and ``first`` (seconds of an epoch and of the first one, which
        computes the outputs of frozen layers), ``forward`` (seconds of inference) and ``kept``
        (bytes of these outputs); and in bytes ``memory`` (of the process, or of the GPU),
        ``model`` and ``checkpoint``.
    """
    from ser.cluster.logged import fold_log

    with TemporaryDirectory(prefix="timing.", dir=directory) as name:
        scratch = Path(name)
        args, audio = short_training(kind, dump_dir, scratch)
        _forget_peak()
        with fold_log(directory / "timing.log", sys.argv):
            history = train_twice(args)
        memory = _peak(args.ngpu)
        first, second = (entry["train"]["seconds"] / audio for entry in history)
        kept = sum(path.stat().st_size for path in (scratch / LAYER_CACHE).rglob("*.npy")) / audio
        forward = history[1].get("valid", {}).get("seconds", 0.0) / audio
        if kept:  # inference of other utterances has no cache
            forward = max(first - second, forward)
        sizes = {path.name: path.stat().st_size for path in Path(args.output_dir).glob("*.pth")}
        checkpoint = sizes.pop("checkpoint.pth", 0)
        return {
            "rate": second,
            "first": first,
            "forward": forward or VALID_COST * second,
            "kept": kept,
            "memory": memory,
            "model": max(sizes.values(), default=0),
            "checkpoint": checkpoint,
        }


def short_training(kind: Kind, dump_dir: Path, scratch: Path) -> tuple[argparse.Namespace, float]:
    """Arguments of a training of ``STEPS`` batches and two epochs, and its seconds of audio."""
    from ser.data.labels import fold_labels
    from ser.models.heads import label_tables
    from ser.training.folds import fold_arguments

    args = argparse.Namespace(**vars(kind.args))
    args.max_epoch, args.patience, args.heads_first_conf = 2, None, {}
    args.keep_checkpoints, args.warm_start = True, None
    real = dump_dir / "folds" / kind.protocol
    fold = read_lines(real / "folds")[0]
    shutil.copytree(real / fold, scratch / "folds" / fold)
    shapes = read_lines(real / fold / "train.shape")
    sample = sorted(random.Random(0).sample(shapes, min(len(shapes), sample_size(args, shapes))))
    for part in ("train", "valid"):
        if (real / fold / part).is_file():
            text = "".join(f"{line}\n" for line in sample)
            (scratch / "folds" / fold / f"{part}.shape").write_text(text, encoding="utf-8")
    args = fold_arguments(args, dump_dir, scratch / "folds", fold, scratch / "exp" / fold)
    args.aux_labels = fold_labels(label_tables(args.aux_conf), dump_dir, real, [fold])[fold]
    args.layer_cache = str(scratch / LAYER_CACHE)
    samples = read_table(dump_dir / "utt2num_samples")
    return args, sum(int(samples[line.split()[0]]) for line in sample) / SAMPLE_RATE


def sample_size(args: argparse.Namespace, shapes: Sequence[str]) -> int:
    """Number of utterances in ``STEPS`` batches, or a few more."""
    size = args.batch_size
    if args.batch_type in ("numel", "length"):  # of batch_bins samples or values
        lengths = [math.prod(map(int, line.split()[1].split(","))) for line in shapes]
        size = max(1, args.batch_bins * len(lengths) // sum(lengths))
    return math.ceil(STEPS / args.accum_grad) * args.accum_grad * size


def train_twice(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run two epochs, or two linear fits, and return the history."""
    from ser.training.linear_fit import fit_fold
    from ser.training.task import GRADIENT, SERTask

    if args.fit != GRADIENT:
        Path(args.output_dir).mkdir(parents=True)
        return [fit_fold(args)[0] for _ in range(2)]
    SERTask.main(args=args)
    return json.loads((Path(args.output_dir) / HISTORY).read_text(encoding="utf-8"))


def _forget_peak() -> None:
    """Reset the peak that ``_peak`` reads, if the kernel supports it."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak(ngpu: int) -> int:
    """Peak memory in bytes: of the GPU, or of this process."""
    if ngpu:
        import torch

        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
