"""Read a recording as blocks of 16-kHz mono samples: a file of any length, or an array.

Files are read by libsndfile, and formats that it does not support (m4a, mp4, webm) by torchcodec if
installed. Invalid audio is rejected as in training (ser/data/audio.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser.data.audio import (
    BLOCK_SECONDS,
    MIN_SAMPLE_RATE,
    Converter,
    NotAudioError,
    probe,
    read_blocks,
    too_short,
)
from ser.errors import UserError, one_line

if TYPE_CHECKING:
    import torch

ARRAY = "the array"  # name in messages of audio that does not come from a file
QUIETEST_PEAK = 128  # of full scale: wider integers below this have a narrower scale
# Magic bytes of files that libsndfile does not read: (offset, bytes, format).
OTHER_CONTAINERS = (
    (4, b"ftyp", "MP4 or M4A"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "WMA"),
    (0, b"#!AMR", "AMR"),
)


@dataclass(frozen=True)
class Recording:
    """One recording, ready to be read from its start.

    ``duration`` comes from its header, in seconds. ``blocks()`` yields its samples, int16 at
    16 kHz, some seconds at a time.
    """

    name: str
    duration: float
    blocks: Callable[[], Iterator[np.ndarray]]
    rate: float | None = None  # original sampling rate, Hz


def open_recording(
    audio: str | Path | np.ndarray | torch.Tensor | Mapping[str, Any],
    sampling_rate: int | None = None,
) -> Recording:
    """Open a recording after the checks that need no decoding.

    Args:
        audio: A file; or samples (L,), (L, channels) or (channels, L), where the longer of two axes
            is time: 8 or 16-bit integers, wider ones at full scale, or floats in [-1, 1]; or the
            format of datasets and transformers, {"array": samples, "sampling_rate": Hz}.
        sampling_rate: Sampling rate of an array, Hz; for a file, its own is used.

    Raises:
        UserError: A file that is missing, empty, truncated, or not audio; an array without sampling
            rate, of another shape or not numeric. Reading the blocks raises it for samples that
            cannot be decoded, are not finite or far outside full scale.
    """
    if isinstance(audio, Mapping) and "array" in audio:
        audio, sampling_rate = audio["array"], sampling_rate or audio.get("sampling_rate")
    if not isinstance(audio, str | Path):
        return _from_array(_as_array(audio), sampling_rate)
    try:
        info = probe(audio)
    except NotAudioError as err:
        return _from_torchcodec(str(audio), err)
    return Recording(str(audio), info.duration, lambda: read_blocks(audio), info.sample_rate)


def _as_array(audio: Any) -> np.ndarray:
    try:
        if hasattr(audio, "detach"):  # a tensor of any kind
            audio = audio.detach().cpu().resolve_neg()
            audio = (audio.float() if audio.is_floating_point() else audio).numpy()
        return np.asarray(audio)
    except (TypeError, ValueError, RuntimeError, AttributeError) as err:
        raise UserError(
            f"{ARRAY}: {type(audio).__name__} that gives no samples ({str(err).splitlines()[0]}); "
            "give a NumPy array, a dense tensor, or the path of a file"
        ) from None


def _from_array(samples: np.ndarray, sampling_rate: Any) -> Recording:
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf":
        raise UserError(
            f"{ARRAY}: {samples.dtype} of shape {samples.shape}; expected samples as numbers, "
            "(L,), (L, channels) or (channels, L), or the path of one file"
        )
    number = isinstance(sampling_rate, Real) and np.isfinite(sampling_rate)
    if not number or sampling_rate < MIN_SAMPLE_RATE:
        raise UserError(
            f"{ARRAY}: sampling_rate is {sampling_rate!r}; give it in Hz as a number, e.g. 16000"
        )
    if samples.ndim == 1:
        samples = samples[:, None]
    elif samples.shape[0] < samples.shape[1]:
        samples = samples.T
    rate = int(sampling_rate)
    if not samples.size:
        raise too_short(ARRAY, 0, rate)
    _require_full_scale(samples)
    size = BLOCK_SECONDS * rate

    def blocks() -> Iterator[np.ndarray]:
        convert = Converter(ARRAY, rate)
        for start in range(0, len(samples), size):
            yield convert(_full_scale(samples[start : start + size]))
        yield convert.end()

    return Recording(ARRAY, len(samples) / rate, blocks, rate)


def _require_full_scale(samples: np.ndarray) -> None:
    """Reject 16 or 24-bit values in wider integers, which would be read as near silence."""
    if samples.dtype.kind != "i" or samples.dtype.itemsize <= 2:
        return
    peak = max(int(samples.max()), -int(samples.min()))
    bits = 8 * samples.dtype.itemsize
    if 0 < peak < 2 ** (bits - 1) // QUIETEST_PEAK:
        raise UserError(
            f"{ARRAY}: {samples.dtype} samples reach {peak} of a full scale of 2**{bits - 1}; give "
            "16-bit values as int16, others as floats in [-1, 1]"
        )


def _full_scale(samples: np.ndarray) -> np.ndarray:
    """Convert integers to floats in [-1, 1); int16 and floats are returned unchanged."""
    if samples.dtype == np.int16 or samples.dtype.kind == "f":
        return samples
    middle = 2.0 ** (samples.dtype.itemsize * 8 - 1)
    return samples / middle - (1.0 if samples.dtype.kind == "u" else 0.0)


def _from_torchcodec(path: str, refused: NotAudioError) -> Recording:
    """Open a file that libsndfile ``refused`` with FFmpeg."""
    kind = _container(path)
    convert_it = f"or convert it: ffmpeg -i {path} NEW.wav"
    try:
        from torchcodec.decoders import AudioDecoder
    except ImportError:
        if kind is None:
            raise refused from None
        raise UserError(
            f"{path}: {kind} is read by torchcodec, which is not installed; "
            f"pip install -r requirements-apps.txt, {convert_it}"
        ) from None
    except (RuntimeError, OSError) as err:  # torchcodec looks for FFmpeg when loaded
        if kind is None:
            raise refused from None
        what = str(err).partition(" Likely causes")[0].splitlines()[0]
        raise UserError(
            f"{path}: {kind} is read by torchcodec, which does not load here "
            f"({what}); it needs FFmpeg (Debian: apt install ffmpeg) and a build for this torch, "
            f"{convert_it}"
        ) from err
    try:
        decoder = AudioDecoder(path)
        duration, rate = decoder.metadata.duration_seconds, decoder.metadata.sample_rate
    except (RuntimeError, ValueError) as err:
        if kind is None:
            raise refused from None
        raise UserError(
            f"{path}: {kind} without audio that can be read ({one_line(err)}); copy "
            "it again, if it may be cut short"
        ) from None
    if not duration:
        raise UserError(f"{path}: does not say how long it is; write it anew, {convert_it}")

    def blocks() -> Iterator[np.ndarray]:
        convert = Converter(path, rate)
        start = 0.0
        try:
            while start < duration:
                stop = min(start + BLOCK_SECONDS, duration)
                samples = decoder.get_samples_played_in_range(start, stop).data  # (channels, N)
                yield convert(samples.numpy().T)
                start = stop
        except RuntimeError as err:
            raise UserError(
                f"{path}: cannot be decoded ({one_line(err)}); copy it again, {convert_it}"
            ) from err
        yield convert.end()

    return Recording(path, duration, blocks)


def _container(path: str) -> str | None:
    with open(path, "rb") as stream:
        start = stream.read(16)
    kinds = (kind for at, magic, kind in OTHER_CONTAINERS if start[at:].startswith(magic))
    return next(kinds, None)
