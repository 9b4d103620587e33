"""Charts of the HTML report as inline SVG.

Sizes are CSS pixels: a chart is as wide as the narrowest phone's column, so its text is never
scaled down on a screen; style.css has the colours, which stay apart for colour-blind readers, in
the dark and in grey. Whatever colour says is also said by shape, position or text, ``<title>``
and ``<desc>`` say what is drawn to those who do not see it, and most marks have a ``<title>`` of
their own with their exact value.
"""

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ser.console import percent
from ser.data.folds import mean_over
from ser.reporting.figures import History
from ser.reporting.page.markup import Markup, escape, tag
from ser.scoring.text import interval

WIDTH = 336
LETTER = 7.1  # px; about the width of a letter of the charts' text
TURNED = 0.775  # share of a row from which its cell is so dark that light text reads better
Z95 = 1.959963984540054  # the normal distribution's 97.5% quantile


def chart(
    title: str, desc: str, size: tuple[float, float], *parts: Any, class_: str = "chart"
) -> Markup:
    """An ``<svg>`` of ``size`` (width, height) with its title and description."""
    # The digest of all that is drawn: equal pages have equal names, and charts differing ones.
    key = f"c{zlib.crc32(''.join(map(escape, (title, desc, *parts))).encode('utf-8')):08x}"
    return tag(
        "svg",
        tag("title", title, id=f"{key}t"),
        tag("desc", desc, id=f"{key}d"),
        parts,
        viewBox=f"0 0 {size[0]:g} {size[1]:g}",
        width=size[0],
        height=size[1],
        role="img",
        aria_labelledby=f"{key}t {key}d",
        class_=class_,
    )


def confusion_chart(scores: Mapping[str, Any], title: str) -> Markup:
    """Recall in percent and counts, all folds pooled: a row is a reference, its shade the share."""
    labels, counts = scores["labels"], np.array(scores["confusion"]["counts"])  # (C, C)
    share = scores["confusion"]["row_normalised"]
    names = [shorten(label) for label in labels]
    left = 24 + max(LETTER * max(map(len, names)), 44)
    side = max((WIDTH - left - 2) / len(labels), 37.0)
    slanted = any(LETTER * len(name) > side for name in names)
    top = 22 + (0.7 * LETTER * max(map(len, names)) + 6 if slanted else 16)
    width, height = left + side * len(labels) + 2, top + side * len(labels) + 4
    parts: list[Markup] = [
        label(left + side * len(labels) / 2, 12, "recognised as", "middle", "quiet"),
        label(13, top + side * len(labels) / 2, "reference", "middle", "quiet", turn=-90),
    ]
    for i, name in enumerate(names):
        x, y = left + side * (i + 0.5), top + side * (i + 0.5)
        turn, anchor = (-45, "start") if slanted else (0, "middle")
        parts.append(label(x - (4 if slanted else 0), top - 6, name, anchor, turn=turn))
        parts.append(label(left - 6, y - 1, name, "end"))
        parts.append(label(left - 6, y + 12, f"n = {counts[i].sum()}", "end", "quiet small"))
    for (row, column), n in np.ndenumerate(counts):
        part = share[row][column] or 0.0
        x, y = left + side * column, top + side * row
        said = percent(share[row][column])
        full = f"{labels[row]} recognised as {labels[column]}: {n} of {counts[row].sum()}, {said} %"
        over = "turned" if part >= TURNED else "over"
        parts.append(
            tag(
                "g",
                tag("title", full),
                box(
                    x + 1,
                    y + 1,
                    side - 2,
                    side - 2,
                    "cell right" if row == column else "cell",
                    fill_opacity=round(part, 4),
                    rx=2,
                ),
                label(x + side / 2, y + side / 2, said, "middle", f"value {over}"),
                label(x + side / 2, y + side / 2 + 13, str(n), "middle", f"small {over}"),
                data_row=row,
                data_column=column,
            )  # fmt: skip
        )
    desc = "; ".join(
        f"{ref}: "
        + ", ".join(
            f"{percent(share[row][column])} % {hyp} ({counts[row, column]})"
            for column, hyp in enumerate(labels)
        )
        for row, ref in enumerate(labels)
    )
    return chart(
        title,
        f"Rows are references, columns decisions. {desc}.",
        (width, height),
        parts,
        class_="chart wide" if width > WIDTH + 1 else "chart",  # which scrolls on a phone
    )


