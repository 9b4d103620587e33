"""Convert rows of users' tables to utterances, reporting the row of every error.

A row is a mapping of column -> value; ``columns`` of corpus.yaml says which column is the audio,
emotion, speaker, gender, text, session, id and split. A dot selects a nested field:
``custom.emotion``. Braces combine columns: ``dia{Dialogue_ID}_utt{Utterance_ID}.wav``.
Columns of valence, arousal and dominance must be named; they become tables utt2valence ...
"""

import json
import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ser.config import suggest
from ser.console import progress
from ser.corpora import Reading
from ser.corpora.spec import DIMENSIONS, FIELDS, NO_NAMES, Spec, normalized
from ser.data.tables import UNKNOWN_GENDER, Utterance, is_number
from ser.errors import UserError, join_problems
from ser.files import expand_home

REQUIRED = ("audio", "emotion", "speaker")
AUDIO_COLUMNS = ("audio", "wav", "file_name")  # if corpus.yaml names none
GENDERS = {
    **dict.fromkeys(("f", "female", "woman"), "f"),
    **dict.fromkeys(("m", "male", "man"), "m"),
    **dict.fromkeys(("", UNKNOWN_GENDER, "unknown"), UNKNOWN_GENDER),
}
_NOT_IN_IDS = re.compile(r"[\s/,]+")
_HOLE = re.compile(r"\{([^{}:]+)(?::0(\d+))?\}")  # {name}, or {name:03} for three digits


@dataclass(frozen=True)
class Row:
    """One utterance of a table: ``values`` by FIELDS, "" if the table has none.

    ``where`` is its file and line, for errors. ``audio`` is a file, or a function that writes the
    audio to a file named after the utterance in a folder, unless it exists, and returns its path.
    """

    where: str
    values: Mapping[str, str]
    audio: Path | Callable[[Path, str], Path]


class RowsReader(ABC):
    """Reader of a corpus.yaml in ``egs``; audio that is not a file is written to ``home``.

    Subclasses implement ``find`` and ``fingerprint_files``, like every reader, and ``_read``.
    """

    def __init__(self, spec: Spec, egs: Path, home: Path) -> None:
        self.spec, self.egs, self.home = spec, egs, home
        self._rows: list[Row] | None = None

    def read(self, root: Path, spec: Spec, emotions: Sequence[str]) -> Reading:
        """Read the utterances in ``emotions``; UserError that lists the invalid rows."""
        return read_rows(self.rows(root), spec, emotions, self.home / "audio")

    def rows(self, root: Path) -> list[Row]:
        """All rows of the corpus that ``find`` found, read once."""
        if self._rows is None:
            self._rows = self._read(root)
        return self._rows

    @abstractmethod
    def _read(self, root: Path) -> list[Row]:
        """Read the rows, each with its file and line."""


def choose_columns(
    spec: Spec, found: Iterable[str], where: str, needs_audio: bool = True
) -> dict[str, str]:
    """Choose field -> column for the fields that the table has; ``found`` are its columns.

    Raises UserError, listing the existing columns, for a missing column.
    """
    found = list(dict.fromkeys(found))
    named = spec.columns
    defaults = {field: field for field in FIELDS if field in named or field not in DIMENSIONS}
    defaults["audio"] = next((name for name in AUDIO_COLUMNS if name in found), "audio")
    columns = {}
    for field, default in defaults.items():
        column = named.get(field, default)
        if column is None and field not in REQUIRED:
            continue
        if column and all(name.split(".")[0] in found for name in names_in(column)):
            columns[field] = column
        elif field in named or (field in REQUIRED and (field != "audio" or needs_audio)):
            why = (
                "; without knowing who speaks, no speaker can be left out"
                if field == "speaker"
                else ""
            )
            raise UserError(
                f"{where}: no column {column!r} for the {field}{why}; it has {', '.join(found)}: "
                f"name the right one in corpus.yaml: columns: {{{field}: ...}}"
            )
    return columns


