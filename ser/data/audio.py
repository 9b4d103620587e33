"""Read an audio file as 16-kHz mono 16-bit samples, or raise an error that says what is wrong.

Other formats (sampling rate, channels, sample width) are converted here; files that cannot be a
recording of speech (truncated, silent, not audio) are rejected here. Nothing downstream checks a
waveform again. Files are decoded in blocks, so that an hour takes no more memory than a minute
unless the caller keeps the blocks.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ser.console import progress
from ser.data.containers import check_container, check_length, open_sound, truncated
from ser.errors import UserError, join_problems

SAMPLE_RATE = 16000  # Hz; expected by every frontend and feature of the recipe
MIN_SAMPLE_RATE = 4000  # Hz; a header with a lower rate is damaged, or its file holds no speech
FRAME_SAMPLES = 400  # one 25-ms analysis frame at SAMPLE_RATE: the shortest usable input
FULL_SCALE = 32768  # int16 units per 1.0
BLOCK_SECONDS = 5  # decoded at a time
MAX_BLOCK_VALUES = 1 << 22  # over all channels, for unusual sampling rates or channel counts
# A float file may overshoot 1.0 a little (it is clipped); far beyond that it was written in
# int16 units by mistake, and clipping would turn it into a square wave.
MAX_FLOAT_PEAK = 8.0


class NotAudioError(UserError):
    """The file is complete, but not in a format that libsndfile reads."""


@dataclass(frozen=True)
class AudioInfo:
    """Header of an audio file, per channel: num_samples at sample_rate Hz."""

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

    Raises UserError if the file is missing, a directory, empty, truncated, not audio, has a
    sampling rate too low for speech or is shorter than one 25-ms frame.
    """
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; correct the path, or put the file back")
    if os.path.isdir(path):
        raise UserError(f"{path}: a folder, not a file; name the audio files in it")
    if not os.path.isfile(path):
        raise UserError(f"{path}: a device or a pipe, not a file; save the audio in a file")
    size = os.path.getsize(path)
    if size == 0:
        raise UserError(f"{path}: empty (0 bytes); copy it again from where it came")
    try:
        check_container(path, size)
        with open_sound(path) as header:
            frames, rate, channels = header.frames, header.samplerate, header.channels
            subtype = header.subtype
            check_length(path, header.extra_info)
    except soundfile.SoundFileError as err:
        with open(path, "rb") as stream:
            start = stream.read(12)
        if start == b"version http":
            raise NotAudioError(
                f"{path}: not an audio file, but a pointer of git lfs to it; run git lfs pull there"
            ) from err
        raise NotAudioError(
            f"{path}: not an audio file (it starts with {start!r}); expected WAV, FLAC, MP3, Ogg "
            "or another format of libsndfile; convert it (ffmpeg -i FILE NEW.wav) or copy it again"
        ) from err
    if rate < MIN_SAMPLE_RATE:
        raise UserError(
            f"{path}: its header says {rate} samples a second, too few for speech (at least "
            f"{MIN_SAMPLE_RATE}); write it again with its true rate (sox -r RATE FILE NEW.wav)"
        )
    if frames * SAMPLE_RATE < FRAME_SAMPLES * rate:
        raise too_short(path, frames, rate)
    return AudioInfo(frames, rate, channels, subtype, frames / rate)


def read_16k_mono(path: Path | str) -> np.ndarray:
    """Decode ``path`` to int16 samples, shape (num_samples,), at 16 kHz.

    Channels are averaged, other rates are resampled by soxr at very high quality, other sample
    formats are rounded to 16 bits; values outside full scale are clipped, never wrapped.
    16-kHz mono 16-bit files are returned bit-exactly.

    Raises UserError for everything ``probe`` and ``Converter`` reject and for audio that is
    silent or shorter than its header says.
    """
    speech = np.concatenate(list(read_blocks(path)))
    if len(speech) < FRAME_SAMPLES:
        raise too_short(path, len(speech), SAMPLE_RATE)
    if speech.min() == speech.max():
        raise silent(path, len(speech))
    return speech


