"""Cut a recording of any length into windows, and merge their predictions.

The classifier was trained on utterances, not on recordings: IEMOCAP's last 4.55 s in the mean, 90%
of them at most 8.7 s and 99% at most 15.5 s. So a recording of up to WHOLE_SECONDS is taken as one
utterance, and a longer one through windows of WINDOW_SECONDS, which are between the mean and the
90%. Windows overlap by a half and a window speaks for its middle: the timeline has a step every
3 s, each with 1.5 s of context before and after it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ser.data.audio import SAMPLE_RATE

WHOLE_SECONDS = 15.0
WINDOW_SECONDS = 6.0
SHIFT_SECONDS = 3.0
UNSURE = "unsure"  # the answer where no emotion is probable enough
FLOOR = 1e-30  # of a probability whose logarithm is taken


class Segment(NamedTuple):
    """A stretch of a recording, in seconds, the emotions' probabilities and the values in it."""

    start: float
    end: float
    probabilities: dict[str, float]
    values: dict[str, float] = {}  # of the heads of values, such as arousal
    least: float = 0.0  # below it the answer is UNSURE
    speaker: str = ""  # of a turn of a diarisation

    @property
    def emotion(self) -> str:
        """The most probable emotion, or UNSURE if its probability is below ``least``."""
        return most_probable(self.probabilities, self.least)


class Unit(NamedTuple):
    """One unit of the CTC head, in seconds: it is the most probable from start to end."""

    start: float
    end: float
    unit: str


@dataclass(frozen=True)
class Window:
    """A piece of a recording: its samples, and the part of the timeline that it decides."""

    start: int  # of ``samples`` in the recording
    samples: np.ndarray  # (L,) int16 at 16 kHz
    owns: tuple[int, int]  # from, to, in samples of the recording


def has_sound(samples: np.ndarray) -> bool:
    """False where all samples are equal, as in a recording that is refused as silent."""
    return bool(samples.min() != samples.max())


def cut_auto(blocks: Iterable[np.ndarray]) -> Iterator[Window]:
    """The whole recording as one window if it is short, else windows that overlap by a half."""
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
    """The whole recording as one window; OverflowError beyond ``limit`` samples."""
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
    """Windows of ``size`` samples every ``shift``, holding no more of the recording than one.

    The last window goes to the end: what remains after a window gets one of its own only if it is
    at least half a ``shift``. Each window owns its middle, from half the overlap with the one
    before to half the overlap with the one after, so that the owned parts follow on one another.
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
    """Best-path CTC decoding with times, window by window, of posteriors that need not be kept.

    A unit lasts as long as it is the most probable one without a break. A frame's time comes from
    the window's length divided by the number of its frames, whatever network made them.

    Args:
        units: the inventory; index 0 is the blank.
    """

    def __init__(self, units: Sequence[str]):
        self.names = units
        self.units: list[Unit] = []
        self._previous, self._until = 0, 0.0

    def add(self, window: Window, posteriors: np.ndarray) -> None:
        """``posteriors`` (T, V) of the window's frames; those of the part it owns count."""
        step = len(window.samples) / len(posteriors)  # samples a frame
        edges = window.start + step * np.arange(len(posteriors) + 1)
        middles = (edges[:-1] + edges[1:]) / 2
        own = np.flatnonzero((middles >= window.owns[0]) & (middles < window.owns[1]))
        # At a seam the frames of two windows need not meet; in between there are none.
        edges = np.clip(edges, *window.owns) / SAMPLE_RATE
        if window.owns[0] / SAMPLE_RATE > self._until:  # something between was left out
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
    """The probabilities of a whole recording from those of its segments.

    The mean of the segments' log-probabilities, weighted by their durations and normalised: an
    emotion that one half of a recording rules out is not its emotion. Of one segment it is that
    segment's own.
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
    """The mean over time of each head of values."""
    weights = np.array([s.end - s.start for s in segments])  # (N,)
    names = segments[0].values
    return {n: float(np.average([s.values[n] for s in segments], weights=weights)) for n in names}


def most_probable(probabilities: Mapping[str, float], least: float = 0.0) -> str:
    """The emotion decided for, of equals the first; UNSURE if less probable than ``least``."""
    best = max(probabilities, key=probabilities.__getitem__)
    return best if probabilities[best] >= least else UNSURE


def merge(segments: Iterable[Segment]) -> list[Segment]:
    """Segments that follow on one another with the same emotion, as one, averaged over time.

    They are of one speaker.
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
