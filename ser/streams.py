"""Any recording as blocks of 16-kHz mono samples: a file of any length, or an array.

Files are read by libsndfile, and what it does not know (m4a, mp4, webm) by torchcodec where that
is installed. Whatever is refused is refused as in training (ser/audio.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser.audio import (
    BLOCK_SECONDS,
    MIN_SAMPLE_RATE,
    Converter,
    NotAudioError,
    probe,
    read_blocks,
)
from ser.errors import UserError

if TYPE_CHECKING:
    import torch

ARRAY = "the array"  # what messages call audio that does not come from a file
# How files begin that libsndfile does not read: (offset, bytes, what it is).
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

    ``duration`` is what its header says, in seconds. ``blocks()`` yields its samples, int16 at
    16 kHz, some seconds at a time.
    """

    name: str
    duration: float
    blocks: Callable[[], Iterator[np.ndarray]]


def open_recording(
    audio: str | Path | np.ndarray | torch.Tensor, sampling_rate: int | None = None
) -> Recording:
    """Check what can be checked before decoding.

    Args:
        audio: a file; or samples (L,), (L, channels) or (channels, L), of two axes the longer
            being time: integers, or floats in [-1, 1].
        sampling_rate: of an array, Hz. A file says its own.

    Raises:
        UserError: a file that is missing, empty, cut short, or not audio; an array without its
            rate, of another shape or of no numbers. Reading the blocks raises it for samples that
            cannot be decoded, are not finite or far outside full scale.
    """
    if not isinstance(audio, str | Path):
        return _from_array(audio, sampling_rate)
    try:
        info = probe(audio)
    except NotAudioError as err:
        return _from_torchcodec(str(audio), err)
    return Recording(str(audio), info.duration, lambda: read_blocks(audio))


def _from_array(audio: Any, sampling_rate: int | None) -> Recording:
    samples = np.asarray(audio.detach().cpu() if hasattr(audio, "detach") else audio)
    if not sampling_rate or sampling_rate < MIN_SAMPLE_RATE:
        raise UserError(f"{ARRAY}: sampling_rate is {sampling_rate}; give it in Hz, e.g. 16000")
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf":
        raise UserError(
            f"{ARRAY}: {samples.dtype} of shape {samples.shape}; expected samples as numbers, "
            "(L,), (L, channels) or (channels, L)"
        )
    if samples.ndim == 1:
        samples = samples[:, None]
    elif samples.shape[0] < samples.shape[1]:
        samples = samples.T
    rate, size = int(sampling_rate), max(1, int(BLOCK_SECONDS * sampling_rate))

    def blocks() -> Iterator[np.ndarray]:
        convert = Converter(ARRAY, rate)
        for start in range(0, len(samples), size):
            yield convert(_full_scale(samples[start : start + size]))
        yield convert.end()

    return Recording(ARRAY, len(samples) / rate, blocks)


def _full_scale(samples: np.ndarray) -> np.ndarray:
    """Integers of any width as floats in [-1, 1), but for int16; that and floats as they are."""
    if samples.dtype == np.int16 or samples.dtype.kind == "f":
        return samples
    middle = 2.0 ** (samples.dtype.itemsize * 8 - 1)
    return samples / middle - (1.0 if samples.dtype.kind == "u" else 0.0)


def _from_torchcodec(path: str, refused: NotAudioError) -> Recording:
    """What libsndfile has ``refused``, read by FFmpeg."""
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
    except (RuntimeError, OSError) as err:  # its libraries look for FFmpeg's when loaded
        if kind is None:
            raise refused from None
        raise UserError(
            f"{path}: {kind} is read by torchcodec, which does not load here "
            f"({str(err).splitlines()[0]}); it needs FFmpeg (Debian: apt install ffmpeg) and a "
            f"build for this torch, {convert_it}"
        ) from err
    try:
        decoder = AudioDecoder(path)
        duration, rate = decoder.metadata.duration_seconds, decoder.metadata.sample_rate
    except (RuntimeError, ValueError) as err:
        if kind is None:
            raise refused from None
        raise UserError(
            f"{path}: {kind} without audio that can be read ({' '.join(str(err).split())}); copy "
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
            what = " ".join(str(err).split())
            raise UserError(
                f"{path}: cannot be decoded ({what}); copy it again, {convert_it}"
            ) from err
        yield convert.end()

    return Recording(path, duration, blocks)


def _container(path: str) -> str | None:
    with open(path, "rb") as stream:
        start = stream.read(16)
    kinds = (kind for at, magic, kind in OTHER_CONTAINERS if start[at:].startswith(magic))
    return next(kinds, None)