def pick(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    """Fields of ``record`` as stripped text; "" if absent, null or nan."""
    values = dict.fromkeys(FIELDS, "")
    for field, column in columns.items():
        text = _filled(record, column) if "{" in column else _value(record, column)
        values[field] = text if field == "audio" else normalized(text)
    return values


def names_in(column: str) -> list[str]:
    """Columns that ``column`` of corpus.yaml refers to: itself, or those in braces."""
    return [hole[1] for hole in _HOLE.finditer(column)] or [column]


def _filled(record: Mapping[str, Any], template: str) -> str:
    """Fill the first of ``template``'s alternatives, separated by ``|``, that lacks no value."""
    for choice in template.split("|"):
        if all(_value(record, name) for name in names_in(choice)):
            return _HOLE.sub(lambda m: _value(record, m[1]).zfill(int(m[2] or 0)), choice)
    return ""


def _value(record: Mapping[str, Any], column: str) -> str:
    value: Any = record
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    text = "" if value is None or isinstance(value, Mapping) else str(value).strip()
    return "" if text.casefold() == "nan" else text  # as pandas writes an empty cell


def as_id(text: str) -> str:
    """Make ``text`` an id: blanks, slashes and commas become _, and are stripped at the ends."""
    return _NOT_IN_IDS.sub("_", text.strip("/, "))


def read_rows(rows: Sequence[Row], spec: Spec, emotions: Sequence[str], folder: Path) -> Reading:
    """Convert ``rows`` in ``emotions``; audio that is not a file is written to ``folder``.

    Labels are mapped by ``label_map``, those in ``skip_labels`` are left out. Sessions come from
    the session column, from ``sessions`` (session -> speakers), or are pairs of speakers in C
    order, the last with three if their number is odd. Genders come from the column, mapped by
    ``gender_map`` if there is one, or from ``speakers`` (speaker -> f or m), or are unknown.

    Raises UserError that lists the errors; nothing is written then.
    """
    if not rows:
        raise UserError(f"{spec.name}: no utterance in it; expected one for each row")
    rows = _one_name_for_each_speaker(rows, spec)
    problems: list[str] = []
    reading = Reading([])
    skipped: Counter[str] = Counter()
    kept = list(_kept(rows, spec, emotions, reading, skipped, problems))
    reading.skipped = dict(skipped)
    problems += _repeated(kept, spec)
    _one_of_each(kept, "speaker", lambda row: row.values["speaker"], problems)
    for field in DIMENSIONS:
        table = reading.tables[f"utt2{field}"] = {}
        for utt_id, _, row in kept:
            table[utt_id] = value = row.values[field]
            if value and not is_number(value):
                problems.append(f"{row.where}: {field} {value!r}; expected a number, or nothing")
    genders = _one_of_each(kept, "gender", lambda row: _gender(row, spec), problems)
    sessions = _sessions(kept, spec, problems)
    if problems:
        raise UserError(join_problems(problems, "correct these rows, or corpus.yaml"))
    for number, (utt_id, emotion, row) in enumerate(kept, start=1):
        speaker = as_id(row.values["speaker"])
        reading.utterances.append(
            Utterance(
                utt_id=utt_id,
                wav=row.audio if isinstance(row.audio, Path) else row.audio(folder, utt_id),
                text=row.values["text"],
                speaker=speaker,
                emotion=emotion,
                gender=genders[speaker],
                session=sessions[speaker],
                sentence=row.values.get("sentence", ""),
                split=spec.split_map.get(row.values["split"], row.values["split"]),
            )
        )
        if number % 500 == 0:
            progress(f"audio: {number} of {len(kept)} utterances")
    if not (spec.counts.model_fields_set or spec.editions):
        total = len(reading.utterances)
        print(
            f"corpus.yaml states no counts, so none was checked; to fix: counts: {{total: {total}}}"
        )
    return reading


def _one_name_for_each_speaker(rows: Sequence[Row], spec: Spec) -> list[Row]:
    """Rename each speaker of ``same_speakers`` to the first of their names.

    Raises UserError for names that may refer to one person, and for speakers in corpus.yaml
    without a row.
    """
    first = {name: names[0] for names in spec.same_speakers for name in names}
    where: dict[str, str] = {}
    result = []
    for row in rows:
        name = row.values["speaker"]
        name = first.get(name, name)
        where.setdefault(name, row.where)
        result.append(replace(row, values={**row.values, "speaker": name}))
    apart = [set(names) for names in spec.distinct_speakers]
    alike: dict[str, list[str]] = {}
    for name in sorted(where):
        alike.setdefault(_likeness(name), []).append(name)
    unclear = [
        names
        for names in alike.values()
        if len(names) > 1 and not any(set(names) <= group for group in apart)
    ]
    if unclear:
        shown = json.dumps(unclear[:1], ensure_ascii=not "".join(unclear[0]).isprintable())
        problems = [
            "; ".join(f"speaker {name!r} ({where[name]})" for name in names) for names in unclear
        ]
        cure = (
            "one person under two names would be in training and test at once; say in corpus.yaml "
            f"which it is: same_speakers: {shown}, or, of different people, distinct_speakers: "
            f"{shown}"
        )
        raise UserError(join_problems(problems, cure))
    if spec.reader == "files":  # names may be of other editions; counts show missing ones
        return result
    stated = {
        "speakers": list(spec.speakers),
        "sessions": list(spec.session_of),
        "counts.speaker": list(spec.counts.speaker),
        "same_speakers": list(first),
        "distinct_speakers": [name for names in spec.distinct_speakers for name in names],
    }
    known = {*where, *(as_id(name) for name in where), *(row.values["speaker"] for row in rows)}
    problems = [
        f"corpus.yaml of {spec.name}: {key}: no row is of speaker {name!r}; {suggest(name, where)}"
        for key, names in stated.items()
        for name in names
        if name not in known
    ]
    if problems:
        raise UserError(join_problems(problems))
    return result


def _likeness(name: str) -> str:
    """Normalise ``name`` so that different spellings of it are equal.

    Ignored are case, Unicode normalisation forms, invisible characters, leading zeros, blanks and
    punctuation next to letters, and the ".0" that spreadsheets add to numbers.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    text = re.sub(r"^(\d+)\.0+$", r"\1", text.strip())
    kinds = [(char, unicodedata.category(char)) for char in re.sub(r"\s", " ", text)]
    text = "".join("_" if kind[0] in "PZ" else char for char, kind in kinds if kind != "Cf")
    text = re.sub("_+", "_", text).strip("_")
    text = re.sub(r"(?<=\D)_|_(?=\D)", "", text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", text) or name


def _kept(
    rows: Sequence[Row],
    spec: Spec,
    emotions: Sequence[str],
    reading: Reading,
    skipped: Counter[str],
    problems: list[str],
) -> Iterator[tuple[str, str, Row]]:
    """(utterance id, emotion, row) of the rows to keep; others are counted or are errors."""
    unknown: dict[str, list[str]] = {}
    missing: list[str] = []
    for row in rows:
        label, utt_id = row.values["emotion"], as_id(row.values["id"])
        speaker, session = as_id(row.values["speaker"]), row.values["session"]
        emotion = spec.label_map.get(label)
        if spec.ignore and re.search(spec.ignore, row.values["audio"]):
            skipped["recordings that corpus.yaml says to ignore"] += 1
            reading.left_out.add(utt_id)
        elif label in spec.skip_labels or (emotion is not None and emotion not in emotions):
            skipped[f"utterances labelled {label}"] += 1
            reading.left_out.add(utt_id)
        elif emotion is None:
            unknown.setdefault(label, []).append(row.where)
        elif not speaker:
            problems.append(f"{row.where}: no speaker; expected who speaks, to be left out as one")
        elif {speaker, utt_id, as_id(session) or "-"} & set(NO_NAMES):
            problems.append(
                f"{row.where}: speaker {speaker!r}, id {utt_id!r}, session {session!r}: one of "
                "them is no name; rename it"
            )
        elif not _is_utf8("".join((speaker, utt_id, session, row.values["text"]))):
            problems.append(f"{row.where}: half a character (such as \\ud83d, of two for an emoji)")
        elif isinstance(row.audio, Path) and not row.audio.is_file():
            missing.append(f"{row.where}: no such file: {row.audio}")
        else:
            yield utt_id, emotion, row
    problems += [
        f"{where[0]}: label {label!r} is not in label_map ({', '.join(spec.label_map)}); add it "
        f"there, or to skip_labels to leave it out (utterances: {len(where)})"
        for label, where in unknown.items()
    ]
    if missing:
        cure = "put them there, or leave them out (ignore in corpus.yaml)"
        got = f"; to get the corpus: {spec.obtain}" if "obtain" in spec.model_fields_set else ""
        problems.append(join_problems(missing, cure + got))


def _is_utf8(text: str) -> bool:
    return text.encode("utf-8", "replace") == text.encode("utf-8", "surrogatepass")


def _repeated(kept: Sequence[tuple[str, str, Row]], spec: Spec) -> list[str]:
    problems = []
    apart = "; tell them apart: columns: {id: '{speaker}_{emotion}_{stem}'}"
    cure = apart if spec.reader == "files" and "id" not in spec.columns else ""
    ids: dict[str, Row] = {}
    files: dict[str, Row] = {}
    for utt_id, _, row in kept:
        first = ids.setdefault(utt_id, row)
        if first is not row:
            problems.append(f"{row.where}: the id {utt_id} is also that of {first.where}{cure}")
        elif isinstance(row.audio, Path):
            other = files.setdefault(os.path.realpath(row.audio), row)
            if other is not row:
                problems.append(f"{row.where}: {row.audio} is also in {other.where}")
    return problems


def _one_of_each(
    kept: Sequence[tuple[str, str, Row]],
    what: str,
    value: Callable[[Row], str],
    problems: list[str],
) -> dict[str, str]:
    """Speaker id -> ``value``; two values for a speaker are an error."""
    first: dict[str, tuple[str, Row]] = {}
    for _, _, row in kept:
        try:
            speaker, found = as_id(row.values["speaker"]), value(row)
        except UserError as err:
            problems.append(str(err))
            continue
        before, other = first.setdefault(speaker, (found, row))
        if before != found:
            problems.append(
                f"{row.where}: {what} {found!r}, but {before!r} for the same speaker ({speaker}) "
                f"in {other.where}"
            )
    return {speaker: found for speaker, (found, _) in first.items()}


def _gender(row: Row, spec: Spec) -> str:
    speaker = row.values["speaker"]
    if speaker.casefold() == "unknown":  # several people
        return UNKNOWN_GENDER
    found = row.values["gender"] or spec.speakers.get(speaker, "")
    gender = GENDERS.get(spec.gender_map.get(found, found).lower())
    if gender is None:
        raise UserError(
            f"{row.where}: gender {found!r}; expected f or m, nothing where it is not known, or "
            f"gender_map in corpus.yaml, e.g. gender_map: {{{found}: f}}"
        )
    return gender


def _sessions(
    kept: Sequence[tuple[str, str, Row]], spec: Spec, problems: list[str]
) -> dict[str, str]:
    """Speaker id -> session."""
    named = {as_id(speaker): as_id(name) for speaker, name in spec.session_of.items()}
    found = _one_of_each(kept, "session", lambda row: as_id(row.values["session"]), problems)
    if any(found.values()):
        problems += [f"speaker {s}: no session in any row" for s, name in found.items() if not name]
        return found
    speakers = sorted(found)
    if named:
        lacking = [s for s in speakers if s not in named]
        problems += [f"speaker {s}: in no session of corpus.yaml" for s in lacking]
        return named
    last = max(1, len(speakers) // 2)
    width = max(2, len(str(last)))
    return {s: f"Ses{min(i // 2 + 1, last):0{width}d}" for i, s in enumerate(speakers)}


def resolve(path: str | Path, base: Path) -> Path:
    """Resolve ``path`` relative to ``base``; ~ is the home folder."""
    return (base / expand_home(path)).absolute()


def on_disk(path: str | Path, base: Path) -> Path:
    """Like ``resolve``, but also find names stored in another Unicode normalisation form."""
    whole = resolve(path, base)
    if whole.exists():
        return whole
    found = Path(whole.anchor)
    for part in whole.parts[1:]:
        if not (found / part).exists() and found.is_dir():
            wanted = normalized(part)
            part = next((p.name for p in found.iterdir() if normalized(p.name) == wanted), part)
        found /= part
    return found if found.exists() else whole


def audio_folder(spec: Spec, *folders: Path) -> Path:
    """Resolve ``audio_dir`` relative to the first of the corpus' ``folders`` that contains it.

    Without the key, the first of ``folders``. Raises UserError if there is no such folder.
    """
    if spec.audio_dir is None:
        return folders[0]
    found = [on_disk(spec.audio_dir, folder) for folder in folders]
    for folder in found:
        if folder.is_dir():
            return folder
    raise UserError(
        f"audio_dir in the corpus.yaml of {spec.name}: {spec.audio_dir}: no such folder: "
        f"{' or '.join(map(str, dict.fromkeys(found)))}; it is seen from the corpus' own folder"
    )


def given_root(spec: Spec, egs: Path, directory: Path | None) -> Path:
    """--corpus-dir, or ``corpus_dir`` of corpus.yaml relative to its folder.

    Raises UserError if neither is given or the path does not exist.
    """
    if directory is not None:
        return directory
    if spec.corpus_dir is None:
        raise UserError(
            f"--corpus-dir: needed for {spec.name}; give it, or corpus_dir in its corpus.yaml "
            f"(to get it: {spec.obtain})"
        )
    root = resolve(spec.corpus_dir, egs)
    if not root.exists():
        raise UserError(f"corpus_dir in the corpus.yaml of {spec.name}: {root}: no such folder")
    return root
