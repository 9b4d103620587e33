"""Waveforms and acoustic features in kaldiio arks, written so that a killed run can resume.

Three feature types are frame-level, with 25-ms windows (400 samples), a 10-ms shift (160 samples)
and no padding: N samples give T = 1 + (N - 400) // 160 frames. Samples are in 16-bit units, as in
Kaldi, and no dither is added, so that the same audio always gives the same features. Two more are
openSMILE functionals: one vector per utterance, T = 1. ``audio_video`` has 40-ms frames (video.py).
"""

import functools
import importlib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ser.console import progress
from ser.data import video
from ser.data.audio import FRAME_SAMPLES, FULL_SCALE, SAMPLE_RATE, read_16k_mono
from ser.data.parallel import parallel_map
from ser.data.tables import read_table, write_table
from ser.errors import UserError
from ser.files import atomic_write
from ser.stage import MARKER, digest, is_done, mark_done

FRAME_SHIFT = 160  # samples: 10 ms
OPENSMILE_SAMPLES = 960  # 60 ms: the shortest input of openSMILE
UTTERANCES_PER_ARK = 1000
# kSpeechFeature of Kaldi's compressed-matrix.h: one byte per value, quantiles per column.
COMPRESSION_METHOD = 2
BYTES = 6  # kOneByteUnsignedInteger: the values are bytes
STARTED = ".started"


def num_frames(num_samples: int) -> int:
    """T, the number of whole 25-ms frames in ``num_samples`` samples at 16 kHz."""
    return 1 + (num_samples - FRAME_SAMPLES) // FRAME_SHIFT


def spectrogram(speech: np.ndarray) -> np.ndarray:
    """Log power spectrogram: (N,) int16 -> (T, 201) float32, 40 Hz a column.

    ln |STFT|^2 with a Hann window of one frame; nothing is emphasised or subtracted.
    """
    import torch

    spectrum = torch.stft(
        torch.from_numpy(speech.astype(np.float32)),
        n_fft=FRAME_SAMPLES,
        hop_length=FRAME_SHIFT,
        window=torch.hann_window(FRAME_SAMPLES, periodic=False),
        center=False,
        return_complex=True,
    )  # (201, T)
    power = spectrum.abs().square().clamp_min(torch.finfo(torch.float32).eps)
    return power.log().T.contiguous().numpy()  # (T, 201)


def fbank(speech: np.ndarray) -> np.ndarray:
    """Log-mel filter bank: (N,) int16 -> (T, 80) float32.

    Kaldi's compute-fbank-feats: DC removed, pre-emphasis 0.97, Povey window, 80 triangular
    filters from 20 Hz to 8 kHz.
    """
    import torchaudio

    return torchaudio.compliance.kaldi.fbank(
        _as_batch(speech), num_mel_bins=80, low_freq=20.0, high_freq=8000.0, dither=0.0
    ).numpy()


def mfcc(speech: np.ndarray) -> np.ndarray:
    """Mel-frequency cepstra: (N,) int16 -> (T, 40) float32.

    Kaldi's compute-mfcc-feats with its high-resolution settings: 40 filters from 20 Hz to
    7.6 kHz, all 40 cepstra kept, C0 rather than the energy, lifter 22.
    """
    import torchaudio

    return torchaudio.compliance.kaldi.mfcc(
        _as_batch(speech),
        num_mel_bins=40,
        num_ceps=40,
        low_freq=20.0,
        high_freq=7600.0,
        use_energy=False,
        dither=0.0,
    ).numpy()


def fbank_mfcc(speech: np.ndarray) -> np.ndarray:
    """Log-mel energies and cepstra side by side: (N,) int16 -> (T, 120) float32."""
    return np.hstack([fbank(speech), mfcc(speech)])


def _as_batch(speech: np.ndarray) -> Any:
    import torch
    import torchaudio  # noqa: F401  (compliance.kaldi is an attribute of it)

    return torch.from_numpy(speech.astype(np.float32))[None]  # (1, N)


def egemaps(speech: np.ndarray) -> np.ndarray:
    """Functionals of the extended Geneva set, eGeMAPSv02: (N,) int16 -> (1, 88) float32.

    Eyben et al., 2016. Computed by openSMILE (requirements-apps.txt; for research only).
    """
    return _functionals("eGeMAPSv02", speech)


