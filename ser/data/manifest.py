"""Export a prepared corpus and its folds as lhotse and EmoBox manifests.

Both formats are JSON lines, written here without these toolkits. The lhotse manifests are a
RecordingSet, SupervisionSet and CutSet (https://lhotse.readthedocs.io); EmoBox's have the format of
its ``data/<dataset>`` (Ma et al., Interspeech 2024, https://github.com/emo-box/EmoBox).
"""

import gzip
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ser.data.audio import AudioInfo, probe_files
from ser.data.folds import Folds, assign, caveat, sentence
from ser.data.official import read_splits
from ser.data.tables import (
    TABLES,
    UNKNOWN_GENDER,
    read_lines,
    read_table,
    read_undecided,
    validate_data_dir,
)
from ser.errors import UserError
from ser.files import atomic_dir, expand_home
from ser.stage import mark_done, read_marker, require_done

FORMATS = ("lhotse", "emobox")


@dataclass(frozen=True)
class _Corpus:
    """Content of both formats; ``paths`` are the audio files as named in the manifests."""

    name: str
    language: str
    emotions: list[str]  # in class order
    tables: Mapping[str, Mapping[str, str]]  # those in TABLES
    paths: Mapping[str, str]  # by utterance, like the headers
    headers: Mapping[str, AudioInfo]
    folds: Folds


def protocol_name(protocol: str, k: int | None) -> str:
    """Join ``kfold`` or ``crossed`` and ``k`` into one name, kfold5; keep other protocols.

    Raises UserError for these two without k, and for k with another protocol.
    """
    numbered = protocol in ("kfold", "crossed")
    if numbered and k is None:
        raise UserError(f"--protocol {protocol} needs a number of folds or groups, e.g. --k 5")
    if not numbered and k is not None:
        raise UserError(
            f"--k {k}: is for --protocol kfold and crossed; leave it out with {protocol}"
        )
    return protocol if k is None else f"{protocol}{k}"


def write_manifests(
    data_dir: Path,
    protocol: str = "strict",
    form: str = "both",
    output: Path | None = None,
    relative_to: Path | None = None,
    nj: int = 4,
) -> Path:
    """Write ``output`` atomically from ``data_dir/all``, print a summary and return ``output``.

    ``form`` is lhotse, emobox or both. Audio paths are absolute, or relative to ``relative_to``.
    An existing ``output`` is replaced if this function made it.

    Raises UserError, with nothing written, if stage 1 has not been run or its tables disagree,
    the corpus does not fit the protocol, an audio file cannot be read or is outside of
    ``relative_to``, or ``output`` holds something else.
    """
    source = data_dir / "all"
    require_done(source, 1, "the corpus tables")
    output = output or data_dir / "manifests" / protocol
    _require_own(output)
    validate_data_dir(source)
    tables = {name: read_table(source / name, name == "text") for name in TABLES}
    for utt in read_undecided(source):  # they have no label
        for table in tables.values():
            table.pop(utt, None)
    wavs = tables["wav.scp"]
    corpus = _Corpus(
        name=data_dir.absolute().resolve().name,
        language=read_lines(source / "language")[0],
        emotions=read_lines(source / "emotions"),
        tables=tables,
        paths={utt: _seen_from(relative_to, path) for utt, path in wavs.items()},
        folds=assign(
            protocol,
            *(tables[name] for name in ("utt2spk", "utt2session", "utt2emo")),
            {utt: sentence(utt, text) for utt, text in tables["text"].items()},
            read_splits(source),
        ),
        headers=dict(zip(wavs, probe_files(list(wavs.values()), nj), strict=True)),
    )
    forms = FORMATS if form == "both" else (form,)
    with atomic_dir(output) as temporary:
        for name in forms:
            {"lhotse": _write_lhotse, "emobox": _write_emobox}[name](temporary / name, corpus)
        mark_done(temporary, {"manifests": list(forms), "corpus": corpus.name})
    _report(output, source, forms, protocol, corpus)
    return output


def _require_own(output: Path) -> None:
    """Raise UserError unless ``output`` is absent, empty, or was made by this module."""
    if output.is_dir() and (
        not any(output.iterdir()) or "manifests" in (read_marker(output) or {})
    ):
        return
    if os.path.lexists(output):
        what = "a folder with other things in it" if output.is_dir() else "not a folder"
        raise UserError(
            f"--output {output}: {what}; give a folder that is new, empty or holds "
            "manifests of ser manifest, which it replaces"
        )


def _seen_from(base: Path | None, path: str) -> str:
    if base is None:
        return path
    relative = os.path.relpath(path, expand_home(base).absolute())
    if relative.split(os.sep)[0] == os.pardir:
        raise UserError(f"--relative-to {base}: {path} is not in it; give a folder above all audio")
    return relative


