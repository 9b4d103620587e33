"""A Hugging Face dataset: by its hub id, or a folder saved from the hub.

corpus.yaml may have ``dataset`` (the hub id, with ``revision`` and ``config``; or give
--corpus-dir, for a folder of save_to_disk, of parquet files or an audiofolder with its metadata.csv
or .jsonl), ``splits`` (default: all, since the folds are made here) and ``columns``
(ser/corpora/rows.py). Audio stored in the dataset is written to data/<corpus>/audio once; ids come
from a column, or are the split and row number. The package datasets is required, except for an
audiofolder, which is read as a table.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from ser.corpora.rows import (
    Row,
    RowsReader,
    as_id,
    choose_columns,
    given_root,
    pick,
    resolve,
)
from ser.corpora.spec import Spec
from ser.corpora.table import table_rows
from ser.errors import UserError
from ser.files import write_once

SAVED = ("dataset_dict.json", "dataset_info.json")  # written by save_to_disk
METADATA = ("metadata.csv", "metadata.jsonl")


class Reader(RowsReader):
    """Reader of a dataset; audio stored in it is written into ``home``."""

    def __init__(self, spec: Spec, egs: Path, home: Path) -> None:
        super().__init__(spec, egs, home)
        self._loaded: dict[str, Any] = {}

    def find(self, directory: Path | None) -> Path:
        """Find the folder, or the hub id as a path; UserError for a folder without a dataset."""
        if directory is None and self.spec.dataset:
            return Path(self.spec.dataset)
        root = given_root(self.spec, self.egs, directory)
        if not (_files(root) or _metadata(root)):
            raise UserError(
                f"--corpus-dir {root}: expected a folder of save_to_disk, parquet files, or "
                f"{' or '.join(METADATA)} beside its recordings; a hub id belongs in corpus.yaml: "
                "dataset: owner/name"
            )
        return root

    def fingerprint_files(self, root: Path) -> Iterable[Path]:
        """The dataset's own files; for a hub dataset, those in the cache of ``datasets``."""
        if root.is_dir():
            return _metadata(root) or _files(root)
        parts = self._load(root).values()
        return sorted({Path(f["filename"]) for part in parts for f in part.cache_files})

    def _read(self, root: Path) -> list[Row]:
        """Make a row for each row of each split."""
        if root.is_dir() and _metadata(root) and not _files(root):
            rows = []
            for path in _metadata(root):
                inside = path.parent.relative_to(root).as_posix()
                prefix = "" if inside == "." else f"{inside}/"
                rows += table_rows(path, self.spec, path.parent, prefix)
            return rows
        rows = []
        for split, part in self._load(root).items():
            where = f"{root} ({split})"
            columns = choose_columns(self.spec, part.column_names, where)
            undecoded, labels = _prepare(part, columns["audio"])
            without = undecoded.remove_columns(columns["audio"])
            fields = {field: name for field, name in columns.items() if field != "audio"}
            for number, record in enumerate(without):
                named = {c: names[record[c]] for c, names in labels.items() if _is_class(record[c])}
                values = pick({**record, **named}, fields)
                values["id"] = values["id"] or f"{split}_{number:06d}"
                audio = partial(_write_audio, undecoded, number, columns["audio"], where)
                rows.append(Row(f"{where}: row {number}", values, audio))
        return rows

    def _load(self, root: Path) -> dict[str, Any]:
        """Load the chosen splits: split -> datasets.Dataset."""
        if not self._loaded:
            try:
                import datasets
            except ImportError as err:
                raise UserError(
                    f"{root}: reader huggingface needs the package datasets ({err}); install it: "
                    ".venv/bin/python -m pip install -r requirements-apps.txt"
                ) from err
            try:
                loaded = _open(datasets, root, self.spec)
            except Exception as err:  # any error here is about this dataset
                about = str(err).split("\n")[0]
                raise UserError(
                    f"{root}: datasets cannot load it ({type(err).__name__}: {about}); check the "
                    "name and the network, or save it where there is one and give --corpus-dir"
                ) from err
            parts = loaded if isinstance(loaded, dict) else {str(loaded.split or "all"): loaded}
            wanted = self.spec.splits or list(parts)
            missing = [name for name in wanted if name not in parts]
            if missing:
                raise UserError(
                    f"{root}: no split {missing[0]!r}; it has {', '.join(parts)}: correct splits "
                    "in corpus.yaml"
                )
            self._loaded = {name: parts[name] for name in wanted}
        return self._loaded


def _open(datasets: Any, root: Path, spec: Spec) -> Any:
    if not root.is_dir():
        return datasets.load_dataset(str(root), spec.config, revision=spec.revision)
    if any((root / name).is_file() for name in SAVED):
        return datasets.load_from_disk(str(root))
    by_split: dict[str, list[str]] = {}
    for path in _files(root):  # train-00000-of-00002.parquet, as the hub names them
        by_split.setdefault(as_id(path.stem.split("-")[0]), []).append(str(path))
    return datasets.load_dataset("parquet", data_files=by_split)


def _files(root: Path) -> list[Path]:
    """Files of a saved dataset, or parquet files."""
    if any((root / name).is_file() for name in SAVED):
        return sorted(path for path in root.rglob("*") if path.suffix in (".arrow", ".json"))
    return sorted(root.rglob("*.parquet"))


def _metadata(root: Path) -> list[Path]:
    return sorted(path for name in METADATA for path in root.rglob(name))


def _prepare(part: Any, audio: str) -> tuple[Any, dict[str, list[str]]]:
    """Return the split with its audio not decoded (bytes or path), and its class label names."""
    import datasets

    labels = {
        column: feature.names
        for column, feature in part.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    return part.cast_column(audio, datasets.Audio(decode=False)), labels


def _is_class(value: Any) -> bool:
    return isinstance(value, int) and value >= 0  # -1 means no label


def _write_audio(
    part: Any, number: int, column: str, where: str, folder: Path, utt_id: str
) -> Path:
    """Audio file of row ``number``: its own, or one written into ``folder`` from its bytes."""
    audio = part[number][column] or {}
    name, data = audio.get("path") or "", audio.get("bytes")
    if data:
        return write_once(folder / f"{utt_id}{PurePath(name).suffix or '.wav'}", data)
    path = resolve(name, Path.cwd())
    if not name or not path.is_file():
        raise UserError(
            f"{where}: row {number}: column {column!r} holds neither audio nor a file that is "
            f"here ({name or 'nothing'}); save the dataset with its audio"
        )
    return path