def compare(speech: np.ndarray) -> np.ndarray:
    """Functionals of the ComParE_2016 set: (N,) int16 -> (1, 6373) float32.

    Schuller et al., 2016. Computed by openSMILE (requirements-apps.txt; for research only).
    """
    return _functionals("ComParE_2016", speech)


def _functionals(feature_set: str, speech: np.ndarray) -> np.ndarray:
    """Compute openSMILE's functionals of a whole utterance, (1, F) float32.

    Utterances below openSMILE's minimum length are padded to it. Functionals that are not finite,
    such as a division by the energy of silence, become 0.
    """
    padding = max(0, OPENSMILE_SAMPLES - len(speech))
    signal = np.pad(speech.astype(np.float32) / np.float32(FULL_SCALE), (0, padding))
    values = _smile(feature_set).process_signal(signal, SAMPLE_RATE).to_numpy()
    with np.errstate(over="ignore"):  # float32 overflow gives inf, hence 0
        values = values.astype(np.float32)
    return np.where(np.isfinite(values), values, np.float32(0))


@functools.cache
def _smile(feature_set: str) -> Any:
    opensmile = _import_opensmile()
    return opensmile.Smile(
        feature_set=opensmile.FeatureSet[feature_set],
        feature_level=opensmile.FeatureLevel.Functionals,
    )


def _import_opensmile() -> Any:
    """Import the package; raise UserError that says how to install it if it is missing."""
    try:
        return importlib.import_module("opensmile")
    except ImportError as err:
        raise UserError(
            f"feats_type {' and '.join(FUNCTIONALS)}: openSMILE is not installed here ({err}). Its "
            "licence (audEERING) allows research and private use, not commercial products; where "
            "that suits you: .venv/bin/python -m pip install -r requirements-apps.txt"
        ) from None


# Functions of the audio alone; video.audio_video also takes the video
FEATS_TYPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "spectrogram": spectrogram,
    "fbank": fbank,
    "mfcc": mfcc,
    "fbank_mfcc": fbank_mfcc,
    "egemaps": egemaps,
    "compare": compare,
}
# values per frame
FEATS_SIZES = {
    "spectrogram": 201,
    "fbank": 80,
    "mfcc": 40,
    "fbank_mfcc": 120,
    "egemaps": 88,
    "compare": 6373,
    "audio_video": video.FRAME_BYTES,
}
FUNCTIONALS = ("egemaps", "compare")  # one vector per utterance


def require_extractor(feats_type: str) -> None:
    """Raise UserError for an unknown type, or one whose package is not installed."""
    known = ("raw", *FEATS_TYPES, video.AUDIO_VIDEO)
    if feats_type not in known:
        raise UserError(
            f"--feats-type {feats_type}: no such type; choose one of {', '.join(known)}"
        )
    if feats_type in FUNCTIONALS:
        _import_opensmile()


def extract_features(dump_dir: Path, feats_type: str, nj: int) -> bool:
    """Write ``dump_dir/<feats_type>/{feats.scp,feats.*.ark,utt2num_frames}``.

    Reads wav.scp, utt2num_samples and utt2hash of ``dump_dir``. Returns False if the same
    features of the same audio exist already. An interrupted run resumes at the first unfinished
    ark.

    Raises UserError if an ark cannot be written (disk full, quota), or the package that computes
    these features is not installed.
    """
    directory = dump_dir / feats_type
    hashes = read_table(dump_dir / "utt2hash")
    settings = {
        "feats_type": feats_type,
        "directory": os.path.abspath(directory),
        "audio": digest(f"{utt} {value}" for utt, value in hashes.items()),
    }
    sources = read_table(dump_dir / "wav.scp")
    compression: int | None = COMPRESSION_METHOD
    if feats_type in FUNCTIONALS:
        compression = None  # a column of one value has no quantiles to compress it by
    elif feats_type == video.AUDIO_VIDEO:
        sources, compression = video.sources(dump_dir, sources), BYTES
        settings["video"] = digest(sources.values())
    if is_done(directory, settings):
        return False
    compute = functools.partial(_load_and_compute, feats_type)
    scp = write_arks(directory, "feats", sources, compute, settings, nj, compression)
    samples = read_table(dump_dir / "utt2num_samples")
    frames = {utt: str(_frames(feats_type, int(value))) for utt, value in samples.items()}
    write_table(directory / "utt2num_frames", frames)
    write_table(directory / "feats.scp", scp)
    mark_done(directory, settings)
    return True


