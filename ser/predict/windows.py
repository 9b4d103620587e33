"""Cut a recording of any length into windows, and merge their predictions.

The classifier was trained on utterances, not on recordings: IEMOCAP's last 4.55 s on average, 90%
of them at most 8.7 s and 99% at most 15.5 s. So a recording of up to WHOLE_SECONDS is treated as
one utterance; a longer one is cut into windows of WINDOW_SECONDS, between the mean and the 90%.
Windows overlap by half and each decides for its middle: the timeline has a step every 3 s, with
1.5 s of context before and after it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ser.data.audio import SAMPLE_RATE

WHOLE_SECONDS = 15.0
WINDOW_SECONDS = 6.0
SHIFT_SECONDS = 3.0
UNSURE = "unsure"  # the answer if no emotion is probable enough
FLOOR = 1e-30  # minimum of a probability before taking its logarithm


class Segment(NamedTuple):
    """A segment of a recording, in seconds, with its emotion probabilities and values."""

    start: float
    end: float
    probabilities: dict[str, float]
    values: dict[str, float] = {}  # of the value heads, such as arousal
    least: float = 0.0  # probability below which the answer is UNSURE
    speaker: str = ""  # of a turn of a diarisation

    @property
    def emotion(self) -> str:
        """The most probable emotion, or UNSURE if its probability is below ``least``."""
        return most_probable(self.probabilities, self.least)


class Unit(NamedTuple):
    """One unit of the CTC head, the most probable one from start to end, in seconds."""

    start: float
    end: float
    unit: str


@dataclass(frozen=True)
class Window:
    """A window of a recording: its samples, and the part of the timeline that it decides."""

    start: int  # position of ``samples`` in the recording
    samples: np.ndarray  # (L,) int16 at 16 kHz
    owns: tuple[int, int]  # from, to, in samples of the recording


def has_sound(samples: np.ndarray) -> bool:
    """False if all samples are equal, as in a recording that is rejected as silent."""
    return bool(samples.min() != samples.max())


def cut_auto(blocks: Iterable[np.ndarray]) -> Iterator[Window]:
    """Yield a short recording as one window, a longer one as windows that overlap by half."""
    limit = round(WHOLE_SECONDS * SAMPLE_RATE)
    blocks, first, held = iter(blocks), [], 0
    while held <= limit and (block := next(blocks, None)) is not None:
        first.append(block)
        held += len(block)
    if held <= limit:
        return cut(first, max(held, 1), max(held, 1))
    size, shift = round(WINDOW_SECONDS * SAMPLE_RATE), round(SHIFT_SECONDS * SAMPLE_RATE)
    return cut(_chain(first, blocks), size, shift)


def cut_whole(blocks: Iterable[np.ndarray], limit: int) -> Iterator[Window]:
    """Yield the whole recording as one window; OverflowError beyond ``limit`` samples."""
    collected, held = [], 0
    for block in blocks:
        collected.append(block)
        held += len(block)
        if held > limit:
            raise OverflowError(f"more than {limit} samples")
    yield from cut(collected, max(held, 1), max(held, 1))


def _chain(first: list[np.ndarray], rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    while first:  # itertools.chain would keep all of them
        yield first.pop(0)
    yield from rest


def cut(blocks: Iterable[np.ndarray], size: int, shift: int) -> Iterator[Window]:
    """Yield windows of ``size`` samples every ``shift``, keeping only one in memory.

    The last window extends to the end: the remainder after a window gets its own window only if it
    is at least half a ``shift``. Each window owns its middle, from half the overlap with the
    previous window to half the overlap with the next, so that the owned parts are contiguous.
    """
    margin = (size - shift) // 2
    enough = size + max(1, shift // 2)  # more than this window, or its end would be the last
    held = np.zeros(0, dtype=np.int16)
    start, owned = 0, 0
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= enough:
            end = start + size - margin
            yield Window(start, held[:size], (owned, end))
            owned, start, held = end, start + shift, held[shift:]
    if len(held):
        yield Window(start, held, (owned, start + len(held)))


class UnitTrack:
    """Best-path CTC decoding with times, window by window, without keeping the posteriors.

    A unit lasts as long as it is the most probable one without a break. The frame shift is the
    window's length divided by its number of frames, for any network.

    Args:
        units: The inventory; index 0 is the blank.
    """

    def __init__(self, units: Sequence[str]):
        self.names = units
        self.units: list[Unit] = []
        self._previous, self._until = 0, 0.0

    def add(self, window: Window, posteriors: np.ndarray) -> None:
        """Decode the window's ``posteriors`` (T, V) in the part that it owns."""
        step = len(window.samples) / len(posteriors)  # samples per frame
        edges = window.start + step * np.arange(len(posteriors) + 1)
        middles = (edges[:-1] + edges[1:]) / 2
        own = np.flatnonzero((middles >= window.owns[0]) & (middles < window.owns[1]))
        # At a boundary the frames of two windows need not align; clip them to the owned parts.
        edges = np.clip(edges, *window.owns) / SAMPLE_RATE
        if window.owns[0] / SAMPLE_RATE > self._until:  # a part in between was skipped
            self._previous = 0
        for t, best in zip(own, posteriors[own].argmax(axis=-1).tolist(), strict=True):
            end = float(edges[t + 1])
            if best == self._previous and best:
                self.units[-1] = self.units[-1]._replace(end=end)
            elif best:
                self.units.append(Unit(float(edges[t]), end, self.names[best]))
            self._previous = best
        self._until = window.owns[1] / SAMPLE_RATE


