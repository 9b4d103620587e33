"""predictions.tsv: a model's predictions for every utterance of one fold's test set.

Tab separated, with the header ``utt_id ref hyp p_<emotion>... units orig_id``: the reference and
the predicted emotion, one probability per emotion in the order of the corpus's ``emotions`` file,
the greedily decoded units of the auxiliary CTC head, separated by blanks (empty if the model has no
such head or decoded nothing), and the corpus's own id.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ser.errors import UserError, some
from ser.files import atomic_write
from ser.training.experiment import PREDICTIONS

FILE_NAME = PREDICTIONS
SUM_TOLERANCE = 1e-4  # far above the rounding error of six decimals
TIE = 2e-6  # rounding may put the second of two equal probabilities first
ERROR_COLUMNS = ["utt_id", "ref", "hyp", "confidence", "p_ref", "wav", "orig_id"]


@dataclass(frozen=True)
class Prediction:
    """A row: ``probs`` in the order of the emotions, ``units`` as decoded."""

    utt_id: str
    ref: str
    hyp: str
    probs: tuple[float, ...]
    units: tuple[str, ...] = ()


def header(labels: Sequence[str]) -> list[str]:
    """The column names of a predictions.tsv over these emotions."""
    return ["utt_id", "ref", "hyp", *(f"p_{label}" for label in labels), "units", "orig_id"]


def write_predictions(
    path: Path | str,
    labels: Sequence[str],
    predictions: Iterable[Prediction],
    own_ids: Mapping[str, str] | None = None,
) -> None:
    """Write ``predictions`` to ``path`` atomically.

    ``own_ids`` is utt2orig, the corpus's own ids; None if they are the same.
    """
    with atomic_write(path) as stream:
        print(*header(labels), sep="\t", file=stream)
        for p in predictions:
            probs = (f"{value:.6f}" for value in p.probs)
            own = own_ids[p.utt_id] if own_ids else p.utt_id
            print(p.utt_id, p.ref, p.hyp, *probs, " ".join(p.units), own, sep="\t", file=stream)


def confidence(prediction: Prediction, labels: Sequence[str]) -> float:
    """Probability of the predicted emotion."""
    return prediction.probs[labels.index(prediction.hyp)]


def write_errors(
    path: Path | str,
    labels: Sequence[str],
    predictions: Iterable[Prediction],
    wavs: Mapping[str, str],
    own_ids: Mapping[str, str],
) -> None:
    """Write the wrong decisions, most confident first, each with its audio file.

    Tab separated, ``ERROR_COLUMNS``: ``p_ref`` is the probability of the reference, ``orig_id``
    the corpus's own id.
    """
    wrong = [p for p in predictions if p.hyp != p.ref]
    wrong.sort(key=lambda p: (-confidence(p, labels), p.utt_id))
    with atomic_write(path) as stream:
        print(*ERROR_COLUMNS, sep="\t", file=stream)
        for p in wrong:
            sure, missed = confidence(p, labels), p.probs[labels.index(p.ref)]
            cells = (p.utt_id, p.ref, p.hyp, f"{sure:.3f}", f"{missed:.3f}", wavs[p.utt_id])
            print(*cells, own_ids[p.utt_id], sep="\t", file=stream)


def read_rows(path: Path, cure: str) -> list[str]:
    """Read the lines of a fold's table; UserError with ``cure`` if missing or not UTF-8."""
    try:
        # Only LF ends a row: str.splitlines would also cut at U+2028 inside a unit.
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {cure}") from None
    except UnicodeDecodeError as err:
        raise UserError(f"{path}: not UTF-8 text ({err.reason}); {cure}") from None


def read_predictions(
    path: Path | str, labels: Sequence[str], expected: Mapping[str, str]
) -> list[Prediction]:
    """Read and check a fold's predictions.

    Args:
        path: The predictions.tsv.
        labels: The corpus's emotions, in order.
        expected: The fold's test utterances and their reference emotions.

    Returns:
        One ``Prediction`` per expected utterance, in the order of ``expected``.

    Raises:
        UserError: naming the file and its rows, if an utterance is missing, repeated or not
            of this fold, an emotion is unknown or differs from the corpus's, a probability is
            not a number, the probabilities do not sum to 1, or the decision is not the most
            probable emotion. The denominator of a score never shrinks silently.
    """
    path = Path(path)
    cure = "infer this fold again: remove the file, then ./run.sh --stage 5 --stop-stage 5"
    lines = read_rows(path, cure)
    columns = header(labels)
    if lines[0].split("\t") != columns:
        found = " ".join(lines[0].split("\t")) or "an empty line"
        raise UserError(
            f"{path}:1: expected the columns {' '.join(columns)}; found {found}; {cure}"
        )

    problems: dict[str, list[str]] = {}
    rows: dict[str, Prediction] = {}
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("\t")
        if len(fields) != len(columns):
            what = f"line {number} ({len(fields)} columns, expected {len(columns)})"
            problems.setdefault("malformed rows", []).append(what)
            continue
        row, faults = _parse_row(fields, labels, expected)
        if row.utt_id in first_line:
            faults.append(("repeated utterances", f"first in line {first_line[row.utt_id]}"))
        first_line.setdefault(row.utt_id, number)
        for kind, detail in faults:
            where = f"line {number} {row.utt_id}" + (f" ({detail})" if detail else "")
            problems.setdefault(kind, []).append(where)
        rows[row.utt_id] = row
    missing = [utt_id for utt_id in expected if utt_id not in first_line]
    if missing:
        problems["missing utterances"] = missing
    if problems:
        raise UserError(f"{path}: {'; '.join(map(_name, problems.items()))}; {cure}")
    return [rows[utt_id] for utt_id in expected]


def _parse_row(
    fields: Sequence[str], labels: Sequence[str], expected: Mapping[str, str]
) -> tuple[Prediction, list[tuple[str, str]]]:
    """Parse a row and list its faults as (kind, detail) pairs."""
    utt_id, ref, hyp, *values, units, _ = fields
    faults = []
    if utt_id not in expected:
        faults.append(("utterances outside this fold's test list", ""))
    elif ref in labels and ref != expected[utt_id]:
        faults.append(("wrong references", f"{ref}, the corpus says {expected[utt_id]}"))
    for column, label in (("ref", ref), ("hyp", hyp)):
        if label not in labels:
            faults.append(("unknown emotions", f"{column} {label!r}"))
    probs = tuple(_to_float(value) for value in values)
    if not all(0 <= p <= 1 for p in probs):  # NaN compares false, so it lands here too
        faults.append(("probabilities that are not numbers from 0 to 1", " ".join(values)))
    elif abs(sum(probs) - 1) > SUM_TOLERANCE:
        faults.append(("probabilities that do not sum to 1", f"sum {sum(probs):.6f}"))
    elif hyp in labels and probs[labels.index(hyp)] < max(probs) - TIE:
        best = labels[probs.index(max(probs))]
        faults.append(("decisions that are not the most probable emotion", f"{hyp}, not {best}"))
    return Prediction(utt_id, ref, hyp, probs, tuple(units.split())), faults


def _to_float(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _name(problem: tuple[str, list[str]]) -> str:
    kind, where = problem
    return f"{len(where)} {kind}: {some(where)}"