def read_blocks(path: Path | str) -> Iterator[np.ndarray]:
    """Yield the samples of ``read_16k_mono`` in blocks of some seconds.

    Raises the same UserErrors, but silence and missing samples are detected only at the end.
    """
    info = probe(path)
    dtype = "int16" if info.subtype == "PCM_16" else "float64"
    convert = Converter(path, info.sample_rate)
    most = max(1, MAX_BLOCK_VALUES // info.channels)
    size = min(BLOCK_SECONDS * info.sample_rate, most)
    decoded = 0
    try:
        with open_sound(path) as sound:
            while len(block := sound.read(size, dtype=dtype, always_2d=True)):  # (N, channels)
                decoded += len(block)
                yield convert(block)
    except soundfile.SoundFileError as err:
        raise UserError(f"{path}: cannot be decoded ({err}); copy it again") from err
    if decoded != info.num_samples:
        raise truncated(path, f"{info.num_samples} samples", f"{decoded}")
    yield convert.end()


class Converter:
    """Convert blocks of one recording to 16-kHz mono int16, as if converted in one piece.

    Args:
        name: Name of the recording in error messages.
        sample_rate: Sampling rate of the blocks, Hz.
    """

    def __init__(self, name: Path | str, sample_rate: int):
        self.name = name
        self.resampler = None
        if sample_rate != SAMPLE_RATE:
            self.resampler = soxr.ResampleStream(
                sample_rate, SAMPLE_RATE, 1, dtype="float64", quality="VHQ"
            )

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """(N, channels) int16 or floats in [-1, 1] -> (M,) int16.

        Raises UserError for NaN, infinity, or float values far outside [-1, 1].
        """
        if samples.dtype == np.int16:
            if self.resampler is None and samples.shape[1] == 1:
                return samples[:, 0]
            samples = samples / FULL_SCALE
        elif not np.isfinite(samples).all():
            bad = int((~np.isfinite(samples)).sum())
            raise UserError(
                f"{self.name}: {bad} samples are NaN or infinite; give finite values, or leave it "
                "out"
            )
        samples = samples.astype(np.float64, copy=False)
        peak = np.abs(samples).max(initial=0.0)
        if peak > MAX_FLOAT_PEAK:
            raise UserError(
                f"{self.name}: float samples reach {peak:g}, but full scale is 1.0; if they are in "
                "16-bit units, divide them by 32768"
            )
        mono = samples.mean(axis=1)  # (N,); the mean of the channels cannot exceed full scale
        return _to_int16(mono if self.resampler is None else self.resampler.resample_chunk(mono))

    def end(self) -> np.ndarray:
        """Flush the resampler after the last block: (M,) int16."""
        if self.resampler is None:
            return np.zeros(0, dtype=np.int16)
        return _to_int16(self.resampler.resample_chunk(np.zeros(0), last=True))


def _to_int16(samples: np.ndarray) -> np.ndarray:
    # The resampling filter overshoots at steps, so a loud recording can exceed full scale here.
    scaled = np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    return scaled.astype(np.int16)


def too_short(path: Path | str, num_samples: int, sample_rate: int) -> UserError:
    """Error for a recording shorter than one analysis frame."""
    return UserError(
        f"{path}: {num_samples} samples at {sample_rate} Hz is shorter than one 25-ms frame; "
        "leave it out, or copy it again if more should be in it"
    )


def silent(path: Path | str, num_samples: int) -> UserError:
    """Error for a recording without sound."""
    return UserError(
        f"{path}: silent (all {num_samples} samples of the mean of its channels are equal), so "
        "there is nothing to hear; replace it or leave it out"
    )


def probe_files(paths: Sequence[Path | str], nj: int) -> list[AudioInfo]:
    """Read the headers of ``paths``, in their order.

    ``nj`` threads read them, which hides the latency of a network disk.
    Raises UserError that lists the unreadable files.
    """
    headers = []
    problems = []
    with ThreadPoolExecutor(max(1, nj)) as pool:
        for number, found in enumerate([pool.submit(probe, path) for path in paths], start=1):
            try:
                headers.append(found.result())
            except UserError as err:
                problems.append(str(err))
            if number % 500 == 0:
                progress(f"durations: {number} of {len(paths)} files")
    if problems:
        head = f"{len(problems)} of {len(paths)} files cannot be used"
        raise UserError(f"{head}\n  {join_problems(problems)}" if problems[1:] else problems[0])
    return headers
