"""One utterance file -> 16-kHz mono 16-bit samples, or an error that says what is wrong.

Whatever is merely different (rate, channels, sample width) is converted here; whatever cannot
be a recording of speech (cut short, silent, not audio) is refused here. Nothing downstream
checks a waveform again.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ser.errors import UserError

SAMPLE_RATE = 16000  # Hz; what every frontend and feature of the recipe expects
FRAME_SAMPLES = 400  # one 25-ms analysis frame at SAMPLE_RATE: the shortest usable input
FULL_SCALE = 32768  # int16 units per 1.0
# A float file may overshoot 1.0 a little (it is clipped); far beyond that it was written in
# int16 units by mistake, and clipping would turn it into a square wave.
MAX_FLOAT_PEAK = 8.0
# Programs that write to a pipe cannot know the length and put a number near the end of the
# 32-bit range (libsndfile then reads to the end of the file) or 0 (it then reads nothing)
# where the size of the data chunk belongs.
STREAMING_SIZE = 0x7FFFF000


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says, for one channel: num_samples at sample_rate Hz."""

    num_samples: int
    sample_rate: int
    channels: int
    subtype: str  # soundfile's name of the sample format: PCM_16, PCM_24, FLOAT ...
    duration: float  # seconds

    @property
    def is_16k_mono_pcm16(self) -> bool:
        """True when the samples can be used as they are."""
        return (self.sample_rate, self.channels, self.subtype) == (SAMPLE_RATE, 1, "PCM_16")


def probe(path: Path | str) -> AudioInfo:
    """Read the header of ``path`` and check the file against it, without decoding.

    Raises UserError when the file is missing, a directory, empty, cut short, not audio or
    shorter than one 25-ms frame.
    """
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; restore it from the corpus or correct the path")
    if not os.path.isfile(path):
        raise UserError(f"{path}: not a file; expected an audio file")
    size = os.path.getsize(path)
    if size == 0:
        raise UserError(f"{path}: empty (0 bytes); copy it again from the corpus")
    _check_data_chunk(path, size)
    try:
        header = soundfile.info(str(path))
    except soundfile.SoundFileError as err:
        with open(path, "rb") as stream:
            start = stream.read(12)
        raise UserError(
            f"{path}: not an audio file (it starts with {start!r}); expected WAV; "
            "copy it again from the corpus"
        ) from err
    if header.frames * SAMPLE_RATE < FRAME_SAMPLES * header.samplerate:
        raise _too_short(path, header.frames, header.samplerate)
    return AudioInfo(
        num_samples=header.frames,
        sample_rate=header.samplerate,
        channels=header.channels,
        subtype=header.subtype,
        duration=header.frames / header.samplerate,
    )


def read_16k_mono(path: Path | str) -> np.ndarray:
    """Decode ``path`` to int16 samples, shape (num_samples,), at 16 kHz.

    Channels are averaged, other rates go through soxr at very high quality, other sample
    formats are rounded to 16 bits; values outside full scale are clipped, never wrapped.
    16-kHz mono 16-bit files come back bit by bit.

    Raises UserError for everything ``probe`` refuses and for audio that is silent, or holds
    NaN or infinity, or float values far outside [-1, 1].
    """
    info = probe(path)
    dtype = "int16" if info.subtype == "PCM_16" else "float64"
    try:
        samples, _ = soundfile.read(str(path), dtype=dtype, always_2d=True)  # (N, channels)
    except soundfile.SoundFileError as err:
        raise UserError(f"{path}: cannot be decoded ({err}); copy it again") from err
    if len(samples) != info.num_samples:
        raise _truncated(path, f"{info.num_samples} samples", f"{len(samples)}")
    as_it_is = info.is_16k_mono_pcm16
    speech = samples[:, 0] if as_it_is else _convert(path, samples, info.sample_rate)
    if speech.min() == speech.max():
        raise UserError(
            f"{path}: silent (all {len(speech)} samples are equal); "
            "replace the file or take the utterance out of the corpus"
        )
    return speech


def _convert(path: Path | str, samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """(N, channels) int16 or float samples at any rate -> (M,) int16 at 16 kHz."""
    if samples.dtype == np.int16:
        samples = samples / FULL_SCALE
    elif not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise UserError(
            f"{path}: {bad} samples are NaN or infinite; write the file again with finite "
            "values, or take the utterance out of the corpus"
        )
    peak = np.abs(samples).max()
    if peak > MAX_FLOAT_PEAK:
        raise UserError(
            f"{path}: float samples reach {peak:g}, but full scale is 1.0; if they are in "
            "16-bit units, divide them by 32768 and write the file again"
        )
    mono = samples.mean(axis=1)  # (N,); the mean of channels cannot leave full scale
    if sample_rate != SAMPLE_RATE:
        mono = soxr.resample(mono, sample_rate, SAMPLE_RATE, quality="VHQ")  # (M,)
        if len(mono) < FRAME_SAMPLES:
            raise _too_short(path, len(mono), SAMPLE_RATE)
    # A filter overshoots at steps, so a loud recording can leave full scale here.
    scaled = np.clip(np.rint(mono * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    return scaled.astype(np.int16)


def _check_data_chunk(path: Path | str, size: int) -> None:
    """Raise UserError if a RIFF file ends before its data chunk does.

    libsndfile shortens such a file without a word, so the header is read here.
    """
    with open(path, "rb") as stream:
        head = stream.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            if len(head) < 12 and b"RIFF".startswith(head[:4]):
                raise _truncated(path, "a RIFF header of 44 bytes", f"{size} bytes")
            return
        while True:
            chunk = stream.read(8)
            if len(chunk) < 8:
                raise _truncated(path, "a data chunk", "none")
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data":
                break
            stream.seek(length + length % 2, os.SEEK_CUR)  # chunks start at even offsets
        held = size - stream.tell()
    if length == 0 and held > 0:
        raise UserError(
            f"{path}: its header says 0 samples, but {held} bytes follow (it was written "
            "through a pipe); write the length: ffmpeg -ignore_length 1 -i FILE FIXED.wav"
        )
    if held < length < STREAMING_SIZE:
        raise _truncated(path, f"{length} bytes of samples", f"{held}")


def _truncated(path: Path | str, promised: str, found: str) -> UserError:
    return UserError(
        f"{path}: truncated: its header promises {promised}, the file holds {found}; "
        "copy it again from the corpus"
    )


def _too_short(path: Path | str, num_samples: int, sample_rate: int) -> UserError:
    return UserError(
        f"{path}: {num_samples} samples at {sample_rate} Hz is shorter than one 25-ms frame; "
        "take the utterance out of the corpus"
    )
