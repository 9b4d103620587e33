"""Recordings with a table: CSV, TSV or JSON lines, one utterance per line.

corpus.yaml may have ``table`` (the file, relative to --corpus-dir; default: the only one there;
or several by split, whose name is then the column split), ``columns`` (ser/corpora/rows.py) and
``audio_dir``, the folder of the corpus that audio paths are relative to; the default is the
folder of the table, or of the corpus if there are several tables. The first line of CSV and TSV
names the columns; the separator (comma, semicolon, tab or |) is detected from it. The id is a
column, or the path of the audio without its suffix.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

from ser.corpora.rows import (
    Row,
    RowsReader,
    audio_folder,
    choose_columns,
    given_root,
    on_disk,
    pick,
)
from ser.corpora.spec import Spec, normalized
from ser.errors import UserError, not_utf8

SUFFIXES = (".csv", ".tsv", ".jsonl")


def _tables(folder: Path) -> list[Path]:
    """Tables in ``folder``, but not ._metadata.csv of macOS or ~$metadata.csv of Excel."""
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in files if p.suffix.lower() in SUFFIXES and p.name[0] not in ".~")


def _names(folder: Path) -> str:
    return ", ".join(path.name for path in _tables(folder)) or "none"


class Reader(RowsReader):
    """Reader of one table; ``home`` is not written to."""

    folder: Path | None = None  # of the corpus, if known besides its table
    tables: dict[str, Path] | None = None  # by split, if there are several

    def find(self, directory: Path | None) -> Path:
        """Find the table. Raises UserError if it is missing or ambiguous."""
        root = given_root(self.spec, self.egs, directory)
        if root.is_file():
            return root
        self.folder = root
        if self.spec.table:
            several = isinstance(self.spec.table, dict)
            files = self.spec.table if several else {"": self.spec.table}
            tables = {split: on_disk(name, root) for split, name in files.items()}
            for path in tables.values():
                if not path.is_file():
                    raise UserError(
                        f"table in the corpus.yaml of {self.spec.name}: no such file: {path}; "
                        f"{path.parent} has {_names(path.parent)}: give the folder of the corpus, "
                        "or name its table there"
                    )
            self.tables = tables if several else None
            return root if several else tables[""]
        found = _tables(root)
        if len(found) != 1:
            raise UserError(
                f"--corpus-dir {root}: expected one table ({', '.join(SUFFIXES)}), found "
                f"{_names(root)}; name it in corpus.yaml, e.g. table: metadata.csv"
            )
        return found[0]

    def fingerprint_files(self, root: Path) -> Iterable[Path]:
        """The table and the audio files that it names."""
        files = (row.audio for row in self.rows(root) if isinstance(row.audio, Path))
        tables = self.tables.values() if self.tables else [root]
        return [*tables, *(path for path in files if path.is_file())]

    def _read(self, root: Path) -> list[Row]:
        """Make a row for each line."""
        if self.tables:
            base = audio_folder(self.spec, root)
            tables = self.tables.items()
            return [r for split, t in tables for r in table_rows(t, self.spec, base, split=split)]
        base = audio_folder(self.spec, root.parent, self.folder or root.parent)
        return table_rows(root, self.spec, base)


def table_rows(path: Path, spec: Spec, base: Path, prefix: str = "", split: str = "") -> list[Row]:
    """Read the rows of one table, whose audio paths are relative to ``base``.

    Ids made from paths begin with ``prefix``. ``split``, if given, is added as a column.
    """
    extra = {"split": split} if split else {}
    records = [(number, {**record, **extra}) for number, record in read_records(path)]
    if not records:
        raise UserError(f"{path}: no rows; expected one for each utterance")
    columns = choose_columns(spec, (key for _, record in records for key in record), str(path))
    rows = []
    for number, record in records:
        values = pick(record, columns)
        where = f"{path}:{number}"
        if not values["audio"]:
            raise UserError(f"{where}: no audio file in column {columns['audio']!r}; fill it in")
        audio = on_disk(values["audio"], base)
        if "\\" in values["audio"] and not audio.exists():  # written on Windows
            values["audio"] = values["audio"].replace("\\", "/")
            audio = on_disk(values["audio"], base)
        named = PurePath(normalized(values["audio"])).with_suffix("").parts
        from_path = prefix + "/".join(part for part in named if part not in ("..", "/"))
        rows.append(Row(where, {**values, "id": values["id"] or from_path}, audio))
    return rows


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, column -> value) of each row.

    Raises UserError for text that is not UTF-8, a JSON line that is not an object, and a CSV line
    with more or fewer cells than columns.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: not a table; expected a name that ends in {', '.join(SUFFIXES)}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise not_utf8(path, err) from err
    yield from (json_lines if path.suffix.lower() == ".jsonl" else _csv)(path, text)


def _csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    rows = list(io.StringIO(text, newline=""))  # only \n, \r\n and \r end a line
    before = next((number for number, row in enumerate(rows) if row.strip()), 0)
    said = re.fullmatch(r'"?sep=(.)"?\s*', rows[before]) if rows else None  # Excel's first line
    before += bool(said)
    head = "".join(rows[before:][:1])
    usual = "\t,;|" if path.suffix.lower() == ".tsv" else ",;\t|"
    lines = csv.reader(
        rows[before:],
        delimiter=said[1] if said else max(usual, key=head.count),
        skipinitialspace=True,
        strict=True,
    )
    try:
        names = [normalized(name) for name in next(lines, [])]
        if len(set(names)) != len(names):
            raise UserError(f"{path}:{before + 1}: two columns have the same name; rename one")
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                raise UserError(
                    f"{path}:{before + lines.line_num}: {len(cells)} cells, but {len(names)} "
                    "columns; put cells that hold the separator in double quotes"
                )
            yield before + lines.line_num, dict(zip(names, cells, strict=True))
    except csv.Error as err:
        raise UserError(
            f"{path}:{before + lines.line_num}: not valid CSV ({err}); fix the line"
        ) from err


def json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of each line; UserError for a line that is none."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as err:
            raise UserError(
                f"{path}:{number}: not JSON ({err}); expected an object a line"
            ) from err
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, such as {{...}}, a line")
        yield number, record
