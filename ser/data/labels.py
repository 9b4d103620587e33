"""Target tables of auxiliary heads: ``utt2<name>``, a word or a number per utterance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ser.data.tables import TABLES, UNKNOWN_GENDER, USER_TABLE, is_number, read_lines, read_table
from ser.errors import UserError
from ser.files import expand_home

if TYPE_CHECKING:
    import numpy as np

RATERS = "raters"  # its table is kept beside the tables of the heads


class Targets(NamedTuple):
    """A head's table: words if ``limits`` is None, else numbers, within limits or any."""

    table: str
    limits: Sequence[float] | None = None


def label_path(table: str, dump_dir: Path) -> Path:
    """Path of ``table``: a name in ``dump_dir``, or a path if it contains a slash."""
    return expand_home(table) if "/" in table else dump_dir / table


def read_targets(head: str, targets: Targets, dump_dir: Path) -> dict[str, Any]:
    """Read the word or number of each utterance in a table, for the head of this name.

    Raises:
        UserError: As ``read_labels``, or a value that is not a number or outside the limits.
    """
    found: dict[str, Any] = read_labels(head, targets.table, dump_dir)
    least, most = targets.limits or (-math.inf, math.inf)
    for number, (utt_id, text) in enumerate(found.items() if targets.limits is not None else ()):
        if not is_number(text) or not least <= float(text) <= most:
            limits = f" from {least:g} to {most:g}" if targets.limits else ""
            raise UserError(
                f"aux_conf.{head}.table: {label_path(targets.table, dump_dir)}:{number + 1}: "
                f"{utt_id} has {text!r}; expected a number{limits}: correct it, or leave the line "
                "out if the value is not known"
            )
        found[utt_id] = float(text)
    return found


def read_labels(head: str, table: str, dump_dir: Path) -> dict[str, str]:
    """Read the value of each utterance in ``table``, for the head of this name.

    An unknown gender, ``u`` in utt2gender, is treated as missing.

    Raises:
        UserError: No such table, or a line that is not an utterance and one word.
    """
    path, where = label_path(table, dump_dir), f"aux_conf.{head}.table"
    if not path.is_file():
        raise UserError(f"{where}: {_no_table(table, path, dump_dir)}")
    try:
        labels = read_table(path)
    except UserError as err:
        raise UserError(f"{where}: {err}; mend that line") from None
    for utt_id, value in labels.items():
        if len(value.split()) != 1:
            raise UserError(
                f"{where}: {path}: {utt_id} has the value {value!r}; expected one word, so write "
                "it without blanks"
            )
    if path.name == "utt2gender":
        return {utt: value for utt, value in labels.items() if value != UNKNOWN_GENDER}
    return labels


def read_raters(path: Path, emotions: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the distribution (C,) of each utterance's raters over the emotions; it sums to 1.

    A line is an utterance and one word per rater; a rater's vote is split equally among several
    words joined by commas. Words not in ``emotions`` are ignored, and utterances without any other
    word are left out.

    Raises:
        UserError: No such table, a malformed line, or no line with one of the emotions.
    """
    import numpy as np

    found = {}
    for utt_id, said in read_table(path).items():
        votes = count_votes(said, emotions)
        if any(votes):
            found[utt_id] = np.array(votes) / sum(votes)
    if not found:
        raise UserError(
            f"{path}: no rater says one of {', '.join(emotions)}; expected an utterance and an "
            "emotion of each rater a line, such as 'utt1 sad sad,neutral'"
        )
    return found


def count_votes(said: str, emotions: Sequence[str]) -> list[float]:
    """Count the raters' votes for each emotion; ``read_raters`` explains ``said``."""
    raters = [rater.split(",") for rater in said.split()]
    return [sum(words.count(e) / len(words) for words in raters) for e in emotions]


def favourite(said: str, emotions: Sequence[str]) -> str | None:
    """The emotion with the most votes, the first in a tie; None if no rater names one."""
    votes = count_votes(said, emotions)
    return emotions[votes.index(max(votes))] if any(votes) else None


def _no_table(table: str, path: Path, dump_dir: Path) -> str:
    lines = "`<utterance> <value>` lines"
    if path.is_dir():
        return f"{path}: a folder; give the path of a file of {lines}"
    if "/" in table:
        return f"{path}: no such file; give the path of one of {lines}"
    known = ", ".join(sorted(p.name for p in dump_dir.glob("utt2*"))) or "no tables"
    found = f"{path}: no such file; {dump_dir} has {known}"
    if table in TABLES:  # in data/; not copied by stage 3
        return f"{found}. If you mean that of data/<corpus>/all, give its path"
    if not USER_TABLE.fullmatch(table):
        return (
            f"{found}. Tables are called utt2<name>, of letters, digits, _ and -; rename yours, or "
            "give its path, with a slash in it"
        )
    return (
        f"{found}. Write {lines} to data/<corpus>/all/{table}, which ./run.sh --stage 3 "
        "--stop-stage 3 copies there, or give the path of such a table"
    )


def fold_labels(
    tables: Mapping[str, Targets], dump_dir: Path, fold_dir: Path, folds: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Targets of each fold's heads: ``{head: {"table": path, "values": training_values}}``.

    Args:
        tables: Tables by head, as in ``aux_conf``.
        dump_dir, fold_dir: dump/<corpus>, and the protocol's folds in it.

    Raises:
        UserError: A table that is missing or malformed, or cannot be learnt in a fold.
    """
    labels = {head: read_targets(head, targets, dump_dir) for head, targets in tables.items()}
    every = set(read_table(dump_dir / "utt2spk")) if tables else set()
    for head, targets in tables.items():
        if targets.limits is not None and (lacking := sorted(every - labels[head].keys())):
            found = f"{label_path(targets.table, dump_dir)}: no value for {len(lacking)} utterances"
            print(f"warning: {found}, the first {lacking[0]}; they teach {head} nothing")
    trained = {fold: read_lines(fold_dir / fold / "train") for fold in folds if tables}
    return {
        fold: {
            head: {
                "table": str(label_path(targets.table, dump_dir)),
                "values": training_values(head, targets.table, labels[head], fold, trained[fold]),
            }
            for head, targets in tables.items()
        }
        for fold in folds
    }


def training_values(
    head: str, table: str, labels: Mapping[str, Any], fold: str, utterances: Sequence[str]
) -> list[Any]:
    """Classes of a head: the words in the training utterances of ``fold``, in C order.

    For numbers, their mean and standard deviation (1 / n).

    Raises:
        UserError: Fewer than two values, so that there is nothing to learn.
    """
    known = [labels[utt_id] for utt_id in utterances if utt_id in labels]
    values = sorted(set(known))
    if len(values) < 2:
        found = f"only the value {values[0]}" if values else "no value"
        raise UserError(
            f"aux_conf.{head}.table: {table} has {found} for the {len(utterances)} training "
            f"utterances of fold {fold} (the first is {utterances[0]}); a head needs two values "
            "or more: fix the table or remove the head"
        )
    return (
        [statistics.fmean(known), statistics.pstdev(known)]
        if isinstance(known[0], float)
        else values
    )