def speakers_chart(scores: Mapping[str, Any], title: str) -> Markup:
    """A bar for each speaker's accuracy with its Wilson interval, and where the mean lies."""
    found = speaker_accuracy(scores)
    names = {speaker: shorten(speaker, 12) for speaker in found}
    left = 8 + LETTER * max(map(len, names.values()))
    right, top, step = WIDTH - 92, 18, 22
    bottom = top + step * len(found) + 2

    def place(value: float) -> float:
        return left + (right - left) * value

    parts = [*percent_axis(left, right, bottom, top)]
    band = scores["summary"]["wa_ci"]
    if band:
        parts.append(
            box(place(band[0]), top, place(band[1]) - place(band[0]), bottom - top, "band")
        )
    mean = scores["summary"]["wa"]
    parts += [
        line(place(mean), top, place(mean), bottom, "mean"),
        label(min(place(mean), right - 36), 12, f"mean {percent(mean)}", "middle", "small"),
        label(right + 44, 12, "WA", "end", "quiet small"),
        label(WIDTH, 12, "right", "end", "quiet small"),
    ]
    for i, (speaker, (right_ones, n)) in enumerate(found.items()):
        y, value = top + step * i, right_ones / n
        low, high = wilson(right_ones, n)
        full = f"{speaker}: WA {percent(value)} %, {right_ones} of {n}; 95%: {percent(low)} to "
        parts.append(
            tag(
                "g",
                tag("title", f"{full}{percent(high)}"),
                label(left - 6, y + 15, names[speaker], "end"),
                box(left, y + 4, place(value) - left, step - 8, "bar"),
                whisker(place(low), place(high), y + step / 2),
                label(right + 44, y + 15, percent(value), "end", "value"),
                label(WIDTH, y + 15, f"{right_ones}/{n}", "end", "quiet small"),
                data_speaker=speaker,
            )
        )
    each = ", ".join(f"{s} {percent(r / n)} % of {n}" for s, (r, n) in found.items())
    where = f"mean of {mean_over(scores['protocol'])} {percent(mean)} %, 95% {interval(band)}"
    return chart(title, f"WA by speaker: {each}; {where}.", (WIDTH, bottom + 20), parts)


def reliability_chart(scores: Mapping[str, Any], title: str) -> Markup:
    """Accuracy in each bin of confidence as bars, against the diagonal, above their counts."""
    found = scores["calibration"]
    bins = [b for b in found["bins"] if b["n"]]
    left, right, top, bottom, low = 36, WIDTH - 10, 46, 286, 354
    most = max(b["n"] for b in bins)

    def x(value: float) -> float:
        return left + (right - left) * value

    def y(value: float) -> float:
        return bottom - (bottom - top) * value

    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts += [
            line(left, y(tick), right, y(tick), "grid"),
            label(left - 5, y(tick) + 4, percent(tick, 0), "end", "quiet"),
            label(x(tick), low + 14, percent(tick, 0), "middle", "quiet"),
        ]
    parts += [
        line(x(0), y(0), x(1), y(1), "reference"),
        label(x(0.5), low + 28, "confidence (%)", "middle", "quiet"),
        box(left, 3, 10, 10, "bar"),
        label(left + 16, 12, "accuracy (%) in the bin"),
        disc(left + 5, 25, 4, "sure"),
        label(left + 16, 29, "mean confidence, on the diagonal"),
    ]
    for b in bins:
        full = (
            f"{percent(b['low'], 0)} to {percent(b['high'], 0)} % sure: {b['n']} decisions, "
            f"mean confidence {percent(b['confidence'])} %, accuracy {percent(b['accuracy'])} %"
        )
        wide, tall = x(b["high"]) - x(b["low"]) - 2, 44 * b["n"] / most
        count = label(x(b["low"]) + 1 + wide / 2, low - tall - 3, str(b["n"]), "middle", "small")
        parts.append(
            tag(
                "g",
                tag("title", full),
                box(x(b["low"]) + 1, y(b["accuracy"]), wide, bottom - y(b["accuracy"]), "bar"),
                disc(x(b["confidence"]), y(b["confidence"]), 4, "sure"),
                box(x(b["low"]) + 1, low - tall, wide, tall, "count"),
                count,
                data_bin=percent(b["low"], 0),
            )
        )
    parts += [line(left, bottom, right, bottom, "axis"), line(left, low, right, low, "axis")]
    desc = "; ".join(
        f"{percent(b['low'], 0)} to {percent(b['high'], 0)} %: accuracy "
        f"{percent(b['accuracy'])} % of {b['n']}"
        for b in bins
    )
    return chart(title, f"Accuracy by confidence. {desc}.", (WIDTH, low + 34), parts)


