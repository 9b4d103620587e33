"""Stage 3: data/<corpus> -> dump/<corpus>, the only input of training and scoring.

The dump holds waveforms (references, or arks if the source is not 16-kHz mono 16-bit), the
tables and targets, optionally features, and the folds. Each part has its own done-marker, so
adding a token type, a feature type or a protocol leaves the others alone. Tables ``utt2<name>``
that the user put into data/<corpus>/all are copied; they may lack utterances.
"""

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import kaldiio
import numpy as np

from ser.console import progress
from ser.data.audio import SAMPLE_RATE, probe, read_16k_mono
from ser.data.features import extract_features, load_for_ark, require_extractor, write_arks
from ser.data.folds import assign, make_folds, require_names, require_training, sentence
from ser.data.official import read_splits
from ser.data.parallel import parallel_map
from ser.data.tables import TABLES as DATA_TABLES
from ser.data.tables import (
    lang_inputs,
    own_ids,
    read_lines,
    read_table,
    read_undecided,
    user_tables,
    validate_data_dir,
    write_spk_tables,
    write_table,
)
from ser.errors import UserError, join_problems
from ser.files import locked, write_once
from ser.stage import MARKER, digest, file_digest, is_done, mark_done, read_marker, require_done

TABLES = ("utt2emo", "utt2spk", "utt2gender", "utt2session", "utt2orig")
OWN_TABLES = (*TABLES, "utt2sentence", "utt2num_samples", "utt2hash")
LISTS = ("emotions", "language", "partial")  # partial only if the corpus is incomplete
DEFAULT_TOKEN_TYPE = "tagged_class"
RAW = "raw"  # feature type of systems that read the waveform: nothing to extract
FILES_PER_JOB = 100
BAD_FILES_SHOWN = 10


@dataclass(frozen=True)
class _Surveyed:
    """One utterance after reading its audio: either a ``problem``, or its data for the dump."""

    utt: str
    problem: str = ""
    num_samples: int = 0  # at 16 kHz
    sha1: str = ""  # of the int16 samples, to detect copies under another name
    referenced: bool = False
    resampled: bool = False
    mixed: bool = False


def prepare_dump(
    data_dir: Path, dump_dir: Path, token_type: str, feats_type: str, protocol: str, nj: int
) -> None:
    """Make the missing parts of ``dump_dir`` from ``data_dir``, and print a summary.

    Tables and audio are checked before the first write. Raises UserError if stage 1 or 2 has
    not been run, tables disagree, audio cannot be used (the first ten files are named), the
    corpus does not fit the protocol, the folds fail their audit, the disk is full, or openSMILE
    features are requested without openSMILE.
    """
    require_extractor(feats_type)
    source = data_dir / "all"
    require_done(source, 1, "the corpus tables")
    lang_dirs = {"": data_dir / "lang"}
    if token_type != DEFAULT_TOKEN_TYPE:
        lang_dirs[f"_{token_type}"] = data_dir / f"lang_{token_type}"
    for directory in lang_dirs.values():
        require_done(directory, 2, "the units and targets")
    _check_tables(source, lang_dirs)
    tables = [read_table(source / name) for name in ("utt2spk", "utt2session", "utt2emo")]
    splits, undecided = read_splits(source), read_undecided(source)
    folds = assign(protocol, *tables, _sentences(source), splits, undecided)
    require_training(protocol, folds, tables[0])
    require_names(protocol, folds)

    lock = data_dir / ".dump.lock"
    with locked(lock, f"{dump_dir}: another process is writing it; waiting"):
        made = _write_dump(source, dump_dir, lang_dirs, feats_type, protocol, nj)
    _print_summary(dump_dir, protocol, made)


