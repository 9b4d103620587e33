"""Streaming prediction: one result per second of speech, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import numpy as np

from ser.data.audio import MIN_SAMPLE_RATE, SAMPLE_RATE, Converter
from ser.data.containers import HEADERS
from ser.errors import UserError
from ser.predict.windows import WINDOW_SECONDS, Segment, has_sound

if TYPE_CHECKING:
    from ser.predict.classifier import SpeechEmotion

STEP_SECONDS = 1.0
NAME = "standard input"


def follow(model: SpeechEmotion, pipe: IO[bytes], rate: int) -> Iterator[Segment | None]:
    """Predict the last six seconds after every second; yield None after a silent second.

    Args:
        model: The classifier.
        pipe: 16-bit little-endian mono samples until end of file; an incomplete last second is
            ignored.
        rate: Sampling rate of the samples, Hz.

    Raises:
        UserError: A ``rate`` too low for speech; a file with a header; less than a second.
    """
    if rate < MIN_SAMPLE_RATE:
        raise UserError(
            f"--rate {rate}: expected the samples' rate in Hz, {MIN_SAMPLE_RATE} or more"
        )
    converter = Converter(NAME, rate)
    step, size = round(STEP_SECONDS * rate), round(WINDOW_SECONDS * SAMPLE_RATE)
    window = np.zeros(0, np.int16)
    seconds = 0.0
    while len(block := _read(pipe, 2 * step)) == 2 * step:
        if not seconds and block.startswith(HEADERS):
            raise UserError(
                f"{NAME}: an audio file (it starts with {block[:4]!r}), but --stream reads bare "
                "samples (ffmpeg -f s16le -ac 1, arecord -t raw); leave --stream out to predict it"
            )
        samples = converter(np.frombuffer(block, "<i2").astype(np.int16)[:, None])
        window = np.concatenate([window, samples])[-size:]
        seconds += STEP_SECONDS
        heard = window[-round(STEP_SECONDS * SAMPLE_RATE) :]
        if not len(heard) or not has_sound(heard):
            yield None
            continue
        said = model(window, SAMPLE_RATE, segments="none")
        start = max(0.0, seconds - WINDOW_SECONDS)
        yield Segment(start, seconds, said.probabilities, said.values, model.abstain)
    if not seconds:
        raise UserError(
            f"{NAME}: ended after {len(block)} bytes, less than a second of samples; check the "
            "program that writes them"
        )


def _read(pipe: IO[bytes], count: int) -> bytes:
    """Read ``count`` bytes, or the rest: a pipe may return fewer at a time."""
    parts, missing = [], count
    while missing and (part := pipe.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
