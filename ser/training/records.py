"""run.json of a fold: the model to test, and the cost of its training."""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ser.errors import UserError
from ser.files import atomic_write
from ser.stage import file_digest
from ser.training.experiment import HISTORY, NETWORK
from ser.training.heads_first import phases
from ser.training.task import GRADIENT
from ser.training.trainer import PARAMETERS

FOLD_FILE = "run.json"


@dataclass(frozen=True)
class FoldRecord:
    """Contents of run.json."""

    inference_model: str  # file name in the same folder
    model_sha256: str  # of that file
    epochs: int
    best_epoch: int  # epoch of the model
    train_seconds: float  # including earlier phases
    phases_before: dict[str, int]  # name -> epochs
    parameters: dict[str, int]  # total, trained


def write_record(args: argparse.Namespace) -> None:
    """Write run.json of the training with ``args``, from its history.

    Raises:
        OSError, ValueError: the history, or the record of an earlier phase, cannot be read.
    """
    output_dir = Path(args.output_dir)
    history = read_history(output_dir)
    phase, key, mode = args.best_model_criterion[0]
    if args.has_valid and args.fit == GRADIENT:
        chosen = (min if mode == "min" else max)(history, key=lambda entry: entry[phase][key])
        model = f"{phase}.{key}.ave.pth"
    else:
        chosen, model = history[-1], "latest.pth"
    before = {Path(p.output_dir).name: read_record(Path(p.output_dir)) for p in phases(args)}
    seconds = sum(_seconds(entry) for entry in history)
    seconds += sum(record.train_seconds for record in before.values())
    record = FoldRecord(
        inference_model=model,
        model_sha256=file_digest(output_dir / model),
        epochs=len(history),
        best_epoch=chosen["epoch"],
        train_seconds=round(seconds, 1),
        phases_before={name: record.epochs for name, record in before.items()},
        parameters=json.loads((output_dir / PARAMETERS).read_text(encoding="utf-8")),
    )
    with atomic_write(output_dir / FOLD_FILE) as stream:
        json.dump(asdict(record), stream, indent=1)


def read_record(output_dir: Path) -> FoldRecord:
    """Read run.json of a fold; ValueError or TypeError if it is invalid."""
    return FoldRecord(**json.loads((output_dir / FOLD_FILE).read_text(encoding="utf-8")))


def read_history(output_dir: Path) -> list[dict[str, Any]]:
    """Read the statistics of a fold's epochs, by phase."""
    return json.loads((output_dir / HISTORY).read_text(encoding="utf-8"))


def names_model(output_dir: Path) -> bool:
    """Whether run.json names an existing model beside its config.yaml, as stage 5 requires."""
    try:
        names = (read_record(output_dir).inference_model, NETWORK)
        return all((output_dir / name).is_file() for name in names)
    except (OSError, ValueError, TypeError):
        return False


def named_again(args: argparse.Namespace) -> bool:
    """Rewrite a finished fold's lost run.json; False if its model or history is lost too."""
    try:
        write_record(args)
    except (OSError, ValueError):
        return False
    return names_model(Path(args.output_dir))


def check_end(args: argparse.Namespace) -> None:
    """Raise UserError if ESPnet gave up before the last epoch."""
    history = read_history(Path(args.output_dir))
    stopped = len(history) < args.max_epoch and args.patience is None
    if stopped or not math.isfinite(history[-1]["train"]["loss"]):
        raise UserError(
            f"{args.output_dir}: stopped after epoch {len(history)} of {args.max_epoch}, since no "
            "step had a finite gradient; lower the learning rate (-- --optim_conf lr=...) or look "
            "for the cause in the losses above"
        )


def discard_checkpoints(output_dir: Path) -> None:
    """Keep only the model that run.json names of a finished fold: ten folds fill a disk."""
    used = (output_dir / read_record(output_dir).inference_model).resolve()
    models = [*output_dir.glob("*.pth"), *output_dir.glob("*/*.pth")]
    for path in models:
        if not path.is_symlink() and path.resolve() != used:
            path.unlink()
    for path in models:
        if path.is_symlink() and not path.exists():
            path.unlink()


def _seconds(entry: dict[str, Any]) -> float:
    return sum(entry[phase]["seconds"] for phase in ("train", "valid") if phase in entry)


def summary(output_dir: Path) -> str:
    """Summarise a finished fold in one line."""
    record, history = read_record(output_dir), read_history(output_dir)
    entry = next(e for e in history if e["epoch"] == record.best_epoch)
    text = f"{record.epochs} epochs in {record.train_seconds:.0f} s"
    if "C" in entry["train"]:
        split = "valid" if "valid" in entry else "train"
        return (
            f"fitted in {record.train_seconds:.1f} s, C {entry['train']['C']:g}, "
            f"{split} UA {entry[split]['UA']:.1%}"
        )
    if "valid" in entry:
        return f"{text}, best valid UA {entry['valid']['UA']:.1%} at epoch {entry['epoch']}"
    return f"{text}, last train UA {entry['train']['UA']:.1%}"