def _write_dump(
    source: Path,
    dump_dir: Path,
    lang_dirs: Mapping[str, Path],
    feats_type: str,
    protocol: str,
    nj: int,
) -> list[str]:
    """Write the missing parts and return their names."""
    made = []
    if _dump_audio(source, dump_dir, nj):
        made.append("audio")
    settings = _dump_tables(source, dump_dir, lang_dirs)
    if feats_type != RAW:
        if extract_features(dump_dir, feats_type, nj):
            made.append(feats_type)
        feats = (dump_dir / feats_type / "feats.scp").read_bytes()
        write_once(dump_dir / "feats.scp", feats)  # for Kaldi
    if make_folds(protocol, dump_dir):
        made.append(f"folds/{protocol}")
    if not is_done(dump_dir, settings):
        mark_done(dump_dir, settings)
        made.append("tables")
    return made


def require_current(data_dir: Path, dump_dir: Path) -> None:
    """Raise UserError if ``data_dir`` or the audio changed after ``dump_dir`` was made from them.

    A dump without its data directory is accepted as it is.
    """
    source = data_dir / "all"
    if read_marker(source) is None:
        return
    again = "./run.sh --stage 2 --stop-stage 3 with the same --corpus and options"
    marker, settings = read_marker(dump_dir) or {}, _table_settings(source)
    if any(marker.get(key) != settings.get(key) for key in ("tables", "user_tables")):
        raise UserError(
            f"{dump_dir}: not made from what {source} holds now; make it again: {again}"
        )
    sources = (read_marker(dump_dir / "wav") or {}).get("sources")
    if sources != _digest_sources(read_table(source / "wav.scp")):
        raise UserError(
            f"{dump_dir}: audio files of {source}/wav.scp have changed since it was made; make it "
            "again, and the corpus tables before: ./run.sh --stage 1 --stop-stage 3 with the same "
            "--corpus and options"
        )


def _check_tables(source: Path, lang_dirs: Mapping[str, Path]) -> None:
    """Raise UserError unless all tables and target files cover the same utterances."""
    validate_data_dir(source)
    utts = read_table(source / "utt2spk").keys()
    _check_user_tables(source, {*utts, *own_ids(source).values()})
    for directory in lang_dirs.values():
        targets = read_table(directory / "text.units", allow_empty=True).keys()
        odd = sorted(utts ^ targets)
        if odd:
            raise UserError(
                f"{directory}/text.units: made from other utterances than {source} has now "
                f"({len(odd)} differ, the first is {odd[0]}); make it again: ./run.sh "
                "--stage 2 --stop-stage 2 with the same --corpus and options"
            )
        inputs = (read_marker(directory) or {}).get("inputs")
        if inputs not in (None, lang_inputs(source)):
            raise UserError(
                f"{directory}: made from other labels or transcripts than {source} has now; make "
                "it again: ./run.sh --stage 2 --stop-stage 2 with the same --corpus and options"
            )


def _check_user_tables(source: Path, utts: Collection[str]) -> None:
    problems, tables = [], user_tables(source)
    for path in sorted(source.glob("utt2*")):
        if path not in tables and path.name not in DATA_TABLES:
            print(
                f"warning: {path}: not copied to dump/, so no head can name it; call it "
                "utt2<name>, of letters, digits, _ and -"
            )
    for path in tables:
        if path.name in OWN_TABLES:
            problems.append(f"{path}: stage 3 writes a table of this name itself; rename yours")
        for number, utt in enumerate(read_table(path), start=1):
            if utt not in utts:
                problems.append(f"{path}:{number}: {utt} is no utterance of {source}/utt2spk")
    if problems:
        raise UserError(join_problems(problems, "correct these tables or take them away"))