def _report(
    output: Path, source: Path, forms: Sequence[str], protocol: str, corpus: _Corpus
) -> None:
    mark = caveat(protocol)
    print(
        f"{output}: {' and '.join(forms)}, {len(corpus.paths)} utterances, {len(corpus.folds)} "
        f"folds of protocol {protocol}{f' ({mark})' if mark else ''}"
    )
    if (source / "partial").exists():
        print(f"warning: the corpus is not complete; {source}/partial says what it lacks")


# --- lhotse ------------------------------------------------------------------------------------


def _write_lhotse(directory: Path, corpus: _Corpus) -> None:
    recordings = {utt: _recording(utt, corpus) for utt in corpus.paths}
    supervisions = {utt: _supervision(utt, corpus) for utt in corpus.paths}
    directory.mkdir()
    _write_jsonl_gz(directory / "recordings.jsonl.gz", recordings.values())
    _write_jsonl_gz(directory / "supervisions.jsonl.gz", supervisions.values())
    for fold, splits in corpus.folds.items():
        (directory / fold).mkdir()
        for split, utts in splits.items():
            cuts = (_cut(recordings[utt], supervisions[utt]) for utt in utts)
            _write_jsonl_gz(directory / fold / f"cuts_{split}.jsonl.gz", cuts)


def _recording(utt: str, corpus: _Corpus) -> dict[str, Any]:
    info = corpus.headers[utt]
    channels = list(range(info.channels))
    return {
        "id": utt,
        "sources": [{"type": "file", "channels": channels, "source": corpus.paths[utt]}],
        "sampling_rate": info.sample_rate,
        "num_samples": info.num_samples,
        "duration": info.duration,
        "channel_ids": channels,
    }


def _supervision(utt: str, corpus: _Corpus) -> dict[str, Any]:
    """One supervision for the whole recording; unknown values (words, gender) have no key."""
    info, tables = corpus.headers[utt], corpus.tables
    optional = {"text": tables["text"][utt], **_gender(utt, corpus)}
    return {
        "id": utt,
        "recording_id": utt,
        "start": 0.0,
        "duration": info.duration,
        "channel": 0 if info.channels == 1 else list(range(info.channels)),
        "language": corpus.language,
        "speaker": tables["utt2spk"][utt],
        **{key: value for key, value in optional.items() if value},
        "custom": {"emotion": tables["utt2emo"][utt], "session": tables["utt2session"][utt]},
    }


def _cut(recording: Mapping[str, Any], supervision: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": recording["id"],
        "start": 0.0,
        "duration": recording["duration"],
        "channel": supervision["channel"],
        "supervisions": [supervision],
        "recording": recording,
        "type": "MonoCut" if len(recording["channel_ids"]) == 1 else "MultiCut",
    }


# --- EmoBox ------------------------------------------------------------------------------------


def _write_emobox(directory: Path, corpus: _Corpus) -> None:
    name = corpus.name
    home = directory / name
    home.mkdir(parents=True)
    rows = {utt: _emobox_row(utt, corpus) for utt in corpus.paths}
    (home / f"{name}.jsonl").write_bytes(_json_lines(rows.values()))
    same = {emotion: emotion for emotion in corpus.emotions}
    (home / "label_map.json").write_text(json.dumps(same, indent=4) + "\n", encoding="utf-8")
    lines = []
    for number, (fold, splits) in enumerate(corpus.folds.items(), start=1):
        lines.append(f"fold_{number}\t{fold}\n")
        (home / f"fold_{number}").mkdir()
        for split, utts in splits.items():
            path = home / f"fold_{number}" / f"{name}_{split}_fold_{number}.jsonl"
            path.write_bytes(_json_lines(rows[utt] for utt in utts))
    (home / "folds.tsv").write_text("".join(lines), encoding="utf-8")


def _emobox_row(utt: str, corpus: _Corpus) -> dict[str, Any]:
    """EmoBox's keys, then ours, which it ignores. ``length`` is in seconds."""
    info = corpus.headers[utt]
    return {
        "key": utt,
        "dataset": corpus.name,
        "wav": corpus.paths[utt],
        "type": "raw",  # a waveform, not a feature
        "sample_rate": info.sample_rate,
        "num_frame": info.num_samples,
        "task": "category",
        "length": info.duration,
        "emo": corpus.tables["utt2emo"][utt],
        "channel": info.channels,
        "speaker": corpus.tables["utt2spk"][utt],
        **_gender(utt, corpus),
    }


def _gender(utt: str, corpus: _Corpus) -> dict[str, str]:
    gender = corpus.tables["utt2gender"][utt]
    return {} if gender == UNKNOWN_GENDER else {"gender": gender}


# --- files -------------------------------------------------------------------------------------


def _write_jsonl_gz(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_bytes(gzip.compress(_json_lines(rows), mtime=0))  # the same bytes every time


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