def curves_chart(
    curves: Mapping[str, Sequence[tuple[str, Mapping[int, float]]]], name: str, title: str
) -> Markup:
    """Values over epochs: the mean over folds as a thick line, every fold as a thin one.

    Args:
        curves: by split (``train``, ``valid``) a list of (fold, epoch -> value).
        name: of the value, with its unit.
        title: of the chart.
    """
    left, right, top, bottom = 42, WIDTH - 10, 30, 200
    points = [p for found in curves.values() for _, c in found for p in c.items()]
    last = max(epoch for epoch, _ in points)
    marks = ticks(min(v for _, v in points), max(v for _, v in points))
    low, high = marks[0], marks[-1]

    def place(epoch: float, value: float) -> tuple[float, float]:
        across = (epoch - 1) / max(last - 1, 1)
        return left + 6 + (right - left - 12) * across, bottom - (bottom - top) * (value - low) / (
            high - low
        )

    parts: list[Markup] = []
    for tick in marks:
        y = place(1, tick)[1]
        parts += [
            line(left, y, right, y, "grid"),
            label(left - 5, y + 4, f"{tick:g}", "end", "quiet"),
        ]
    for epoch in whole_ticks(last):
        parts.append(label(place(epoch, low)[0], bottom + 15, str(epoch), "middle", "quiet"))
    parts += [
        line(left, bottom, right, bottom, "axis"),
        label(left + (right - left) / 2, bottom + 29, "epoch", "middle", "quiet"),
        label(4, 12, name, "start", "value"),
    ]
    said, x = [], right - 122 if len(curves) > 1 else right - 60
    for split, found in curves.items():
        means = mean_curve([curve for _, curve in found])
        for fold, curve in found if len(found) > 1 else ():
            ends = f"{split}, fold {fold}: {next(iter(curve.values())):.4g} to "
            parts.append(
                tag(
                    "g",
                    tag("title", f"{ends}{list(curve.values())[-1]:.4g}"),
                    path([place(*p) for p in curve.items()], f"thin {split}"),
                )
            )
        parts.append(path([place(*p) for p in means.items()], f"thick {split}"))
        if len(means) <= 15:
            parts += [dot_of(split, *place(*p)) for p in means.items()]
        parts += [
            path([(x, 8), (x + 22, 8)], f"thick {split}"),
            dot_of(split, x + 11, 8),
            label(x + 27, 12, split, "start"),
        ]
        x += 66
        first, final = next(iter(means.values())), list(means.values())[-1]
        said.append(f"{split}: {first:.4g} after epoch 1, {final:.4g} after epoch {last}")
    desc = f"{name} over epochs, mean over folds. {'; '.join(said)}."
    return chart(title, desc, (WIDTH, bottom + 34), parts)


