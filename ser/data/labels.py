"""Tables of label heads: ``utt2<name>``, one word for each utterance, and the classes of a fold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser.data.tables import TABLES, UNKNOWN_GENDER, USER_TABLE, read_lines, read_table
from ser.errors import UserError
from ser.files import expand_home


def label_path(table: str, dump_dir: Path) -> Path:
    """The path of ``table``: a name in ``dump_dir``, or a path, which holds a slash."""
    return expand_home(table) if "/" in table else dump_dir / table


def read_labels(head: str, table: str, dump_dir: Path) -> dict[str, str]:
    """The value of each utterance that ``table`` has, for the head of this name.

    A gender that is not known, ``u`` in utt2gender, is left out like one that is not there.

    Raises:
        UserError: no such table, or a line that is not an utterance and one word.
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


def _no_table(table: str, path: Path, dump_dir: Path) -> str:
    lines = "`<utterance> <value>` lines"
    if path.is_dir():
        return f"{path}: a folder; give the path of a file of {lines}"
    if "/" in table:
        return f"{path}: no such file; give the path of one of {lines}"
    known = ", ".join(sorted(p.name for p in dump_dir.glob("utt2*"))) or "no tables"
    found = f"{path}: no such file; {dump_dir} has {known}"
    if table in TABLES:  # of data/, which stage 3 does not copy
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
    tables: Mapping[str, str], dump_dir: Path, fold_dir: Path, folds: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """For each fold, what its label heads need: ``{head: {"table": path, "values": classes}}``.

    Args:
        tables: by head, as ``aux_conf`` names them.
        dump_dir, fold_dir: dump/<corpus>, and the folds of the protocol in it.

    Raises:
        UserError: a table that is missing or malformed, or that cannot be learnt in a fold.
    """
    labels = {head: read_labels(head, table, dump_dir) for head, table in tables.items()}
    trained = {fold: read_lines(fold_dir / fold / "train") for fold in folds if tables}
    return {
        fold: {
            head: {
                "table": str(label_path(table, dump_dir)),
                "values": training_values(head, table, labels[head], fold, trained[fold]),
            }
            for head, table in tables.items()
        }
        for fold in folds
    }


def training_values(
    head: str, table: str, labels: Mapping[str, str], fold: str, utterances: Sequence[str]
) -> list[str]:
    """The values among the training utterances of ``fold``, the classes of its head, in C order.

    Raises:
        UserError: fewer than two, so that there is nothing to learn.
    """
    values = sorted({labels[utt_id] for utt_id in utterances if utt_id in labels})
    if len(values) < 2:
        found = f"only the value {values[0]}" if values else "no value"
        raise UserError(
            f"aux_conf.{head}.table: {table} has {found} for the {len(utterances)} training "
            f"utterances of fold {fold} (the first is {utterances[0]}); a head needs two values "
            "or more: fix the table or remove the head"
        )
    return values
