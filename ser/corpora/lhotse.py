"""Lhotse manifests: recordings and supervisions, or cuts, as JSON lines, gzipped or not.

corpus.yaml may give the files relative to --corpus-dir, as names or patterns (``recordings``,
``supervisions``, ``cuts``), ``columns`` (ser/corpora/rows.py; fields of the supervision, such as
custom.emotion) and ``audio_dir``, the base of relative audio paths (default: --corpus-dir). Every
supervision is an utterance. A supervision of part of a recording, or of one of its channels, is
cut out into data/<corpus>/audio once. Lhotse itself is not needed.
"""

import gzip
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import soundfile

from ser.corpora.rows import (
    Row,
    RowsReader,
    audio_folder,
    choose_columns,
    given_root,
    on_disk,
    pick,
)
from ser.corpora.spec import dumped
from ser.corpora.table import json_lines
from ser.data.audio import open_sound, probe
from ser.errors import UserError
from ser.files import atomic_write

PATTERNS = {kind: f"*{kind}*.jsonl*" for kind in ("supervisions", "recordings", "cuts")}
TOLERANCE = 0.01  # s; allowed difference between a full supervision and its recording
WAV_SUBTYPES = ("PCM_16", "PCM_24", "PCM_32", "FLOAT")  # kept; others become PCM_16


class Reader(RowsReader):
    """Reader of manifests; segments are cut out into ``home``."""

    def find(self, directory: Path | None) -> Path:
        """Find the folder of the manifests; UserError if it has none."""
        root = given_root(self.spec, self.egs, directory)
        if not root.is_dir():
            raise UserError(f"--corpus-dir {root}: a file; give the folder of the manifests")
        self._manifests(root)
        return root

    def fingerprint_files(self, root: Path) -> Iterable[Path]:
        """The manifests and the audio files that they name."""
        manifests = [path for paths in self._manifests(root).values() for path in paths]
        audio = {r.audio if isinstance(r.audio, Path) else r.audio.args[0] for r in self.rows(root)}
        return [*manifests, *sorted(path for path in audio if path.is_file())]

    def _read(self, root: Path) -> list[Row]:
        """Make a row for each supervision."""
        manifests = self._manifests(root)
        pairs: list[tuple[str, dict, dict, float]] = []  # where, supervision, recording, offset
        if "cuts" in manifests:
            for where, cut in _objects(manifests["cuts"]):
                if "tracks" in cut or "recording" not in cut:
                    raise UserError(
                        f"{where}: cut {cut.get('id')} is of type {cut.get('type')}; expected one "
                        "with a recording: save MonoCuts or MultiCuts, e.g. cuts.to_eager()"
                    )
                for said in cut.get("supervisions", ()):
                    pairs.append((where, said, cut["recording"], float(cut["start"])))
        else:
            recordings = {r.get("id"): r for _, r in _objects(manifests["recordings"])}
            for where, said in _objects(manifests["supervisions"]):
                recording = recordings.get(said.get("recording_id"))
                if recording is None:
                    raise UserError(
                        f"{where}: recording {said.get('recording_id')!r} is not in "
                        f"{manifests['recordings'][0]}; give the recordings of these supervisions"
                    )
                pairs.append((where, said, recording, 0.0))
        if not pairs:
            raise UserError(f"{root}: no supervision in its manifests; expected one an utterance")
        base = audio_folder(self.spec, root)
        found = (key for _, said, _, _ in pairs for key in said)
        columns = choose_columns(self.spec, found, str(root), needs_audio=False)
        return [
            Row(where, pick(said, columns), _audio(where, said, recording, offset, base))
            for where, said, recording, offset in pairs
        ]

    def _manifests(self, root: Path) -> dict[str, list[Path]]:
        """Find the manifests: kind -> files, either cuts, or recordings and supervisions."""
        stated = dumped(self.spec)
        named = {kind: stated[kind] for kind in PATTERNS if kind in stated}
        patterns = {k: p for k, p in PATTERNS.items() if k in (named or PATTERNS)} | named
        found = {kind: sorted(root.glob(pattern)) for kind, pattern in patterns.items()}
        if found.get("supervisions") and found.get("recordings"):
            return {kind: found[kind] for kind in ("supervisions", "recordings")}
        if found.get("cuts"):
            return {"cuts": found["cuts"]}
        raise UserError(
            f"--corpus-dir {root}: expected supervisions and recordings, or cuts, of lhotse "
            f"({', '.join(patterns.values())}); give their folder, or name them in "
            "corpus.yaml, e.g. cuts: train.jsonl.gz"
        )