def layers_chart(
    weights: Mapping[str, Sequence[float]], names: Sequence[str], title: str
) -> Markup:
    """Fusion weights (eq. 4) of each layer: mean over folds, a dot for every fold.

    Drawn against the equal shares that training starts with, since small learning rates move
    them little.

    Args:
        weights: of the folds, each with a weight for every one of ``names``.
        names: of what is fused, from the input up.
        title: of the chart.
    """
    shares = np.array(list(weights.values()))  # (folds, layers)
    start, mean = 1 / len(names), shares.mean(axis=0)
    low, high = min(shares.min(), 0.98 * start), max(shares.max(), 1.02 * start)
    pad = 0.06 * (high - low)
    low, high = low - pad, high + pad
    digits = 3 if np.ptp(mean) > 0.02 else 4
    left, right, top, step = 74, WIDTH - 54, 26, 20
    bottom = top + step * len(names) + 2

    def place(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    parts = [
        line(place(start), top - 4, place(start), bottom, "reference"),
        label(place(start), 14, f"start: 1/{len(names)}", "middle", "small"),
        label(WIDTH, 14, "mean", "end", "quiet small"),
    ]
    for tick in (t for t in ticks(low, high, 3) if low <= t <= high):
        parts += [
            line(place(tick), top, place(tick), bottom, "grid"),
            label(place(tick), bottom + 14, f"{tick:g}", "middle", "quiet"),
        ]
    for i, name in enumerate(names):
        y = top + step * i + step / 2
        folds = [
            tag("g", tag("title", f"fold {fold}: {w[i]:.4f}"), disc(place(w[i]), y, 2.2, "fold"))
            for fold, w in weights.items()
            if len(weights) > 1
        ]
        parts.append(
            tag(
                "g",
                tag("title", f"{name}: mean {mean[i]:.4f}"),
                label(left - 8, y + 4, name, "end"),
                line(place(start), y, place(mean[i]), y, "stem"),
                folds,
                disc(place(mean[i]), y, 5, "point"),
                label(WIDTH, y + 4, f"{mean[i]:.{digits}f}", "end", "value"),
                data_layer=i,
            )
        )
    parts.append(line(left, bottom, right, bottom, "axis"))
    each = ", ".join(f"{name} {w:.3f}" for name, w in zip(names, mean, strict=True))
    return chart(title, f"Mean over folds: {each}.", (WIDTH, bottom + 20), parts)


def probabilities_chart(
    labels: Sequence[str], probs: Sequence[float], ref: str | None, title: str
) -> Markup:
    """What a model gives every emotion; the reference, where it is known, has a mark."""
    names = [shorten(name) for name in labels]
    left = 10 + LETTER * (max(map(len, names)) + (len(" (reference)") if ref else 0))
    right, step = WIDTH - 44, 22
    best = max(probs)
    parts = []
    for i, (name, p) in enumerate(zip(labels, probs, strict=True)):
        y = step * i
        shown = names[i] + (" (reference)" if name == ref else "")
        parts.append(
            tag(
                "g",
                tag("title", f"{name}: {percent(p)} %"),
                label(left - 6, y + 15, shown, "end", "value" if name == ref else None),
                box(left, y + 4, (right - left) * p, step - 8, "bar" if p == best else "bar faint"),
                label(left + (right - left) * p + 5, y + 15, percent(p), "start", "small"),
            )
        )
    parts.append(line(left, 2, left, step * len(labels), "axis"))
    each = ", ".join(f"{n} {percent(p)} %" for n, p in zip(labels, probs, strict=True))
    desc = f"{each}; the reference is {ref}." if ref else f"{each}."
    return chart(title, desc, (WIDTH, step * len(labels) + 4), parts)


def sparkline(history: History, best_epoch: int | None, fold: str) -> Markup | None:
    """UA over the epochs of one fold, small enough for a table; None where nobody noted it."""
    split = "valid" if any("UA" in (entry.get("valid") or {}) for entry in history) else "train"
    curve = epochs_of(history, split, "UA", 100)
    if not curve:
        return None
    width, height, last = 96, 24, max(curve)

    def place(epoch: int, value: float) -> tuple[float, float]:
        return 4 + (width - 8) * (epoch - 1) / max(last - 1, 1), 22 - 20 * value / 100

    parts = [path([place(*p) for p in curve.items()], f"thick {split}")]
    chosen = curve.get(best_epoch) if best_epoch else None
    if best_epoch and chosen is not None:
        parts.append(disc(*place(best_epoch, chosen), 3.2, f"point {split}"))
    values = list(curve.values())
    desc = f"{split} UA {values[0]:.1f} % after the first epoch, {values[-1]:.1f} % after the last"
    if chosen is not None:
        desc += f", {chosen:.1f} % after epoch {best_epoch}"
    title = f"UA over epochs, fold {fold}"
    return chart(title, desc, (width, height), parts, class_="spark")


def meter(value: float) -> Markup:
    """A fraction as a small bar, for a table in which the number stands as well."""
    parts = [box(0, 3, 90, 8, "track"), box(0, 3, 90 * value, 8, "bar")]
    return tag("svg", parts, width=90, height=14, class_="spark", aria_hidden="true")


def learning_panels(
    histories: Mapping[str, History],
) -> list[tuple[str, dict[str, list[tuple[str, dict[int, float]]]]]]:
    """What to draw of the folds' histories: (name of the value, curves by split).

    The loss of the emotion head, that of every auxiliary head, UA.
    """
    noted = {key for h in histories.values() for entry in h for key in entry.get("train") or ()}
    heads = sorted(
        key for key in noted if key.startswith("loss_") and key[5:] not in ("er", "scale")
    )
    wanted = [("loss_er", "emotion loss", 1), *((k, f"loss of head {k[5:]}", 1) for k in heads)]
    panels = []
    for key, name, scale in [*wanted, ("UA", "UA (%)", 100)]:
        curves = {
            split: [
                (fold, curve)
                for fold, history in histories.items()
                if (curve := epochs_of(history, split, key, scale))
            ]
            for split in ("train", "valid")
        }
        curves = {split: found for split, found in curves.items() if found}
        if curves:
            panels.append((name, curves))
    return panels


def epochs_of(history: History, split: str, key: str, scale: float) -> dict[int, float]:
    """Epoch -> value of one fold; what is not a finite number (a diverged loss) is left out."""
    return {
        int(entry["epoch"]): scale * float(entry[split][key])
        for entry in history
        if key in (entry.get(split) or {}) and math.isfinite(float(entry[split][key]))
    }


def mean_curve(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The mean over the folds that reached an epoch."""
    epochs = sorted(set().union(*curves))
    return {e: float(np.mean([c[e] for c in curves if e in c])) for e in epochs}


def speaker_accuracy(scores: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Right decisions and utterances of every speaker, over all folds that tested on them."""
    found: dict[str, tuple[int, int]] = {}
    for entry in scores["speakers"]:
        right, n = found.get(entry["speaker"], (0, 0))
        pairs = list(zip(entry["ref"], entry["hyp"], strict=True))
        found[entry["speaker"]] = (right + sum(r == h for r, h in pairs), n + len(pairs))
    return found


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95% score interval of a proportion (Wilson, 1927), as fractions."""
    p, z = right / n, Z95
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) apart alike, from below low to above high."""
    span = max(high - low, 1e-9 + 1e-6 * abs(high))
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def whole_ticks(last: int, about: int = 6) -> list[int]:
    """Epochs to name: the first, round ones, and the last."""
    step = max(1, round(ticks(0, last, about)[1]))
    inner = [e for e in range(step, last, step) if e > 1 and last - e >= 0.6 * step]
    return sorted({1, *inner, last})


def shorten(name: str, most: int = 14) -> str:
    """``name`` cut to ``most`` letters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def percent_axis(left: float, right: float, bottom: float, top: float) -> Iterable[Markup]:
    """Grid lines and names at 0, 25 ... 100 percent."""
    for tick in (0, 25, 50, 75, 100):
        x = left + (right - left) * tick / 100
        yield line(x, top, x, bottom, "grid" if tick else "axis")
        yield label(x, bottom + 14, str(tick), "middle", "quiet")


def label(
    x: float, y: float, text: str, anchor: str = "start", class_: str | None = None, turn: float = 0
) -> Markup:
    """Text at a point, turned by degrees."""
    rotate = f"rotate({turn} {x:.1f} {y:.1f})" if turn else None
    anchor_ = None if anchor == "start" else anchor
    return tag("text", text, x=x, y=y, text_anchor=anchor_, class_=class_, transform=rotate)


def box(x: float, y: float, width: float, height: float, class_: str, **more: Any) -> Markup:
    """A rectangle."""
    return tag("rect", x=x, y=y, width=width, height=height, class_=class_, **more)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def disc(x: float, y: float, radius: float, class_: str) -> Markup:
    """A dot."""
    return tag("circle", cx=x, cy=y, r=radius, class_=class_)


def dot_of(split: str, x: float, y: float) -> Markup:
    """The mark of a split: training is round, validation is square."""
    if split == "train":
        return disc(x, y, 3, "point train")
    return box(x - 2.8, y - 2.8, 5.6, 5.6, "point valid")


def whisker(low: float, high: float, y: float) -> Markup:
    """An interval."""
    d = f"M{low:.1f} {y - 4:.1f}v8M{low:.1f} {y:.1f}H{high:.1f}M{high:.1f} {y - 4:.1f}v8"
    return tag("path", d=d, class_="whisker")


def path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A line through points."""
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return tag("path", d=d, class_=class_)