def _dump_audio(source: Path, dump_dir: Path, nj: int) -> bool:
    """Write wav.scp, utt2num_samples, utt2hash and, where needed, wav/wav.*.ark."""
    wavs = read_table(source / "wav.scp")
    directory = dump_dir / "wav"
    settings = {"directory": os.path.abspath(directory), "sources": _digest_sources(wavs)}
    written = [dump_dir / name for name in ("wav.scp", "utt2num_samples", "utt2hash")]
    if is_done(directory, settings) and all(map(Path.is_file, written)):
        return False
    surveyed = _survey(wavs, nj)
    _refuse_bad_audio(surveyed)
    _invalidate(dump_dir, "wav", "folds/*", "*")
    (dump_dir / "feats.scp").unlink(missing_ok=True)
    copies = {s.utt: wavs[s.utt] for s in surveyed if not s.referenced}
    arks = write_arks(directory, "wav", copies, load_for_ark, settings, nj)
    write_table(dump_dir / "wav.scp", {**wavs, **arks})
    write_table(dump_dir / "utt2num_samples", {s.utt: s.num_samples for s in surveyed})
    write_table(dump_dir / "utt2hash", {s.utt: s.sha1 for s in surveyed})
    counts = {
        "referenced": len(wavs) - len(copies),
        "copied": len(copies),
        "resampled": sum(s.resampled for s in surveyed),
        "mixed": sum(s.mixed for s in surveyed),
    }
    write_table(directory / "counts", counts)
    mark_done(directory, settings)
    return True


def _digest_sources(wavs: Mapping[str, str]) -> str:
    return digest(f"{utt} {_stamp(path)} {path}" for utt, path in wavs.items())


def _table_settings(source: Path) -> dict[str, str | dict[str, str]]:
    """Entry of the dump's done-marker for the tables of ``source``."""
    lists = [name for name in LISTS if (source / name).exists()]
    settings = {"tables": file_digest(*(source / name for name in (*TABLES, *lists)))}
    extra = {path.name: file_digest(path) for path in user_tables(source)}
    return {**settings, "user_tables": extra} if extra else settings


def _stamp(path: str) -> str:
    """Size and modification time of a file, to detect changes without reading it."""
    try:
        status = os.stat(path)
    except OSError:
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"


def _survey(wavs: Mapping[str, str], nj: int) -> list[_Surveyed]:
    items = list(wavs.items())
    jobs = [items[start : start + FILES_PER_JOB] for start in range(0, len(items), FILES_PER_JOB)]
    surveyed: list[_Surveyed] = []
    for number, results in enumerate(parallel_map(_survey_files, jobs, nj), start=1):
        surveyed += results
        if number % 10 == 0 or number == len(jobs):
            progress(f"audio: {len(surveyed)} of {len(items)} files read")
    return surveyed


def _survey_files(items: Sequence[tuple[str, str]]) -> list[_Surveyed]:
    return [_survey_file(utt, path) for utt, path in items]


def _survey_file(utt: str, path: str) -> _Surveyed:
    try:
        info = probe(path)
        speech = read_16k_mono(path)
    except (UserError, OSError) as err:
        return _Surveyed(utt, problem=f"{utt}: {err}")
    return _Surveyed(
        utt,
        num_samples=len(speech),
        sha1=hashlib.sha1(speech.tobytes()).hexdigest(),
        referenced=info.is_16k_mono_pcm16 and _kaldiio_loads(path, speech),
        resampled=info.sample_rate != SAMPLE_RATE,
        mixed=info.channels > 1,
    )


def _kaldiio_loads(path: str, speech: np.ndarray) -> bool:
    """True if kaldiio reads exactly ``speech`` when wav.scp holds ``path``.

    kaldiio reads a final ``|`` as a shell command, ``:12`` as an offset and ``[3:4]`` as a slice,
    and its WAV reader supports fewer variants than libsndfile; so this is tested.
    """
    if not os.path.isabs(path) or path.endswith("|") or not path.isprintable():
        return False
    try:
        rate, samples = kaldiio.load_mat(path)
    except Exception:  # whatever the reason, the file goes into an ark
        return False
    return rate == SAMPLE_RATE and samples.dtype == np.int16 and np.array_equal(samples, speech)


