"""auxiliary.tsv: what the heads of labels predict for a fold's test utterances, and its score.

Tab separated, with the header ``utt_id head ref hyp p_hyp``: a row for every test utterance and
head of labels, with the value in the head's table, the decided value and its probability. ``ref``
is empty where the value is unknown: the table lacks the utterance, or no training utterance of
the fold had that value (a test speaker). Such a row is counted, but cannot be right or wrong.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ser.errors import UserError
from ser.files import atomic_write
from ser.scoring.predictions import Prediction, read_rows
from ser.training.experiment import Experiment

FILE_NAME = "auxiliary.tsv"
COLUMNS = ("utt_id", "head", "ref", "hyp", "p_hyp")


@dataclass(frozen=True)
class LabelDecision:
    """One row; ``ref`` is empty for an unknown value."""

    utt_id: str
    head: str
    ref: str
    hyp: str
    p_hyp: float


def write_label_decisions(path: Path | str, rows: Iterable[LabelDecision]) -> None:
    """Write ``rows`` to ``path``, whole or not at all."""
    with atomic_write(path) as stream:
        print(*COLUMNS, sep="\t", file=stream)
        for r in rows:
            print(r.utt_id, r.head, r.ref, r.hyp, f"{r.p_hyp:.6f}", sep="\t", file=stream)


def read_label_decisions(
    path: Path | str, utterances: Iterable[str], heads: Collection[str]
) -> list[LabelDecision]:
    """Read back and check a fold's decisions.

    Raises:
        UserError: no such file, a malformed row, or rows that are not one for each of
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
            row = LabelDecision(utt_id, head, ref, hyp, float(p_hyp))
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


def score_labels(rows: Iterable[LabelDecision], heads: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Of each head its ``accuracy`` over the ``n`` known values, and how many are ``unknown``.

    The accuracy is None where no value is known.
    """
    found: dict[str, list[LabelDecision]] = {head: [] for head in heads}
    for row in rows:
        found[row.head].append(row)
    scores = {}
    for head, said in found.items():
        known = [row for row in said if row.ref]
        right = sum(row.hyp == row.ref for row in known)
        scores[head] = {
            "accuracy": right / len(known) if known else None,
            "n": len(known),
            "unknown": len(said) - len(known),
        }
    return scores


def score_auxiliary(
    experiment: Experiment, folds: Mapping[str, Sequence[Prediction]]
) -> dict[str, dict[str, Any]]:
    """``score_labels`` over the test utterances of all ``folds``; empty without such heads.

    Raises:
        UserError: auxiliary.tsv is not of these utterances and heads.
    """
    heads = experiment.label_tables
    rows: list[LabelDecision] = []
    if heads:
        for fold, predictions in folds.items():
            path = experiment.exp_dir / fold / FILE_NAME
            rows += read_label_decisions(path, (p.utt_id for p in predictions), heads)
    return score_labels(rows, heads)
