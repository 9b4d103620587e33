"""Charts over time: waveform, spectrogram, posteriors, emotions and units on one time axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.ticker import MaxNLocator

from ser.console import percent
from ser.data.audio import SAMPLE_RATE
from ser.predict.windows import Segment, Unit, merge
from ser.reporting.charts import BLUE, LINE, PAPER, SMALL, WIDTH, Chart, clean, new_chart, styled
from ser.scoring.decisions import unit_tags

WINDOW, HOP, FFT = 400, 160, 512  # samples at 16 kHz: 25 ms, 10 ms
DYNAMICS = 70.0  # dB, dynamic range of the spectrogram
FAINTEST = 1e-3  # lowest posterior that is visible
MOST_UNITS = 40  # rows; of a larger inventory the units with the highest posteriors
UNIT_ROW, EMOTION_ROW = 14, 20  # px
# cividis is perceptually ordered for colour-blind readers as well
PICTURE = {"aspect": "auto", "interpolation": "none", "cmap": "cividis"}


@styled()
def tracks_chart(
    speech: np.ndarray,
    posteriors: np.ndarray | None,
    units: Sequence[str],
    emotions: Sequence[str],
    title: str,
    width: float = WIDTH,
) -> Chart:
    """Waveform, spectrogram, unit posteriors and the emotions of their tags.

    Args:
        speech: (L,) samples at 16 kHz in [-1, 1].
        posteriors: (T, V) posteriors of the CTC head, or None.
        units: Its inventory, blank first.
        emotions: Emotions in class order, which the tags of units refer to.
        title: Title of the chart.
        width: Width in pixels.
    """
    seconds = len(speech) / SAMPLE_RATE
    shares = None if posteriors is None else emotion_shares(posteriors, units, len(emotions))
    heights = [64.0, 110.0]
    if shares is not None:
        heights.append(EMOTION_ROW * len(emotions))
    if posteriors is not None:
        order, tags = unit_rows(posteriors, units, len(emotions))
        heights.append(UNIT_ROW * len(order))
    chart = new_chart(title, sum(heights) + 70 + 50 * (posteriors is not None), width,
                      rows=len(heights), height_ratios=heights, sharex=True)  # fmt: skip
    said = _waveform(chart.axes[0], speech, width)
    _spectrogram(chart, chart.axes[1], speech, width)
    said += f" Spectrogram: 0 to 8 kHz, bright is loud, over {DYNAMICS:.0f} dB."
    if shares is not None:
        _picture(chart, chart.axes[2], shares, emotions, seconds, "emotions", vmin=0, vmax=1)
        means = zip(emotions, shares.mean(axis=1), strict=True)
        said += " Share of each emotion's units, on average: "
        said += ", ".join(f"{emotion} {share:.2f}" for emotion, share in means) + "."
    if posteriors is not None:
        ax = chart.axes[-1]
        names, cuts = _unit_names(order, tags, units, emotions)
        image = _picture(chart, ax, posteriors[:, order].T, names, seconds, "units",
                         norm=LogNorm(FAINTEST, 1, clip=True))  # fmt: skip
        ax.hlines(np.array(cuts) - 0.5, 0, seconds, color=PAPER, linewidth=1)
        ax.tick_params(axis="y", labelsize=SMALL)
        shape = {"orientation": "horizontal", "shrink": 0.6, "aspect": 30}
        levels = [0.001, 0.01, 0.1, 1]
        bar = chart.figure.colorbar(image, ax=chart.axes, ticks=levels, format="%g", **shape)
        bar.set_label("posterior of a unit")
        best = ", ".join(f"{units[u]} {posteriors[:, u].max():.2f}" for u in order)
        said += f" Highest posterior of each unit: {best}."
    _seconds(chart.axes[-1], seconds)
    chart.desc = said
    return chart


@styled()
def timeline_chart(
    segments: Sequence[Segment],
    track: Sequence[Unit],
    units: Sequence[str],
    emotions: Sequence[str],
    seconds: float,
    width: float = WIDTH,
) -> Chart:
    """Emotion probabilities over time, and the most probable units.

    Args:
        segments: Their probabilities determine the shades; gaps are left blank.
        track: Units of the best path.
        units: Their inventory, blank first; empty without a CTC head.
        emotions: Emotions in class order, which the tags of units refer to.
        seconds: Length of the recording.
        width: Width in pixels.
    """
    counts = np.array([[sum(u.unit == unit for u in track) for unit in units]])  # (1, V)
    order, tags = unit_rows(counts, units, len(emotions)) if track else ([], None)
    order = [unit for unit in order if unit]  # without the blank
    heights = [EMOTION_ROW * len(emotions), *([UNIT_ROW * len(order)] if order else [])]
    chart = new_chart("Emotions and units over time", sum(heights) + 50, width,
                      rows=len(heights), height_ratios=heights, sharex=True)  # fmt: skip
    ax = chart.axes[0]
    for i, emotion in enumerate(emotions):
        for s in segments:
            p = s.probabilities[emotion]
            (bar,) = ax.barh(i, s.end - s.start, 0.9, left=s.start, color=to_rgba(BLUE, p))
            tip = f"{s.start:.1f} to {s.end:.1f} s: {emotion} {percent(p)} %"
            chart.mark(bar, "span", f"{emotion} {s.start:g}", tip)
    _rows(ax, emotions)
    changes = "; ".join(f"{s.emotion} from {s.start:.1f} to {s.end:.1f} s" for s in merge(segments))
    chart.desc = f"Dark is probable: {changes}."
    if order:
        names, cuts = _unit_names(order, tags, units, emotions)
        for row, unit in enumerate(order):
            spans = [(u.start, u.end - u.start) for u in track if u.unit == units[unit]]
            bars = chart.axes[1].broken_barh(spans, (row - 0.35, 0.7), color=BLUE)
            chart.mark(bars, "unit", units[unit], f"{units[unit]}: {len(spans)}")
        _rows(chart.axes[1], names)
        chart.axes[1].tick_params(axis="y", labelsize=SMALL)
        for cut in cuts:
            chart.axes[1].axhline(cut - 0.5, color=LINE, linewidth=1)
        total = ", ".join(f"{units[u]} {counts[0, u]}" for u in order if counts[0, u])
        chart.desc += f" Units, how many of each: {total}."
    _seconds(chart.axes[-1], seconds)
    return chart


def emotion_shares(
    posteriors: np.ndarray, units: Sequence[str], num_emotions: int
) -> np.ndarray | None:
    """Share of each emotion's tag in a frame's non-blank posterior: (C, T).

    None for units without tags.
    """
    tags = unit_tags(units, num_emotions)
    if tags is None:
        return None
    mass = np.stack([posteriors[:, tags == e].sum(axis=1) for e in range(num_emotions)])  # (C, T)
    return mass / np.maximum(mass.sum(axis=0, keepdims=True), 1e-30)


def unit_rows(
    posteriors: np.ndarray, units: Sequence[str], num_emotions: int
) -> tuple[list[int], np.ndarray | None]:
    """Order of drawing units, by emotion with the blank last, and their tags (V,) or None."""
    tags = unit_tags(units, num_emotions)
    order = list(range(1, len(units)))
    if len(order) > MOST_UNITS:
        best = posteriors.max(axis=0)
        order = sorted(sorted(order, key=lambda u: -best[u])[:MOST_UNITS])
    if tags is not None:
        order.sort(key=lambda u: (tags[u], u))
    return [*order, 0], tags


def spectrogram(speech: np.ndarray) -> np.ndarray:
    """(L,) samples -> (F, T) levels, from 0 (``DYNAMICS`` or more dB below the maximum) to 1."""
    padded = np.pad(speech, (WINDOW // 2, WINDOW // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]  # (T, WINDOW)
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), FFT)) ** 2  # (T, F)
    decibel = 10 * np.log10(np.maximum(power, 1e-12))
    return np.clip(1 + (decibel - decibel.max()) / DYNAMICS, 0, 1).T


def _waveform(ax: Axes, speech: np.ndarray, width: float) -> str:
    count = min(round(width), len(speech))
    edges = np.linspace(0, len(speech), count + 1).astype(int)
    high, low = (f.reduceat(speech, edges[:-1]) for f in (np.maximum, np.minimum))
    times = (edges[:-1] + edges[1:]) / 2 / SAMPLE_RATE
    peak = max(float(np.abs(speech).max()), 1e-6)
    ax.fill_between(times, low, high, color=BLUE, linewidth=0.5)
    decibel = 20 * math.log10(peak)
    ax.set(ylim=(-peak, peak))
    ax.set_yticks([0], [f"waveform,\n{decibel:.0f} dB peak"])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return f"Waveform; the peak is {decibel:.1f} dB full scale."


def _spectrogram(chart: Chart, ax: Axes, speech: np.ndarray, width: float) -> None:
    loud = spectrogram(speech)  # (F, T)
    while loud.shape[1] > 2 * width:  # long utterances: keep the louder of two columns
        even = loud[:, : loud.shape[1] // 2 * 2]
        loud = np.maximum(even[:, ::2], even[:, 1::2])
    loud = np.maximum(loud[0:256:2], loud[1:256:2])[::-1]  # (128, T), high frequencies on top
    _picture(chart, ax, loud, ["spectrogram"], len(speech) / SAMPLE_RATE, "spectrogram")
    ax.set_yticks([0, 64, 127], ["8 kHz", "spectrogram", "0"])


def _picture(
    chart: Chart, ax: Axes, levels: np.ndarray, names: Sequence[str], seconds: float, track: str,
    **colours: Any,
) -> Any:  # fmt: skip
    """Draw ``levels`` (rows, T) over the whole time axis; return the image, for a colour bar."""
    count = len(levels)
    image = ax.imshow(levels, extent=(0, seconds, count - 0.5, -0.5), **PICTURE, **colours)
    chart.mark(image, "track", track, track)
    _rows(ax, names, count)
    return image


def _rows(ax: Axes, names: Sequence[str], count: int | None = None) -> None:
    ax.set_yticks(range(len(names)), [clean(name)[:18] for name in names])
    ax.set(ylim=((count or len(names)) - 0.5, -0.5))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def _unit_names(
    order: Sequence[int], tags: np.ndarray | None, units: Sequence[str], emotions: Sequence[str]
) -> tuple[list[str], list[int]]:
    """Row labels of units, with the emotion at its first unit, and the first row of each group."""
    names, cuts, previous = [], [], None
    for i, unit in enumerate(order):
        name = "blank" if unit == 0 else units[unit]
        emotion = None if tags is None or unit == 0 else int(tags[unit])
        if i and (emotion != previous or unit == 0):
            cuts.append(i)
        if emotion is not None and emotion != previous:
            name = f"{emotions[emotion][:8]}  {name}"
        names.append(name)
        previous = emotion
    return names, cuts


def _seconds(ax: Axes, seconds: float) -> None:
    ax.set(xlim=(0, seconds), xlabel="seconds")
    ax.tick_params(axis="x", length=2)
    ax.xaxis.set_major_locator(MaxNLocator(6))
