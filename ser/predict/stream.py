"""Emotions of speech while it is spoken: a line for every second, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import numpy as np

from ser.data.audio import MIN_SAMPLE_RATE, SAMPLE_RATE, Converter
from ser.errors import UserError
from ser.predict.windows import WINDOW_SECONDS, Segment, has_sound

if TYPE_CHECKING:
    from ser.predict.classifier import SpeechEmotion

STEP_SECONDS = 1.0
NAME = "standard input"


def follow(model: SpeechEmotion, pipe: IO[bytes], rate: int) -> Iterator[Segment | None]:
    """Predict the last six seconds after every second; None after one that ends in silence.

    Args:
        model: What predicts.
        pipe: 16-bit little-endian samples of one channel; its end ends the stream, and less than
            a second before that is left out.
        rate: Of the samples, Hz.

    Raises:
        UserError: a ``rate`` below that of speech.
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


def _read(pipe: IO[bytes], count: int) -> bytes:
    """``count`` bytes, or what is left: a pipe may give fewer at a time."""
    parts, missing = [], count
    while missing and (part := pipe.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