def _objects(paths: Iterable[Path]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield (file and line, object) of each line; UserError if it is not JSON or truncated."""
    for path in paths:
        data = path.read_bytes()
        try:
            text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as err:
            raise UserError(f"{path}: cannot be read ({err}); write the manifest again") from err
        for number, value in json_lines(path, text):
            yield f"{path}:{number}", value


def _audio(
    where: str, said: Mapping[str, Any], recording: Mapping[str, Any], offset: float, base: Path
) -> Any:
    """File of a supervision of a whole recording, else a function to cut it out (``Row.audio``)."""
    channel = said.get("channel", 0)
    channels = sorted(channel if isinstance(channel, list) else [channel])
    sources = [s for s in recording.get("sources", ()) if set(channels) <= set(s["channels"])]
    kinds = {source.get("type") for source in recording.get("sources", ())}
    if kinds != {"file"} or recording.get("transforms") or not sources:
        what = (
            f"audio of type {', '.join(map(str, sorted(kinds - {'file'}, key=str)))}"
            if kinds - {"file"}
            else "transforms"
            if recording.get("transforms")
            else f"no file with channels {channels}"
        )
        raise UserError(
            f"{where}: recording {recording.get('id')} has {what}; expected audio files as they "
            "are: save it with lhotse first (cuts.save_audios)"
        )
    source = sources[0]
    path = on_disk(source["source"], base)
    start, duration = offset + float(said["start"]), float(said["duration"])
    ends = start + duration
    whole = start <= TOLERANCE and abs(ends - float(recording["duration"])) <= TOLERANCE
    if (whole and channels == sorted(source["channels"])) or not path.is_file():
        return path  # read_rows reports a missing file
    if start < 0 or duration <= 0 or ends > float(recording["duration"]) + TOLERANCE:
        raise UserError(
            f"{where}: from {start:g} to {ends:g} s of a recording of {recording['duration']:g} s; "
            "correct start and duration"
        )
    columns = [sorted(source["channels"]).index(c) for c in channels]
    return partial(cut_out, path, start, ends, columns)


def cut_out(
    path: Path, start: float, end: float, channels: Sequence[int], folder: Path, utt_id: str
) -> Path:
    """Cut ``start`` to ``end`` (s) of these channels (from 0) into a WAV file in ``folder``.

    The file's name holds samples and channels, and it has the time stamp of ``path``; an existing
    one is kept. Raises UserError for audio that cannot be read.
    """
    info = probe(path)
    first, last = round(start * info.sample_rate), round(end * info.sample_rate)
    kept = "".join(f"c{channel}" for channel in channels)
    target = folder / f"{utt_id}.{first}-{last}.{kept}.wav"
    stamp = path.stat().st_mtime_ns
    if target.is_file() and target.stat().st_mtime_ns == stamp:
        return target
    with open_sound(path) as sound:
        sound.seek(first)
        samples = sound.read(last - first, dtype="float64", always_2d=True)  # (N, channels)
    subtype = info.subtype if info.subtype in WAV_SUBTYPES else "PCM_16"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(target, "wb") as stream:
        soundfile.write(stream, samples[:, channels], info.sample_rate, subtype, format="WAV")
        stream.flush()
        os.utime(stream.fileno(), ns=(stamp, stamp))
    return target
