"""Validation UA of a fold's tested model, which choices may depend on."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ser.scoring import decisions
from ser.scoring.metrics import confusion_matrix, unweighted_accuracy


def valid_ua(fold_dir: Path, labels: Sequence[str], best_epoch: int | None) -> float | None:
    """UA on the validation utterances of a fold, as a fraction.

    Computed from the tested model's own decisions if stage 5 recorded them (decisions.py), else
    taken from the chosen epoch in history.json; None without validation speakers.
    """
    evidence = fold_dir / decisions.FILE_NAME
    if evidence.is_file():
        return _decided(evidence, labels)
    try:
        history = json.loads((fold_dir / "history.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    epochs = {entry["epoch"]: entry.get("valid", {}).get("UA") for entry in history}
    return epochs.get(best_epoch)


def _decided(path: Path, labels: Sequence[str]) -> float | None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    rows = [row for row in rows if row["split"] == "valid"]
    hyps = [labels[int(np.argmax(row["head"]))] for row in rows]
    counts = confusion_matrix([row["ref"] for row in rows], hyps, labels)
    return unweighted_accuracy(counts) if rows else None
