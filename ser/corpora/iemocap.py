"""IEMOCAP on disk (Busso et al., Language Resources and Evaluation 42, 2008).

Labels come from the files directly in ``Session*/dialog/EmoEvaluation``, transcripts from
``dialog/transcriptions``, audio from ``sentences/wav/<dialog>``. The label is the third field of
an utterance's line: the annotators' majority vote, which is not recomputed here. The speaker is
the session and the letter after the LAST underscore; the letter in the dialog's name only says
who wore the motion-capture markers. The fourth field is [valence, activation, dominance], means
over the raters from 1 to 5: utt2valence, utt2arousal, utt2dominance. The following lines
``C-E<n>`` are each rater's words, whose first three letters are labels: utt2raters. The actors'
self-reports, C-F1 and C-M1, are left out.
If ``dialog/avi`` exists too, utt2video gives the position of the speaker's face: both actors are in
the picture, the one wearing the markers on the left.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ser.corpora import Reading
from ser.corpora.spec import DIMENSIONS, Spec
from ser.data.labels import favourite
from ser.data.tables import Utterance
from ser.errors import UserError, join_problems, some

SESSION_DIRECTORY = re.compile(r"Session([1-5])")
DIALOG_ID = re.compile(r"Ses0[1-5][FM]_(impro\d\d[ab]?|script\d\d_\d[ab]?)")
UTTERANCE_ID = re.compile(rf"({DIALOG_ID.pattern})_([FM])\d{{3}}")
# Turns that were transcribed but neither segmented nor labelled.
UNLABELLED_ID = re.compile(r"\S+_[FM]XX\d+")
TIMED_LINE = re.compile(r"(\S+)\s+\[\s*[\d.]+\s*-\s*[\d.]+\s*\]:?(.*)")
ATTRIBUTES = re.compile(r"\[\s*([-\d.]+),\s*([-\d.]+),\s*([-\d.]+)\s*\]")
RATER = re.compile(r"C-E\d+:([^(]*)")
LABELS = "dialog/EmoEvaluation"
TRANSCRIPTS = "dialog/transcriptions"
WAVS = "sentences/wav"
VIDEOS = "dialog/avi/DivX"
# left, top, right, bottom of the faces in pixels, as in public readers of the videos
LEFT_FACE, RIGHT_FACE = "120 130 240 230", "500 140 630 240"
NAMES_SHOWN = 5


def find(directory: Path) -> Path:
    """Find the folder that holds Session1 to Session5.

    ``directory`` may also be its parent, or up to four levels inside it.
    Raises UserError if none of these is IEMOCAP.
    """
    if _is_root(directory):
        return directory
    for candidate in list(directory.parents)[:4]:
        if _seems_root(candidate):
            return candidate
    inside = [child for child in _entries(directory) if _seems_root(child)]
    if len(inside) == 1:
        return inside[0]
    found = "it holds " + (", ".join(p.name for p in _entries(directory)[:5]) or "nothing")
    if inside:
        found = "several folders in it do: " + ", ".join(p.name for p in inside)
    raise UserError(
        f"--corpus-dir {directory}: expected a folder with Session1/{LABELS}, but {found}; "
        "give the folder that holds Session1 to Session5 (IEMOCAP_full_release)"
    )


def fingerprint_files(root: Path) -> Iterator[Path]:
    """All label, transcript, wav and video files that ``read`` may use."""
    for session in _sessions(root).values():
        yield from _videos(session).values()
        yield from _dialogs(session, LABELS)
        yield from _dialogs(session, TRANSCRIPTS)
        for dialog in _dialogs(session, WAVS):
            yield from _wavs(dialog)


def read(root: Path, spec: Spec, emotions: Sequence[str]) -> Reading:
    """Read the utterances of ``root`` whose label ``spec.label_map`` maps to one of ``emotions``.

    Missing wavs, transcripts and label files are listed in ``Reading.short``. Labels listed under
    ``spec.skip_labels`` are counted in ``Reading.skipped``.

    Raises UserError for ids that are malformed or repeated, and for unknown labels.
    """
    reading = Reading([], found={"label": Counter(), "wav": Counter(), "dialog": Counter()})
    reading.tables = {f"utt2{name}": {} for name in (*DIMENSIONS, "raters", "video")}
    problems: list[str] = []
    skipped: Counter[str] = Counter()
    sessions = _sessions(root)
    for name in spec.sessions:
        if name not in sessions:
            reading.short.append(f"{root}/Session{int(name[-2:])}: the whole folder is missing")
    for name, directory in sessions.items():
        problems += _misplaced(name, directory)
        labels = _read_labels(directory, spec, problems, reading.tables)
        texts = _read_transcripts(directory, problems, skipped)
        wavs = _index_wavs(directory, problems)
        reading.found["label"].update(label for label, _ in labels.values())
        reading.found["wav"][name] = len(wavs)
        reading.found["dialog"]["all"] += len(_dialog_ids(directory, LABELS))
        expected = {
            f"{prefix}_{dialog}"
            for prefix, dialogs in spec.dialogs.items()
            if prefix.startswith(name)
            for dialog in dialogs
        }
        reading.short += _missing(directory, expected, labels, texts, wavs)
        for utt, (label, _) in labels.items():
            emotion = spec.label_map.get(label)
            kept = reading.utterances
            if emotion not in emotions:
                skipped[f"utterances labelled {label}"] += 1
                reading.left_out.add(utt)
                said = reading.tables["utt2raters"].get(utt, "")
                emotion = favourite(said, emotions) if label in spec.undecided_labels else None
                kept = reading.undecided
            if emotion and utt not in wavs:
                reading.left_out.add(utt)
            elif emotion:
                gender = utt.rpartition("_")[2][0]
                kept.append(
                    Utterance(
                        utt_id=utt,
                        wav=wavs[utt],
                        text=texts.get(utt, ""),
                        speaker=name + gender,
                        emotion=emotion,
                        gender=gender.lower(),
                        session=name,
                    )
                )
    if problems:
        cure = f"copy these files of {root} again, or move what does not belong there elsewhere"
        raise UserError(join_problems(problems, cure))
    reading.skipped = dict(skipped)
    return reading


def _read_labels(
    session: Path, spec: Spec, problems: list[str], tables: Mapping[str, dict[str, str]]
) -> dict[str, tuple[str, str]]:
    """Read utterance id -> (label, file and line) of a session; other values go to ``tables``."""
    known = {*spec.label_map, *spec.skip_labels}
    labels: dict[str, tuple[str, str]] = {}
    videos = _videos(session)
    for path in _dialogs(session, LABELS):
        utt = ""
        for number, line in enumerate(_lines(path), start=1):
            if utt and (rater := RATER.match(line)):
                said = [word.strip()[:3].lower() for word in rater[1].split(";") if word.strip()]
                vote = ",".join(spec.label_map.get(label, label) for label in said)
                before = tables["utt2raters"].get(utt, "")
                tables["utt2raters"][utt] = f"{before} {vote}".strip()
            if not line.startswith("["):
                continue  # header, blank lines, other annotations of raters and actors
            where = f"{path}:{number}"
            fields = [field.strip() for field in line.split("\t")]
            if len(fields) < 3:
                problems.append(f"{where}: {line!r}; expected '[start - end]<TAB>id<TAB>label'")
                continue
            utt, label = fields[1], fields[2]
            if not _is_utterance_of(utt, path.stem):
                problems.append(f"{where}: {utt!r} is not an utterance id of dialog {path.stem}")
            elif label not in known:
                problems.append(f"{where}: unknown label {label!r}; known: {sorted(known)}")
            elif utt in labels:
                problems.append(f"{where}: {utt} stands a second time, first: {labels[utt][1]}")
            else:
                labels[utt] = label, where
                values = ATTRIBUTES.fullmatch(fields[3]) if len(fields) > 3 else None
                for name, value in zip(DIMENSIONS, values.groups() if values else (), strict=False):
                    tables[f"utt2{name}"][utt] = value
                if path.stem in videos:
                    start = fields[0].strip("[] ").partition(" ")[0]
                    wears_markers = utt.rpartition("_")[2][0] == path.stem[len("Ses01")]
                    box = LEFT_FACE if wears_markers else RIGHT_FACE
                    tables["utt2video"][utt] = f"{start} {box} {videos[path.stem]}"
    return labels


def _read_transcripts(session: Path, problems: list[str], skipped: Counter[str]) -> dict[str, str]:
    """Read utterance id -> words of one session, including tags such as [LAUGHTER]."""
    texts: dict[str, str] = {}
    for path in _dialogs(session, TRANSCRIPTS):
        for number, line in enumerate(_lines(path), start=1):
            timed = TIMED_LINE.fullmatch(line.strip())
            utt = timed[1] if timed else ""
            if UNLABELLED_ID.fullmatch(utt):
                skipped["transcript lines of unlabelled turns (_FXX0, _MXX0)"] += 1
            elif not _is_utterance_of(utt, path.stem):
                skipped["transcript lines without an utterance id"] += bool(line.strip())
            elif texts.setdefault(utt, timed[2].strip()) != timed[2].strip():
                problems.append(f"{path}:{number}: {utt} stands a second time with other words")
    return texts


def _index_wavs(session: Path, problems: list[str]) -> dict[str, Path]:
    """Index the wav files of one session: utterance id -> file."""
    wavs = {}
    for dialog in _dialogs(session, WAVS):
        for path in _wavs(dialog):
            if _is_utterance_of(path.stem, dialog.name):
                wavs[path.stem] = path
            else:
                problems.append(f"{path}: not an utterance of dialog {dialog.name}")
    return wavs


def _missing(
    session: Path,
    expected: Collection[str],
    labels: Mapping[str, Any],
    texts: Mapping[str, str],
    wavs: Mapping[str, Path],
) -> list[str]:
    """List items missing in one of the three folders: expected dialogs, or items of another folder.

    One line per dialog, or per folder if more than a few of its dialogs are incomplete, so that
    a folder that was not copied does not fill pages.
    """
    places = {LABELS: labels, TRANSCRIPTS: texts, WAVS: wavs}
    dialogs = {place: _dialog_ids(session, place) for place in places}
    everywhere = sorted(set(expected).union(*dialogs.values()))
    utts_of: dict[str, list[str]] = {dialog: [] for dialog in everywhere}
    for utt in sorted(set().union(*places.values())):
        utts_of[utt.rpartition("_")[0]].append(utt)
    short = []
    for place, present in dialogs.items():
        lacking = {
            dialog: [utt for utt in utts if utt not in places[place]]
            for dialog, utts in utts_of.items()
        }
        lacking = {d: utts for d, utts in lacking.items() if utts or d not in present}
        if len(lacking) > NAMES_SHOWN:
            what = "incomplete" if present & lacking.keys() else "missing"
            count = sum(map(len, lacking.values()))
            short.append(
                f"{session}/{place}: {len(lacking)} of {len(utts_of)} dialogs are {what} "
                f"({count} utterances): {some(lacking, NAMES_SHOWN)}"
            )
        else:
            for dialog, utts in lacking.items():
                path = session / place / dialog
                short.append(_lacks(place, path, utts, dialog in present, len(utts_of[dialog])))
    return short


def _lacks(place: str, path: Path, utts: Sequence[str], is_there: bool, size: int) -> str:
    """Line for a dialog that lacks ``utts`` in ``place``; ``path`` has no suffix."""
    if not is_there:
        hint = f" (the dialog has {size} utterances)" if size else ""
        return f"{path}{'' if place == WAVS else '.txt'}: missing{hint}"
    if place != WAVS:
        return (
            f"{path}.txt: no {'label' if place == LABELS else 'line'} for {some(utts, NAMES_SHOWN)}"
        )
    if len(utts) == 1:
        return f"{path}/{utts[0]}.wav: missing"
    return f"{path}: {len(utts)} of {size} wav files are missing: {some(utts, NAMES_SHOWN)}"


def _misplaced(name: str, session: Path) -> list[str]:
    return [
        f"{session}/{place}/{dialog}: a dialog of {dialog[:5]} in the folder of {name}"
        for place in (LABELS, TRANSCRIPTS, WAVS)
        for dialog in sorted(_dialog_ids(session, place))
        if not dialog.startswith(name)
    ]


def _is_utterance_of(utt: str, dialog: str) -> bool:
    # Whole names are compared: Ses05M_script01_1 is a prefix of Ses05M_script01_1b.
    match = UTTERANCE_ID.fullmatch(utt)
    return match is not None and match[1] == dialog


def _is_root(directory: Path) -> bool:
    return any((session / LABELS).is_dir() for session in _sessions(directory).values())


def _seems_root(directory: Path) -> bool:
    """Like ``_is_root``, for folders that the user did not name: /home may be unreadable."""
    try:
        return _is_root(directory)
    except OSError:
        return False


def _sessions(root: Path) -> dict[str, Path]:
    """``{"Ses01": root/Session1, ...}`` for the session folders that exist."""
    return {
        f"Ses0{match[1]}": path
        for path in _entries(root)
        if (match := SESSION_DIRECTORY.fullmatch(path.name)) and path.is_dir()
    }


def _dialog_ids(session: Path, place: str) -> set[str]:
    return {path.stem for path in _dialogs(session, place)}


def _dialogs(session: Path, place: str) -> list[Path]:
    """Text files, or else folders of wav files, that are named like a dialog.

    Other files beside them (notes, copies, other versions of the audio) are not part of the corpus.
    """
    entries = [path for path in _entries(session / place) if DIALOG_ID.fullmatch(path.stem)]
    if place == WAVS:
        return [path for path in entries if path.is_dir() and not path.suffix]
    return [path for path in entries if path.is_file() and path.suffix.lower() == ".txt"]


def _videos(session: Path) -> dict[str, Path]:
    """Videos present in a session: dialog -> file."""
    found = _entries(session / VIDEOS)
    return {path.stem: path for path in found if path.suffix.lower() == ".avi"}


def _wavs(dialog: Path) -> list[Path]:
    return [path for path in _entries(dialog) if path.suffix.lower() == ".wav" and path.is_file()]


def _entries(directory: Path) -> list[Path]:
    """Sorted entries of a folder; none if it is absent.

    Dot files are left out: copies made on macOS have a binary ``._name`` beside each file.
    """
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if not path.name.startswith("."))


def _lines(path: Path) -> list[str]:
    """Lines of a text file with LF, CRLF or CR endings, UTF-8 (with or without BOM) or Latin-1."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return re.split("\r\n|\r|\n", text)
