"""Recordings whose paths encode speaker and emotion: a regular expression with named groups.

``pattern`` of corpus.yaml is matched against the end of each audio file's path, in whole folder
names, so --corpus-dir may also be above the corpus or inside it. Its groups are the columns of a
row (ser/corpora/rows.py), as is ``stem``, the file's name without its suffix and the default id.
The group text is a code of the sentence: its words are in ``texts``, or in a --text file. Some
corpora are distributed with a second copy of themselves in a subfolder, which is left out.
"""

import filecmp
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ser.corpora import Reading
from ser.corpora.rows import Row, RowsReader, choose_columns, given_root, pick
from ser.corpora.spec import Spec
from ser.errors import UserError, join_problems

SUFFIXES = (".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".sph", ".wav")
PATHS_SHOWN = 3


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "." and name != "__MACOSX"]
        yield from (Path(folder, name) for name in names if name[0] != ".")


class Reader(RowsReader):
    """One folder; ``home`` is not written to."""

    def __init__(self, spec: Spec, egs: Path, home: Path) -> None:
        super().__init__(spec, egs, home)
        self.pattern = re.compile(spec.pattern)
        self.unmatched: list[Path] = []
        self.copies: list[Path] = []

    def find(self, directory: Path | None) -> Path:
        """Find the folder where ``pattern`` begins. Raises UserError if it matches no path."""
        given = given_root(self.spec, self.egs, directory)
        paths = self.fingerprint_files(given)
        homes = {str(home) for path in paths for _, home in self._matches(path, given)}
        if homes:
            return Path(os.path.commonpath(homes))
        if not paths:
            kinds = Counter(path.suffix.lower() for path in _files(given)).most_common(PATHS_SHOWN)
            shown = ", ".join(f"{number} {kind or 'without suffix'}" for kind, number in kinds)
            besides = ", besides what ignore leaves out" if self.spec.ignore else ""
            raise UserError(
                f"--corpus-dir {given}: no audio ({', '.join(SUFFIXES)}) in it{besides}; found "
                f"{shown or 'no files'}: give the folder of {self.spec.name}, unpack its archives, "
                "or convert videos and other formats (ffmpeg -i FILE NEW.wav)"
            )
        shown = ", ".join(str(path.relative_to(given)) for path in paths[:PATHS_SHOWN])
        raise UserError(
            f"--corpus-dir {given}: none of its {len(paths)} audio files fits the pattern in the "
            f"corpus.yaml of {self.spec.name}, {self.spec.pattern}; found {shown}: "
            f"give the folder of {self.spec.name}, or correct the pattern"
        )

    def fingerprint_files(self, root: Path) -> list[Path]:
        """All audio files except those matching ``ignore``; dot files (of macOS) are not audio."""
        ignore = re.compile(self.spec.ignore) if self.spec.ignore else None
        return sorted(
            path
            for path in _files(root)
            if path.suffix.lower() in SUFFIXES
            and not (ignore and ignore.search(path.relative_to(root).as_posix()))
        )

    def read(self, root: Path, spec: Spec, emotions: Sequence[str]) -> Reading:
        """Read the utterances in ``emotions``; files that are left out are counted."""
        reading = super().read(root, spec, emotions)
        left_out = {
            "files that the pattern does not fit": self.unmatched,
            "files that are copies of others": self.copies,
        }
        for what, paths in left_out.items():
            if paths:
                shown = ", ".join(str(path.relative_to(root)) for path in paths[:PATHS_SHOWN])
                reading.skipped[f"{what}, e.g. {shown}"] = len(paths)
        return reading

    def _matches(self, path: Path, root: Path) -> Iterator[tuple[re.Match[str], Path]]:
        """Yield the match of ``path``, if there is one, and the folder that it is relative to.

        This is ``root`` or the next folder below; otherwise one above it.
        """
        depth = len(root.parts)
        for start in (*range(depth, len(path.parts)), *range(depth - 1, 0, -1)):
            match = self.pattern.fullmatch("/".join(path.parts[start:]))
            if match:
                yield match, Path(*path.parts[:start])
                return

    def _read(self, root: Path) -> list[Row]:
        """Make a row for each file that ``pattern`` matches."""
        where = f"pattern in the corpus.yaml of {self.spec.name}"
        found = [*self.pattern.groupindex, "stem", "speaker", "emotion"]  # those two for ids
        columns = {"id": "stem", **choose_columns(self.spec, found, where, needs_audio=False)}
        texts, rows, problems = self.spec.texts, [], []
        known: dict[tuple[str, str], Path] = {}
        for path in self.fingerprint_files(root):
            match = next(self._matches(path, root), None)
            if match is None:
                self.unmatched.append(path)
                continue
            values = self._values({**match[0].groupdict(""), "stem": path.stem}, columns)
            first = known.setdefault((values["speaker"], values["id"]), path)
            if first is not path and filecmp.cmp(first, path, shallow=False):
                self.copies.append(path)
                continue
            if texts and values["sentence"] not in texts:
                problems.append(f"{path}: text {values['sentence']!r} is not in texts")
            rows.append(Row(str(path), values, path))
        if problems:
            raise UserError(join_problems(problems, "add it there, in corpus.yaml"))
        return rows

    def _values(self, record: dict[str, str], columns: dict[str, str]) -> dict[str, str]:
        """Fields of a file from its groups; its id is made from corpus.yaml's names for them."""
        spec = self.spec
        values = pick(record, columns)
        if self.pattern.flags & re.IGNORECASE:
            named = (*spec.speakers, *(n for names in spec.same_speakers for n in names))
            known = {name.casefold(): name for name in (*spec.label_map, *spec.skip_labels, *named)}
            for field in ("emotion", "speaker"):
                values[field] = known.get(values[field].casefold(), values[field])
        first = {name: names[0] for names in spec.same_speakers for name in names}
        values["speaker"] = first.get(values["speaker"], values["speaker"])
        emotion = spec.label_map.get(values["emotion"], values["emotion"])
        named = {**record, "speaker": values["speaker"], "emotion": emotion}
        values["id"] = pick(named, {"id": columns["id"]})["id"]
        values["sentence"] = record.get("text", "")
        if "text" not in spec.columns:
            values["text"] = spec.texts.get(values["sentence"], "")
        return values
