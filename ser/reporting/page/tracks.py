"""What happens over time: waveform, spectrogram, posteriors, emotions, units, one time axis.

Tracks are as wide as the column: positions across are percentages, heights and text are pixels.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from ser.console import percent
from ser.data.audio import SAMPLE_RATE
from ser.predict.windows import Segment, Unit, merge
from ser.reporting.page.charts import chart, label, ticks
from ser.reporting.page.markup import Markup, data_uri, tag
from ser.scoring.decisions import unit_tags

SIDE = 96  # px; the names to the left
ROW = 13  # px; the height of a unit
EMOTION_ROW = 22  # px; of an emotion in the timeline
WINDOW, HOP, FFT = 400, 160, 512  # samples at 16 kHz: 25 ms, 10 ms
DYNAMICS = 70.0  # dB below the loudest that are told apart
FAINTEST = 1e-3  # the posterior that is drawn as nothing
MOST_UNITS = 40  # rows; of a larger inventory the units that are most certain anywhere
LEVELS = 64


def tracks(
    speech: np.ndarray,
    posteriors: np.ndarray | None,
    units: Sequence[str],
    emotions: Sequence[str],
) -> Markup:
    """Waveform, spectrogram, posteriors of units and the emotions they speak for.

    Args:
        speech: (L,) samples at 16 kHz in [-1, 1].
        posteriors: (T, V) probabilities of the CTC head in every frame, or None.
        units: its inventory, the blank first.
        emotions: in class order, which the tags of units refer to.
    """
    seconds = len(speech) / SAMPLE_RATE
    rows = [*_waveform(speech), *_spectrogram(speech)]
    if posteriors is not None:
        rows += _emotions(posteriors, units, emotions)
        rows += _units(posteriors, units, emotions)
    rows += _axis(seconds)
    return tag("div", rows, class_="tracks")


def timeline(
    segments: Sequence[Segment],
    track: Sequence[Unit],
    units: Sequence[str],
    emotions: Sequence[str],
    seconds: float,
) -> Markup:
    """When the emotion changes, and which unit is the most probable when.

    Args:
        segments: their probabilities are the shades; where there is none, nothing is drawn.
        track: the units of the best path.
        units: the inventory they come from, the blank first; empty without a CTC head.
        emotions: in class order, which the tags of units refer to.
        seconds: the length of the recording.
    """
    rows = [*_probabilities(segments, emotions, seconds)]
    if track:
        rows += _best_path(track, units, emotions, seconds)
    return tag("div", [*rows, *_axis(seconds)], class_="tracks")


def color_key() -> Markup:
    """What the colours of the posteriors mean, a bar with its numbers."""
    ramp = np.linspace(0, 1, 128)[None]  # (1, 128)
    parts = [tag("image", x=16, y=2, width=180, height=10, preserveAspectRatio="none",
                 href=_image(ramp))]  # fmt: skip
    for i, name in enumerate(("0.001", "0.01", "0.1", "1")):
        parts.append(label(16 + 60 * i, 24, name, "middle"))
    return chart("Colours of the posteriors", "Dark is 0.001 or less, bright is 1; logarithmic.",
                 (212, 28), parts)  # fmt: skip


def emotion_shares(
    posteriors: np.ndarray, units: Sequence[str], num_emotions: int
) -> np.ndarray | None:
    """Of what is not blank in a frame, the share that carries each emotion's tag: (C, T).

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
    """The order in which units are drawn, and their tags (V,) or None: by emotion, blank last."""
    tags = unit_tags(units, num_emotions)
    order = list(range(1, len(units)))
    if len(order) > MOST_UNITS:
        best = posteriors.max(axis=0)
        order = sorted(sorted(order, key=lambda u: -best[u])[:MOST_UNITS])
    if tags is not None:
        order.sort(key=lambda u: (tags[u], u))
    return [*order, 0], tags


def spectrogram(speech: np.ndarray) -> np.ndarray:
    """(L,) samples -> (F, T) loudness from 0 (``DYNAMICS`` dB below the maximum, or less) to 1."""
    padded = np.pad(speech, (WINDOW // 2, WINDOW // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]  # (T, WINDOW)
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), FFT)) ** 2  # (T, F)
    decibel = 10 * np.log10(np.maximum(power, 1e-12))
    return np.clip(1 + (decibel - decibel.max()) / DYNAMICS, 0, 1).T


def png(levels: np.ndarray, palette: np.ndarray) -> bytes:
    """A picture of indices (H, W) into ``palette`` (N, 3), both uint8, N up to 256."""
    height, width = levels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), levels.astype(np.uint8)], axis=1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", palette.astype(np.uint8).tobytes()),
            chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            chunk(b"IEND", b""),
        ]
    )


