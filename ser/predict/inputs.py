"""Compare a recording with the training data of a model: level, pauses, bandwidth, rate."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field

from ser.data.audio import FRAME_SAMPLES, FULL_SCALE, SAMPLE_RATE
from ser.data.tables import read_table
from ser.errors import UserError
from ser.models.inputs import load_input

UTTERANCES = 200  # measured training utterances
LOWEST = 100  # dB below full scale
SILENCE = 30  # a frame this many dB below the level of the recording is silent
TREBLE_HZ = 4000  # end of the telephone band; wideband speech has energy above it
NO_TREBLE = -100.0  # dB, for 16-bit samples without any energy there
LEVEL_MARGIN, SILENCE_MARGIN, TREBLE_MARGIN = 6.0, 0.2, 10.0  # dB, share, dB beyond training's
WINDOW = np.hanning(FRAME_SAMPLES).astype(np.float32)
SYNTHETIC = "the model was trained on synthetic voices and says nothing about people"


class Trained(BaseModel):
    """Properties of the training utterances: 1st and 99th percentiles."""

    level: Annotated[list[float], Field(min_length=2, max_length=2)]  # dBFS, from and to
    silence: float  # maximum share of an utterance
    treble: float = NO_TREBLE  # minimum power above TREBLE_HZ relative to the total, dB


class Meter:
    """Measure level, pauses and treble of a recording block by block, in constant memory."""

    def __init__(self):
        self.power = 0.0
        self.spectrum = np.zeros(FRAME_SAMPLES // 2 + 1)  # power, summed over frames
        self.counts = np.zeros(LOWEST + 1, dtype=np.int64)  # frames by dB below full scale

    def add(self, samples: np.ndarray) -> None:
        """Add (L,) samples, int16 or in [-1, 1]; an incomplete last frame is ignored."""
        scale = FULL_SCALE if samples.dtype.kind == "i" else 1.0
        whole = len(samples) // FRAME_SAMPLES * FRAME_SAMPLES
        frames = samples[:whole].reshape(-1, FRAME_SAMPLES).astype(np.float32) / scale
        power = np.square(frames).mean(axis=1)
        below = np.round(-10 * np.log10(power + 1e-10)).clip(0, LOWEST).astype(int)
        self.power += float(power.sum())
        self.spectrum += np.square(np.abs(np.fft.rfft(frames * WINDOW))).sum(axis=0)
        self.counts += np.bincount(below, minlength=LOWEST + 1)

    @property
    def level(self) -> float:
        """RMS level in dBFS."""
        return 10 * np.log10(self.power / max(1, self.counts.sum()) + 1e-10)

    @property
    def silence(self) -> float:
        """Share of frames more than SILENCE dB below the level."""
        first = min(LOWEST, int(SILENCE - self.level) + 1)
        return float(self.counts[first:].sum() / max(1, self.counts.sum()))

    @property
    def treble(self) -> float:
        """Power above TREBLE_HZ relative to the total power, in dB."""
        above = self.spectrum[TREBLE_HZ * FRAME_SAMPLES // SAMPLE_RATE + 1 :].sum()
        share = above / max(self.spectrum.sum(), np.finfo(float).tiny)
        return max(NO_TREBLE, 10 * np.log10(max(share, np.finfo(float).tiny)))


def measure_training(wav_scp: Path) -> Trained | None:
    """Measure the utterances of a wav.scp; None if they cannot be read."""
    try:
        entries = list(read_table(wav_scp).values())
        step = -(-len(entries) // UTTERANCES)
        return describe(load_input(entry) for entry in entries[::step])
    except (OSError, UserError):
        return None


def describe(utterances: Iterable[np.ndarray]) -> Trained:
    """Measure ``utterances``, each (L,)."""
    levels, silences, trebles = [], [], []
    for samples in utterances:
        meter = Meter()
        meter.add(samples)
        levels.append(meter.level)
        silences.append(meter.silence)
        trebles.append(meter.treble)
    low, high = np.percentile(levels, [1, 99])
    return Trained(
        level=[round(float(low), 1), round(float(high), 1)],
        silence=round(float(np.percentile(silences, 99)), 3),
        treble=round(float(np.percentile(trebles, 1)), 1),
    )


def differences(meter: Meter, rate: float | None, trained: Trained | None) -> list[str]:
    """List how a recording is far outside the training data; empty if it is not.

    Args:
        meter: Measurements of the recording.
        rate: Its original sampling rate, Hz; None if unknown.
        trained: Properties of the training utterances; None if unknown.
    """
    found = []
    if narrow := rate is not None and rate < SAMPLE_RATE:
        found.append(f"it has {rate:.0f} samples a second, training had {SAMPLE_RATE}")
    if trained is None:
        return found
    low, high = trained.level
    if not low - LEVEL_MARGIN <= meter.level <= high + LEVEL_MARGIN:
        found.append(f"its level is {meter.level:.0f} dB, in training {low:.0f} to {high:.0f} dB")
    if meter.silence > trained.silence + SILENCE_MARGIN:
        found.append(
            f"{meter.silence:.0%} of it is silent, in training up to {trained.silence:.0%}"
        )
    if not narrow and meter.power > 0 and meter.treble < trained.treble - TREBLE_MARGIN:
        found.append(
            f"it has next to nothing above {TREBLE_HZ} Hz, like a telephone "
            f"({meter.treble:.0f} dB, in training at least {trained.treble:.0f} dB)"
        )
    return found