def decide(segments: Sequence[Segment]) -> dict[str, float]:
    """Combine the probabilities of the segments into those of the whole recording.

    The mean of the segments' log-probabilities, weighted by their durations and normalised: an
    emotion that one half of a recording rules out is not its emotion. A single segment keeps its
    probabilities.
    """
    if len(segments) == 1:
        return dict(segments[0].probabilities)
    labels = list(segments[0].probabilities)
    weights = np.array([s.end - s.start for s in segments])  # (N,)
    probs = np.array([[s.probabilities[e] for e in labels] for s in segments])  # (N, C)
    logp = weights @ np.log(probs.clip(min=FLOOR)) / weights.sum()  # (C,)
    mixed = np.exp(logp - logp.max())
    return {e: float(p) for e, p in zip(labels, mixed / mixed.sum(), strict=True)}


def mean_values(segments: Sequence[Segment]) -> dict[str, float]:
    """Mean over time of each value head."""
    weights = np.array([s.end - s.start for s in segments])  # (N,)
    names = segments[0].values
    return {n: float(np.average([s.values[n] for s in segments], weights=weights)) for n in names}


def most_probable(probabilities: Mapping[str, float], least: float = 0.0) -> str:
    """Most probable emotion, the first in a tie; UNSURE if its probability is below ``least``."""
    best = max(probabilities, key=probabilities.__getitem__)
    return best if probabilities[best] >= least else UNSURE


def merge(segments: Iterable[Segment]) -> list[Segment]:
    """Merge consecutive segments with the same emotion, averaging over time.

    All segments are of one speaker.
    """
    merged: list[Segment] = []
    for segment in segments:
        last = merged[-1] if merged else None
        if (
            last is None
            or (last.emotion, last.speaker) != (segment.emotion, segment.speaker)
            or last.end < segment.start
        ):
            merged.append(segment)
            continue
        one, two = last.end - last.start, segment.end - segment.start
        mean = {
            e: (p * one + segment.probabilities[e] * two) / (one + two)
            for e, p in last.probabilities.items()
        }
        values = mean_values([last, segment])
        merged[-1] = last._replace(end=segment.end, probabilities=mean, values=values)
    return merged