def _waveform(speech: np.ndarray) -> Iterator[Markup]:
    height, columns = 72, min(1000, len(speech))
    edges = np.linspace(0, len(speech), columns + 1).astype(int)
    high = np.maximum.reduceat(speech, edges[:-1])
    low = np.minimum.reduceat(speech, edges[:-1])
    peak = max(float(np.abs(speech).max()), 1e-6)
    half = height / 2 - 2
    above = [(i, height / 2 - half * float(v) / peak - 0.5) for i, v in enumerate(high)]
    below = [(i, height / 2 - half * float(v) / peak + 0.5) for i, v in enumerate(low)]
    d = "M" + "L".join(f"{x} {y:.1f}" for x, y in [*above, *reversed(below)]) + "Z"
    shape = tag(
        "svg",
        tag("path", d=d, class_="wave"),
        viewBox=f"0 0 {columns} {height}",
        width="100%",
        height=height,
        preserveAspectRatio="none",
    )
    decibel = 20 * math.log10(peak)
    under = (f"{decibel:.0f} dB peak", height / 2 + 14, "small")
    yield _side([("waveform", height / 2, None), under], height)
    desc = f"Amplitude over time; the peak is {decibel:.1f} dB full scale"
    yield _track("Waveform", desc, height, shape)


def _spectrogram(speech: np.ndarray) -> Iterator[Markup]:
    height = 128
    loud = spectrogram(speech)  # (F, T)
    while loud.shape[1] > 1200:  # long utterances: a column is then the louder of two
        even = loud[:, : loud.shape[1] // 2 * 2]
        loud = np.maximum(even[:, ::2], even[:, 1::2])
    loud = np.maximum(loud[0:256:2], loud[1:256:2])[::-1]  # (128, T), high notes above
    yield _side(
        [("8 kHz", 10, None), ("spectrogram", height / 2 + 4, None), ("0", height, None)], height
    )
    yield _track(
        "Spectrogram",
        f"Frequency from 0 to 8 kHz over time; bright is loud, over {DYNAMICS:.0f} dB",
        height,
        _picture(loud, height, "smooth"),
    )


def _emotions(
    posteriors: np.ndarray, units: Sequence[str], emotions: Sequence[str]
) -> Iterator[Markup]:
    shares = emotion_shares(posteriors, units, len(emotions))
    if shares is None:
        return
    height = 16 * len(emotions)
    mean = ", ".join(f"{e} {m:.2f}" for e, m in zip(emotions, shares.mean(axis=1), strict=True))
    yield _side([(e, 16 * i + 12, None) for i, e in enumerate(emotions)], height)
    yield _track(
        "Emotions that the units speak for",
        f"Share of each emotion's units in what is not blank, frame by frame; on average {mean}",
        height,
        _picture(shares, height),
        _grid(len(emotions), 16),
    )


def _units(
    posteriors: np.ndarray, units: Sequence[str], emotions: Sequence[str]
) -> Iterator[Markup]:
    order, tags = unit_rows(posteriors, units, len(emotions))
    level = 1 - np.log10(np.maximum(posteriors[:, order], FAINTEST)) / math.log10(FAINTEST)  # (T,N)
    names, separators = _unit_names(order, tags, units, emotions)
    height = ROW * len(order)
    best = ", ".join(f"{units[u]} {posteriors[:, u].max():.2f}" for u in order)
    yield _side(names, height)
    yield _track(
        "Posteriors of the units",
        f"Probability of each unit, frame by frame; the highest of each: {best}",
        height,
        _picture(level.T, height),
        [_across(y) for y in separators],
    )


def _probabilities(
    segments: Sequence[Segment], emotions: Sequence[str], seconds: float
) -> Iterator[Markup]:
    height = EMOTION_ROW * len(emotions)
    cells = [
        tag(
            "g",
            tag("title", f"{s.start:.1f} to {s.end:.1f} s: {e} {percent(s.probabilities[e])} %"),
            tag(
                "rect",
                x=f"{100 * s.start / seconds:.3f}%",
                width=f"{100 * (s.end - s.start) / seconds:.3f}%",
                y=EMOTION_ROW * i + 1,
                height=EMOTION_ROW - 2,
                class_="span",
                fill_opacity=round(s.probabilities[e], 3),
            ),
        )
        for s in segments
        for i, e in enumerate(emotions)
    ]
    changes = "; ".join(f"{s.emotion} from {s.start:.1f} to {s.end:.1f} s" for s in merge(segments))
    yield _side([(e, EMOTION_ROW * (i + 0.5) + 4, None) for i, e in enumerate(emotions)], height)
    yield _track("Emotions over time", f"Dark is probable: {changes}", height, cells)


def _best_path(
    track: Sequence[Unit], units: Sequence[str], emotions: Sequence[str], seconds: float
) -> Iterator[Markup]:
    index = {unit: i for i, unit in enumerate(units)}
    counts = np.zeros((1, len(units)))
    for unit in track:
        counts[0, index[unit.unit]] += 1
    order, tags = unit_rows(counts, units, len(emotions))
    order.remove(0)  # the blank is where there is none
    names, separators = _unit_names(order, tags, units, emotions)
    height = ROW * len(order)
    shapes = []
    for row, unit in enumerate(order):
        spans = [u for u in track if index[u.unit] == unit]
        d = "".join(
            f"M{1000 * u.start:.0f} {ROW * row + 2}h{1000 * (u.end - u.start):.0f}v{ROW - 4}"
            f"H{1000 * u.start:.0f}z"
            for u in spans
        )
        shapes.append(tag("path", tag("title", f"{units[unit]}: {len(spans)}"), d=d, class_="wave"))
    drawn = tag(
        "svg",
        shapes,
        viewBox=f"0 0 {1000 * seconds:.0f} {height}",
        width="100%",
        height=height,
        preserveAspectRatio="none",
    )
    lines = [tag("line", x1="0", x2="100%", y1=y, y2=y, class_="grid") for y in separators]
    total = ", ".join(f"{units[u]} {counts[0, u]:.0f}" for u in order if counts[0, u])
    yield _side(names, height)
    yield _track("Units over time", f"The most probable; how many of each: {total}", height, lines,
                 drawn)  # fmt: skip


def _unit_names(
    order: Sequence[int], tags: np.ndarray | None, units: Sequence[str], emotions: Sequence[str]
) -> tuple[list[tuple[str, float, str]], list[float]]:
    """The names beside rows of units in ``order``, and the heights of the lines between blocks."""
    names, separators, previous = [], [], None
    for i, unit in enumerate(order):
        y, name = ROW * i + 10, "blank" if unit == 0 else units[unit]
        names.append((name, y, "small"))
        emotion = None if tags is None or unit == 0 else int(tags[unit])
        if i and (emotion != previous or unit == 0):
            separators.append(ROW * i)
        if emotion is not None and emotion != previous:
            names.append((emotions[emotion], y, "block"))
        previous = emotion
    return names, separators


def _axis(seconds: float) -> Iterator[Markup]:
    yield _side([("seconds", 16, "quiet")], 22)
    marks = [t for t in ticks(0, seconds, 5) if t <= seconds]
    parts = []
    for t in marks:
        x = f"{100 * t / seconds:.2f}%"
        anchor = "start" if t == 0 else "end" if t > 0.97 * seconds else "middle"
        parts += [
            tag("line", x1=x, x2=x, y1=0, y2=5, class_="axis"),
            tag("text", f"{t:g}", x=x, y=17, text_anchor=anchor, class_="quiet"),
        ]
    yield _track("Time", f"Seconds, from 0 to {seconds:.2f}", 22, parts)


def _side(names: Sequence[tuple[str, float, str | None]], height: float) -> Markup:
    """Names at heights: to the right, or to the left if they name a block of rows."""
    parts = [
        label(0, y, name[:8] if len(names) > 3 else name, "start", "value small")
        if kind == "block"
        else label(SIDE - 4, y, name[:13], "end", kind)
        for name, y, kind in names
    ]
    return tag("svg", parts, width=SIDE, height=height, aria_hidden="true")


def _track(title: str, desc: str, height: float, *parts: object) -> Markup:
    key = f"t{zlib.crc32(f'{title}{desc}'.encode()):08x}"
    return tag(
        "svg",
        tag("title", title, id=f"{key}t"),
        tag("desc", f"{desc}.", id=f"{key}d"),
        parts,
        width="100%",
        height=height,
        role="img",
        aria_labelledby=f"{key}t {key}d",
        class_="over",
    )


def _picture(levels: np.ndarray, height: float, class_: str | None = None) -> Markup:
    return tag(
        "image",
        x=0,
        y=0,
        width="100%",
        height=height,
        preserveAspectRatio="none",
        class_=class_,
        href=_image(levels),
    )


def _image(levels: np.ndarray) -> str:
    """(H, W) from 0 to 1 as a picture: cividis, whose order the colour-blind see as well."""
    from matplotlib import colormaps

    palette = np.round(255 * colormaps["cividis"](np.linspace(0, 1, LEVELS))[:, :3])  # (LEVELS, 3)
    indices = np.round(np.clip(levels, 0, 1) * (LEVELS - 1))
    return data_uri("image/png", png(indices.astype(np.uint8), palette))


def _grid(rows: int, step: float) -> list[Markup]:
    return [_across(step * i) for i in range(1, rows)]


def _across(y: float) -> Markup:
    return tag("line", x1="0", x2="100%", y1=y, y2=y, class_="cut")
