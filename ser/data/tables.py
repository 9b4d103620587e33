"""Kaldi tables: the only writer, reader and validator of ``data/<corpus>/all``.

A table is UTF-8 text, one ``key value`` line per utterance, keys in C order (bytes), LF line
endings. Everything after the first blank is the value, so a path may contain blanks or quotes; a
path is never a pipe.
"""

import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ser.errors import UserError, join_problems, not_utf8
from ser.files import atomic_dir, atomic_write
from ser.stage import MARKER, file_digest, mark_done

# One value per utterance. spk2utt, emotions, language and partial have other shapes.
TABLES = (
    "wav.scp",
    "text",
    "utt2spk",
    "utt2emo",
    "utt2gender",
    "utt2session",
    "utt2dur",
    "utt2orig",  # the corpus' own ids
)
SPLIT_TABLE = "utt2split"  # of corpora with an official split; copied like a user's table
UNDECIDED = "utt2undecided"  # utterances without a majority: their number of raters
UNKNOWN_GENDER = "u"
GENDERS = ("f", "m", UNKNOWN_GENDER)
USER_TABLE = re.compile(r"utt2[\w-]+")


@dataclass(frozen=True)
class Utterance:
    """One labelled recording. ``duration`` is in seconds; a reader may leave it 0.

    ``sentence`` is a code shared by utterances of the same words, such as a number in the file
    name, so that a --text file can give their words once; empty if there is none. ``split`` is the
    part of the corpus' official split: train, valid or test, or, for several folds, such as
    ``fold_1:train,fold_2:test``.
    """

    utt_id: str
    wav: Path
    text: str
    speaker: str
    emotion: str
    gender: str  # f, m, or u if unknown
    session: str
    duration: float = 0.0
    sentence: str = ""
    split: str = ""


def read_table(path: Path | str, allow_empty: bool = False) -> dict[str, str]:
    """Read ``key value`` lines into a dict, in the file's order.

    ``allow_empty`` accepts keys without a value (a transcript without words), which become "".

    Raises UserError for a missing file, a repeated key, a blank line or a missing value.
    """
    table: dict[str, str] = {}
    for number, line in enumerate(_read_text(path).split("\n")[:-1], start=1):
        key, _, value = line.partition(" ")
        if not key:
            raise UserError(f"{path}:{number}: no key at the start of the line {line!r}")
        if key in table:
            raise UserError(f"{path}:{number}: {key} stands here a second time; keys are unique")
        value = value.strip()
        if not value and not allow_empty:
            raise UserError(f"{path}:{number}: {key} has no value; expected '{key} VALUE'")
        table[key] = value
    return table


def write_table(path: Path | str, table: Mapping[str, Any]) -> None:
    """Write ``key value`` lines, keys in C order; an empty value leaves the key alone."""
    with atomic_write(path) as stream:
        for key in sorted(table):  # by code point, which is the byte order of UTF-8
            value = str(table[key])
            stream.write(f"{key} {value}\n" if value else f"{key}\n")


def read_lines(path: Path | str) -> list[str]:
    """Read a list file (``emotions``, ``partial``, fold lists), skipping blank lines.

    Raises UserError for a missing file.
    """
    return [line.strip() for line in _read_text(path).split("\n") if line.strip()]


def write_lines(path: Path | str, lines: Iterable[str]) -> None:
    """Write one item per line, in the given order."""
    with atomic_write(path) as stream:
        stream.writelines(f"{line}\n" for line in lines)


def user_tables(directory: Path | str) -> list[Path]:
    """Files ``utt2<name>`` in ``directory`` that are not the recipe's own, in C order.

    Users add them for heads that predict something other than the emotion.
    """
    return [
        path
        for path in sorted(Path(directory).glob("utt2*"))
        if USER_TABLE.fullmatch(path.name) and path.name not in TABLES and path.is_file()
    ]


def speaker_first(utt2spk: Mapping[str, str]) -> dict[str, str]:
    """Give utterances ids that begin with the speaker's id, as Kaldi requires.

    utt2spk is then in C order by speaker as well. Other ids are prefixed with ``<speaker>-``, and
    so are all ids if that alone does not sort utt2spk by speaker (speakers ``1`` and ``10``); a
    speaker whose name continues another's with a dash takes ``!``.

    Returns:
        The corpus' own id -> the new id.
    """
    for mark, every in (("-", False), ("-", True), ("!", True)):
        ids = {
            utt: utt if utt.startswith(spk) and not every else f"{spk}{mark}{utt}"
            for utt, spk in utt2spk.items()
        }
        if _by_speaker({ids[utt]: spk for utt, spk in utt2spk.items()}, len(ids)):
            break
    return ids