def _refuse_bad_audio(surveyed: Sequence[_Surveyed]) -> None:
    problems = [s.problem for s in surveyed if s.problem]
    if not problems:
        return
    cure = (
        "nothing was written; fix these files, or leave them out (file names and tables: ignore in "
        "corpus.yaml), then run stages 1 to 3 again"
    )
    head = f"{len(problems)} of {len(surveyed)} utterances have audio that cannot be used:"
    raise UserError(f"{head}\n  {join_problems(problems, cure, BAD_FILES_SHOWN)}")


def _dump_tables(
    source: Path, dump_dir: Path, lang_dirs: Mapping[str, Path]
) -> dict[str, dict[str, str] | str]:
    """Copy tables and targets; return the settings of the dump's done-marker."""
    lists = [name for name in LISTS if (source / name).exists()]
    settings = {
        "audio": file_digest(dump_dir / "utt2hash"),
        **_table_settings(source),
        "sentences": file_digest(source / "text"),
        "text": {
            suffix: file_digest(directory / "text.units", directory / "units.txt")
            for suffix, directory in lang_dirs.items()
        },
    }
    before = read_marker(dump_dir) or {}
    same_corpus = all(before.get(key) == settings[key] for key in ("audio", "tables"))
    if same_corpus:  # targets of other token types stay valid
        settings["text"] = {**before["text"], **settings["text"]}
    if is_done(dump_dir, settings):
        return settings

    if same_corpus:
        _invalidate(dump_dir)
    else:
        _invalidate(dump_dir, "folds/*")
        for path in [*dump_dir.glob("text_*"), *dump_dir.glob("units_*")]:
            path.unlink()
    tables = {name: read_table(source / name) for name in TABLES}
    for name, table in tables.items():
        write_table(dump_dir / name, table)
    write_spk_tables(dump_dir, tables)
    write_table(dump_dir / "utt2sentence", _sentences(source))
    extra = {path.name: path for path in user_tables(source)}
    for path in dump_dir.glob("utt2*"):  # since removed from the source
        if path.name not in extra and path.name not in OWN_TABLES:
            path.unlink()
    ids = {own: utt for utt, own in tables["utt2orig"].items()}
    for name, path in extra.items():
        table = read_table(path)
        write_table(dump_dir / name, {ids.get(utt, utt): table[utt] for utt in table})
    for name in LISTS:
        if name in lists:
            write_once(dump_dir / name, (source / name).read_bytes())
        else:
            (dump_dir / name).unlink(missing_ok=True)
    for suffix, directory in lang_dirs.items():
        write_once(dump_dir / f"text{suffix}", (directory / "text.units").read_bytes())
        write_once(dump_dir / f"units{suffix}.txt", (directory / "units.txt").read_bytes())
    return settings


def _sentences(source: Path) -> dict[str, str]:
    return {utt: sentence(utt, text) for utt, text in read_table(source / "text", True).items()}


def _invalidate(dump_dir: Path, *parts: str) -> None:
    """Remove the markers of the dump and of ``parts`` (patterns) before they are rewritten."""
    for pattern in (".", *parts):
        for marker in dump_dir.glob(f"{pattern}/{MARKER}"):
            marker.unlink()
    dump_dir.mkdir(parents=True, exist_ok=True)


def _print_summary(dump_dir: Path, protocol: str, made: Sequence[str]) -> None:
    samples = [int(value) for value in read_table(dump_dir / "utt2num_samples").values()]
    hours = sum(samples) / SAMPLE_RATE / 3600
    counts = read_table(dump_dir / "wav" / "counts")
    print(f"{dump_dir}: {', '.join(made) + ' written' if made else 'already done'}")
    print(
        f"{len(samples)} utterances, {hours:.2f} hours: {counts['referenced']} referenced, "
        f"{counts['copied']} copied to arks ({counts['resampled']} resampled, "
        f"{counts['mixed']} mixed down to mono)"
    )
    if (dump_dir / "partial").exists():
        print(f"partial corpus: {len(read_lines(dump_dir / 'partial'))} lines in partial")
    print((dump_dir / "folds" / protocol / "audit.txt").read_text(encoding="utf-8"), end="")