def _frames(feats_type: str, num_samples: int) -> int:
    if feats_type in FUNCTIONALS:
        return 1
    if feats_type == video.AUDIO_VIDEO:
        return -(-num_samples // video.STEP)
    return num_frames(num_samples)


def compute_features(feats_type: str, speech: np.ndarray, *more: str) -> np.ndarray:
    """Compute (N,) int16 -> (T, F) float32; ``more`` is a utt2video line for ``audio_video``."""
    return video.audio_video(speech, *more) if more else FEATS_TYPES[feats_type](speech)


def _load_and_compute(feats_type: str, source: str) -> np.ndarray:
    import kaldiio

    entry, *more = source.split("\t")
    _, speech = kaldiio.load_mat(entry)
    return compute_features(feats_type, speech, *more)


def load_for_ark(path: str) -> tuple[int, np.ndarray]:
    """Load ``path`` as (rate, samples), which kaldiio stores as a WAV inside an ark."""
    return SAMPLE_RATE, read_16k_mono(path)


@dataclass(frozen=True)
class _Ark:
    """One ark to write: its file, and (utterance id, source) pairs in C order."""

    path: Path
    items: Sequence[tuple[str, str]]

    @property
    def scp(self) -> Path:
        return self.path.with_suffix(".scp")


def write_arks(
    directory: Path,
    stem: str,
    sources: dict[str, str],
    load: Callable[[str], Any],
    settings: dict[str, Any],
    nj: int,
    compression_method: int | None = None,
) -> dict[str, str]:
    """Write ``load(source)`` of every utterance to ``directory/<stem>.N.ark``.

    Returns utterance id -> ``/path/to.ark:offset``. An ark gets its final name only when it is
    complete, and its scp is written after it, so arks that a killed run finished with the same
    ``settings`` are kept and everything else is written again.

    Raises UserError if a file cannot be written; exceptions of ``load`` are not caught.
    """
    if any(letter in os.path.abspath(directory) for letter in "[]\n\r"):
        raise UserError(
            f"--dump-dir: {os.path.abspath(directory)} holds a bracket or a line break, which "
            "Kaldi's tables cannot express; choose another directory"
        )
    _resume_or_clear(directory, settings)
    items = sorted(sources.items())
    arks = [
        _Ark(directory / f"{stem}.{number}.ark", items[start : start + UTTERANCES_PER_ARK])
        for number, start in enumerate(range(0, len(items), UTTERANCES_PER_ARK), start=1)
    ]
    write = functools.partial(_write_ark, load, compression_method)
    missing = [ark for ark in arks if not ark.scp.exists()]
    for done, name in enumerate(parallel_map(write, missing, nj), start=1):
        progress(f"{directory.name}: {name} written ({done} of {len(missing)} arks)")
    return {utt: entry for ark in arks for utt, entry in read_table(ark.scp).items()}


def _resume_or_clear(directory: Path, settings: dict[str, Any]) -> None:
    """Keep the finished arks of an earlier run with these ``settings``, nothing else."""
    started = directory / STARTED
    settings_text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    if started.exists() and started.read_text(encoding="utf-8") == settings_text:
        (directory / MARKER).unlink(missing_ok=True)
        for leftover in directory.glob(".*.tmp*"):
            leftover.unlink()
        return
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    with atomic_write(started) as stream:
        stream.write(settings_text)


def _write_ark(load: Callable[[str], Any], compression_method: int | None, ark: _Ark) -> str:
    """Write one ark, then its scp; return the ark's name."""
    import kaldiio

    scp = {}
    try:
        with atomic_write(ark.path, "wb") as stream:
            for utt, source in ark.items:
                # Written to memory first: on a full disk kaldiio's WAV writer would fail again
                # when it is deleted, with a traceback on stderr.
                entry = io.BytesIO()
                value = {utt: load(source)}
                kaldiio.save_ark(entry, value, compression_method=compression_method)
                scp[utt] = f"{os.path.abspath(ark.path)}:{stream.tell() + len(utt.encode()) + 1}"
                stream.write(entry.getvalue())
        write_table(ark.scp, scp)
    except OSError as err:
        raise UserError(
            f"{ark.path}: cannot be written: {err.strerror or err}; make room there (or choose "
            "another --dump-dir) and run the same command again: finished arks are kept"
        ) from err
    return ark.path.name