def _by_speaker(utt2spk: Mapping[str, str], expected: int) -> bool:
    speakers = [utt2spk[utt] for utt in sorted(utt2spk)]
    return speakers == sorted(speakers) and len(speakers) == expected


def own_ids(directory: Path | str) -> dict[str, str]:
    """Read utt2orig of a data or dump folder: id -> the corpus' own id."""
    return read_table(Path(directory) / "utt2orig")


def read_undecided(directory: Path | str) -> set[str]:
    """Utterances in a data or dump folder without a majority of the raters; see --undecided."""
    path = Path(directory) / UNDECIDED
    return set(read_table(path)) if path.is_file() else set()


def write_spk_tables(directory: Path, tables: Mapping[str, Mapping[str, str]]) -> None:
    """Write Kaldi's spk2utt, and spk2gender if every speaker's gender is known."""
    utt2spk, utt2gender = tables["utt2spk"], tables["utt2gender"]
    write_table(directory / "spk2utt", _invert(utt2spk))
    genders = {speaker: utt2gender[utt] for utt, speaker in utt2spk.items()}
    if UNKNOWN_GENDER in genders.values():
        (directory / "spk2gender").unlink(missing_ok=True)
    else:
        write_table(directory / "spk2gender", genders)


def write_data_dir(
    directory: Path | str,
    records: Sequence[Utterance],
    emotions: Sequence[str],
    language: str,
    settings: Mapping[str, Any],
    partial: Sequence[str] = (),
    more: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write, validate and mark ``data/<corpus>/all`` atomically, replacing an existing one
    except for the user's tables.

    ``emotions`` is in class order; the ids of ``records`` are the corpus' own (utt2orig), which
    ``speaker_first`` may prefix. ``settings`` goes into the done-marker, ``partial`` has a line
    for each item that the corpus lacks, ``more`` holds tables ``utt2<name>`` by name, whose
    entries for other utterances are dropped.

    Raises UserError, with nothing written, if a record does not fit into a table.
    """
    _check_records(records, emotions)
    ids = speaker_first({r.utt_id: r.speaker for r in records})
    own = {ids[r.utt_id]: r.utt_id for r in records}
    records = [replace(r, utt_id=ids[r.utt_id]) for r in records]
    rows = {
        "wav.scp": {r.utt_id: r.wav for r in records},
        "text": {r.utt_id: " ".join(r.text.split()) for r in records},
        "utt2spk": {r.utt_id: r.speaker for r in records},
        "utt2emo": {r.utt_id: r.emotion for r in records},
        "utt2gender": {r.utt_id: r.gender for r in records},
        "utt2session": {r.utt_id: r.session for r in records},
        "utt2dur": {r.utt_id: f"{r.duration:.4f}" for r in records},
        "utt2orig": own,
    }
    with atomic_dir(directory) as temporary:
        for name in TABLES:
            write_table(temporary / name, rows[name])
        write_spk_tables(temporary, rows)
        write_lines(temporary / "emotions", emotions)
        write_lines(temporary / "language", [language])
        if partial:
            write_lines(temporary / "partial", (" ".join(line.split()) for line in partial))
        validate_data_dir(temporary)
        for path in user_tables(directory):
            if path.name != UNDECIDED:  # made for another set of utterances
                shutil.copy2(path, temporary)
        if any(r.split for r in records):
            write_table(temporary / SPLIT_TABLE, {r.utt_id: r.split for r in records if r.split})
        for name, table in (more or {}).items():
            known = {ids[utt]: value for utt, value in table.items() if utt in ids and value}
            if known:
                write_table(temporary / name, known)
        mark_done(temporary, dict(settings))


def validate_data_dir(directory: Path | str) -> int:
    """Check that the tables of ``directory`` agree; return the number of utterances.

    Checked: every table present, in C order and over the same utterances; spk2utt the inverse
    of utt2spk; valid emotions, genders and durations; one gender and one session per speaker;
    wav files present.

    Raises UserError that lists the first few errors.
    """
    directory = Path(directory)
    tables = {name: read_table(directory / name, name == "text") for name in TABLES}
    emotions = read_lines(directory / "emotions")
    problems = []
    if len(read_lines(directory / "language")) != 1:
        problems.append(f"{directory}/language: expected one word, such as en")
    reference = tables["utt2spk"]
    if not reference:
        problems.append(f"{directory}/utt2spk: no utterances")
    for name, table in tables.items():
        if list(table) != sorted(table):
            problems.append(f"{directory}/{name}: not in C order; sort it with LC_ALL=C sort")
        for utt in sorted(reference.keys() ^ table.keys()):
            has, lacks = ("utt2spk", name) if utt in reference else (name, "utt2spk")
            problems.append(f"{directory}/{lacks}: {utt} is missing, but stands in {has}")
    if not _by_speaker(reference, len(reference)):
        problems.append(f"{directory}/utt2spk: not in the order of speakers, as Kaldi wants it")
    if read_table(directory / "spk2utt") != _invert(reference):
        problems.append(f"{directory}/spk2utt: not the inverse of utt2spk")
    problems += _wrong_values(directory, tables, emotions)
    if problems:
        raise UserError(
            join_problems(problems, f"make it again: ./run.sh --stage 1 (remove {directory} first)")
        )
    return len(reference)


def _wrong_values(
    directory: Path, tables: Mapping[str, Mapping[str, str]], emotions: Sequence[str]
) -> list[str]:
    problems = []
    for utt, emotion in tables["utt2emo"].items():
        if emotion not in emotions:
            problems.append(f"{directory}/utt2emo: {utt} is {emotion!r}, not in {emotions}")
    for utt, gender in tables["utt2gender"].items():
        if gender not in GENDERS:
            problems.append(f"{directory}/utt2gender: {utt} is {gender!r}, expected f, m or u")
    for utt, duration in tables["utt2dur"].items():
        if not is_number(duration) or float(duration) <= 0:
            problems.append(f"{directory}/utt2dur: {utt} is {duration!r}, expected seconds > 0")
    for utt, wav in tables["wav.scp"].items():
        if not Path(wav).is_file():
            problems.append(f"{directory}/wav.scp: {utt}: no such file: {wav}")
    for name in ("utt2gender", "utt2session"):
        of_speaker: dict[str, str] = {}
        for utt, value in tables[name].items():
            speaker = tables["utt2spk"].get(utt, "")
            if of_speaker.setdefault(speaker, value) != value:
                problems.append(
                    f"{directory}/{name}: {utt} is {value}, but speaker {speaker} is "
                    f"{of_speaker[speaker]} elsewhere"
                )
    return problems


def _check_records(records: Sequence[Utterance], emotions: Sequence[str]) -> None:
    problems = []
    seen: dict[str, Path] = {}
    for r in records:
        where = f"{r.wav}: utterance id {r.utt_id!r}"
        if not r.utt_id or r.utt_id.split() != [r.utt_id]:
            problems.append(f"{where} is empty or holds blanks; rename the file")
        if r.utt_id in seen:
            problems.append(f"{where} is also that of {seen[r.utt_id]}; ids are unique")
        seen[r.utt_id] = r.wav
        if r.speaker.split() != [r.speaker] or r.session.split() != [r.session]:
            problems.append(f"{where}: speaker {r.speaker!r} or session {r.session!r} has blanks")
        if r.emotion not in emotions:
            problems.append(f"{where}: label {r.emotion!r} is not one of {list(emotions)}")
        if not Path(r.wav).is_absolute() or not _fits_in_a_line(str(r.wav)):
            problems.append(
                f"{str(r.wav)!r}: not an absolute path of one line in UTF-8; rename the folder"
            )
    if problems:
        raise UserError(join_problems(problems))


def _fits_in_a_line(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return path.splitlines() == [path] and path.strip() == path


def is_number(text: str) -> bool:
    """Whether ``text`` is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _invert(utt2spk: Mapping[str, str]) -> dict[str, str]:
    spk2utt: dict[str, list[str]] = {}
    for utt in sorted(utt2spk):
        spk2utt.setdefault(utt2spk[utt], []).append(utt)
    return {speaker: " ".join(utts) for speaker, utts in spk2utt.items()}


def _read_text(path: Path | str) -> str:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_again(Path(path))}") from None
    if b"\0" in data:
        raise UserError(
            f"{path}: holds zero bytes, as files may after a power cut; remove it; "
            f"{_again(Path(path))}"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise not_utf8(path, err) from err
    return text if text.endswith("\n") or not text else text + "\n"


def _again(path: Path) -> str:
    """How to make a file again, also where a stage believes that it is done."""
    owner = next((folder for folder in path.parents if (folder / MARKER).is_file()), None)
    marker = f"remove {owner / MARKER}, then " if owner else ""
    return f"{marker}make it again: ./run.sh --stage 1 with the same --corpus and options"


def lang_inputs(source: Path) -> str:
    """Digest of the tables of ``source`` that determine the lexicon and the units."""
    names = ("text", "utt2emo", "emotions", "language", "utt2dur")
    return file_digest(*(source / name for name in names))
