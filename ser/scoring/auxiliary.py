"""auxiliary.tsv: predictions of the label and value heads for a fold's test utterances.

Tab separated, with the header ``utt_id head ref hyp p_hyp``: a row for every test utterance and
head, with the label or number in the head's table, the head's prediction, and the probability of a
predicted label. ``ref`` is empty if unknown: the table lacks the utterance, or no training
utterance of the fold had that label (a test speaker). Such a row is counted, but not scored.

Value heads are scored by CCC (ser/models/concordance.py) over all these utterances and over those
of each speaker, and by the root mean squared error in the table's own units.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ser.data.folds import caveat
from ser.errors import UserError
from ser.files import atomic_write
from ser.models.concordance import concordance
from ser.scoring.predictions import Prediction, read_rows
from ser.scoring.uncertainty import TINY, interval_of_sums
from ser.training.experiment import Experiment

FILE_NAME = "auxiliary.tsv"
COLUMNS = ("utt_id", "head", "ref", "hyp", "p_hyp")


@dataclass(frozen=True)
class LabelDecision:
    """A row; ``ref`` is empty if unknown, and numbers have no ``p_hyp``."""

    utt_id: str
    head: str
    ref: str
    hyp: str
    p_hyp: float | None = None


def write_label_decisions(path: Path | str, rows: Iterable[LabelDecision]) -> None:
    """Write ``rows`` to ``path`` atomically."""
    with atomic_write(path) as stream:
        print(*COLUMNS, sep="\t", file=stream)
        for r in rows:
            p_hyp = "" if r.p_hyp is None else f"{r.p_hyp:.6f}"
            print(r.utt_id, r.head, r.ref, r.hyp, p_hyp, sep="\t", file=stream)


def read_label_decisions(
    path: Path | str, utterances: Iterable[str], heads: Collection[str]
) -> list[LabelDecision]:
    """Read back and check a fold's decisions.

    Raises:
        UserError: no such file, a malformed row, or not exactly one row for each of
            ``utterances`` and ``heads``.
    """
    path = Path(path)
    cure = "infer this fold again: remove predictions.tsv beside it, then ./run.sh --stage 5"
    lines = read_rows(path, cure)
    rows: dict[tuple[str, str], LabelDecision] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        try:
            if number == 1:
                if tuple(fields) != COLUMNS:
                    raise ValueError(f"expected the columns {' '.join(COLUMNS)}")
                continue
            utt_id, head, ref, hyp, p_hyp = fields
            row = LabelDecision(utt_id, head, ref, hyp, float(p_hyp) if p_hyp else None)
            if (utt_id, head) in rows:
                raise ValueError(f"{utt_id} and {head} stand here a second time")
        except ValueError as err:
            raise UserError(f"{path}:{number}: {err}; {cure}") from None
        rows[utt_id, head] = row
    odd = sorted(rows.keys() ^ {(utt_id, head) for utt_id in utterances for head in heads})
    if odd:
        raise UserError(
            f"{path}: {len(odd)} rows are missing or of other test utterances or heads, the first "
            f"of {' and '.join(odd[0])}; {cure}"
        )
    return list(rows.values())


def score_labels(rows: Sequence[LabelDecision]) -> dict[str, Any]:
    """Score a label head: ``accuracy`` over the ``n`` known labels, and the ``unknown`` count.

    The accuracy is None if no label is known.
    """
    known = [row.hyp == row.ref for row in rows if row.ref]
    accuracy = sum(known) / len(known) if known else None
    return {"accuracy": accuracy, "n": len(known), "unknown": len(rows) - len(known)}


def score_values(
    rows: Sequence[LabelDecision], utt2spk: Mapping[str, str], known: bool = False
) -> dict[str, Any]:
    """Score a value head for scores.json; no interval for ``known`` speakers."""
    told = [row for row in rows if row.ref]
    names, speaker = np.unique([utt2spk[row.utt_id] for row in told], return_inverse=True)
    x, y = (np.array([float(getattr(row, key)) for row in told]) for key in ("ref", "hyp"))
    sums = np.zeros((len(names), 6))
    np.add.at(sums, speaker, np.stack([np.ones(len(told)), x, y, x * x, y * y, x * y], axis=1))
    own = {str(name): _defined(value) for name, value in zip(names, ccc(sums), strict=True)}
    return {
        "ccc": _defined(ccc(sums.sum(axis=0))),
        "ccc_ci": None if known else interval_of_sums(sums, ccc),
        "rmse": float(np.sqrt(np.mean((x - y) ** 2))) if told else None,
        "n": len(told),
        "unknown": len(rows) - len(told),
        "per_speaker": own,
    }


def ccc(sums: np.ndarray) -> np.ndarray:
    """(..., 6) sums of 1, x, y, x x, y y and x y -> CCC (...); NaN if all values are equal."""
    with np.errstate(invalid="ignore", divide="ignore"):
        above, below = concordance(*np.moveaxis(sums, -1, 0))
        return np.where(below > TINY, np.clip(above / below, -1, 1), np.nan)


def _defined(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def score_auxiliary(
    experiment: Experiment, folds: Mapping[str, Sequence[Prediction]], utt2spk: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Score each head over the test utterances of all ``folds``.

    Raises:
        UserError: auxiliary.tsv does not match these utterances and heads.
    """
    heads = experiment.label_tables
    rows: list[LabelDecision] = []
    if heads:
        for fold, predictions in folds.items():
            path = experiment.exp_dir / fold / FILE_NAME
            rows += read_label_decisions(path, (p.utt_id for p in predictions), heads)
    known = bool(caveat(str(experiment.run["protocol"])))
    scores = {}
    for head, targets in heads.items():
        own = [row for row in rows if row.head == head]
        words = targets.limits is None
        scores[head] = score_labels(own) if words else score_values(own, utt2spk, known)
    return scores
