"""Charts of an experiment, of a sweep and of the paper, for files and pages."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ser.console import percent
from ser.provenance import digest
from ser.reporting.charts import (
    BLUE,
    FAINT,
    INK,
    LINE,
    OVER,
    QUIET,
    RED,
    SHADE,
    SMALL,
    TURNED,
    WIDTH,
    Chart,
    new_chart,
    shorten,
    styled,
)
from ser.reporting.elsewhere import risk_chart
from ser.reporting.inputs import History, ReportInput, curve
from ser.scoring.text import interval
from ser.stage import file_digest, mark_done, read_marker
from ser.training.experiment import PHASES

COLOURS = {"train": BLUE, "valid": RED}
LINES, MARKERS = {"train": "-", "valid": "--"}, {"train": "o", "valid": "s"}
LETTER = 6.6  # px; about the width of a letter
CELL = 37  # px; minimum for "100.0"
DARK = 0.775  # share of a row above which light text is easier to read on its cell
MARKED_EPOCHS = 15  # longest curve with a marker at every epoch
Z95 = 1.959963984540054  # the normal distribution's 97.5% quantile
Panel = tuple[str, str, float]  # key in history.json, name with unit, scale
Interval = tuple[float, float, float]  # mean, low, high in percent


def draw_figures(experiment: ReportInput) -> list[Path]:
    """Draw the figures for which there are data into ``figures/`` of the experiment.

    A figure without data is not drawn, and an older one is removed. Nothing is drawn if figures
    of the same data exist.

    Returns:
        The PNG files.
    """
    directory = experiment.exp_dir / "figures"
    directory.mkdir(exist_ok=True)
    scores = experiment.scores
    weights, histories = experiment.layer_weights(), experiment.histories
    code = file_digest(*sorted(Path(__file__).parent.glob("*.py")))
    shown = [experiment.heading, scores, histories, weights and experiment.layer_names()]
    made_from = digest([code, matplotlib.__version__, json.dumps(shown)])
    older = read_marker(directory) or {}
    written = [directory / name for name in older.get("files", [])]
    if older.get("made_from") == made_from and all(path.is_file() for path in written):
        return written
    panels = learning_panels(histories)
    charts = {
        "confusion_matrix": confusion_chart(scores["labels"], scores["confusion"]["counts"], ""),
        "reliability": reliability_chart(scores, ""),
        "risk_coverage": risk_chart(scores, ""),
        "learning_curves": learning_chart(histories, panels, "") if panels else None,
        "layer_weights": layers_chart(weights, experiment.layer_names(), "") if weights else None,
    }
    written = []
    for name, chart in charts.items():
        path = directory / f"{name}.png"
        if chart is None:
            path.unlink(missing_ok=True)
        else:
            written.append(chart.save_png(path, experiment.heading))
    mark_done(directory, {"made_from": made_from, "files": [path.name for path in written]})
    return written


@styled()
def confusion_chart(labels: Sequence[str], counts: Sequence[Sequence[int]], title: str) -> Chart:
    """Confusion matrix in percent and counts: rows are references, shades shares of the row."""
    table = np.array(counts)  # (C, C)
    total = table.sum(axis=1, keepdims=True)
    share = table / np.maximum(total, 1)
    names = [shorten(label) for label in labels]
    longest = LETTER * max(map(len, names))
    side = max((WIDTH - 30 - max(longest, 48)) / len(labels), CELL)
    slanted = longest > side
    top = 26 + (0.7 * longest if slanted else 12)
    width = max(WIDTH, 30 + max(longest, 48) + side * len(labels))
    chart = new_chart(title, top + side * len(labels), width)
    ax = chart.axes[0]
    for (row, column), n in np.ndenumerate(table):
        part = share[row, column]
        said = percent(part if total[row] else None)
        edge = (INK, 1.5) if row == column else (LINE, 1)
        cell = Rectangle(
            (column - 0.47, row - 0.47), 0.94, 0.94,
            facecolor=to_rgba(SHADE, part), edgecolor=edge[0], linewidth=edge[1],
        )  # fmt: skip
        ax.add_patch(cell)
        tip = f"{labels[row]} recognised as {labels[column]}: {n} of {total[row, 0]}, {said} %"
        chart.mark(cell, "cell", f"{row},{column}", tip)
        style = {"ha": "center", "color": TURNED if part >= DARK else OVER}
        ax.text(column, row, said, va="bottom", fontweight="bold", **style)
        ax.text(column, row + 0.05, str(n), va="top", fontsize=SMALL, **style)
    ax.set(xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5))
    turned = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"} if slanted else {}
    ax.set_xticks(range(len(labels)), names, **turned)
    counted = [f"{name}\nn = {n}" for name, n in zip(names, total[:, 0], strict=True)]
    ax.set_yticks(range(len(labels)), counted)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="recognised as", ylabel="reference")
    rows = []
    for ref, own, n in zip(labels, table, total[:, 0], strict=True):
        cells = [
            f"{percent(c / n if n else None)} % {hyp} ({c})"
            for hyp, c in zip(labels, own, strict=True)
        ]
        rows.append(f"{ref}: {', '.join(cells)}")
    chart.desc = f"Rows are references, columns decisions. {'; '.join(rows)}."
    return chart


@styled()
def speakers_chart(scores: Mapping[str, Any], title: str) -> Chart:
    """A bar for each speaker's accuracy with its Wilson interval, and a line at the mean."""
    found = speaker_accuracy(scores)
    chart = new_chart(title, 56 + 22 * len(found))
    ax = chart.axes[0]
    summary, said = scores["summary"], []
    if summary["wa_ci"]:
        low, high = (100 * b for b in summary["wa_ci"])
        ax.axvspan(low, high, color=BLUE, alpha=0.12, linewidth=0)
    ax.axvline(100 * summary["wa"], color=INK, linestyle="--", linewidth=1)
    for i, (speaker, (right, n)) in enumerate(found.items()):
        share, bounds = right / n, wilson(right, n)
        (bar,) = ax.barh(i, 100 * share, 0.62, color=BLUE)
        tip = f"{speaker}: WA {percent(share)} %, {right} of {n}; 95%: {interval(bounds)}"
        chart.mark(bar, "speaker", speaker, tip)
        reach = [[100 * abs(share - bound)] for bound in bounds]
        ax.errorbar(100 * share, i, xerr=reach, color=INK, capsize=3, linewidth=1.2)
        value = f"{percent(share):>5}  {right}/{n}"
        ax.text(1.02, i, value, transform=ax.get_yaxis_transform(), va="center")
        said.append(f"{speaker} {percent(share)} % of {n}")
    ax.text(1.02, -0.85, "WA  right", transform=ax.get_yaxis_transform(), color=QUIET,
            fontsize=SMALL)  # fmt: skip
    mean = f"mean {percent(summary['wa'])}"
    ax.text(min(100 * summary["wa"], 88), -0.85, mean, ha="center", fontsize=SMALL)
    ax.set_yticks(range(len(found)), [shorten(speaker, 12) for speaker in found])
    ax.set(xlim=(0, 100), ylim=(len(found) - 0.5, -0.6), xticks=range(0, 101, 25))
    ax.grid(axis="x")
    chart.mark_grid(ax.xaxis)
    ax.spines["bottom"].set_visible(False)
    chart.desc = f"WA by speaker: {', '.join(said)}; {mean} %, 95% {interval(summary['wa_ci'])}."
    return chart


@styled()
def reliability_chart(scores: Mapping[str, Any], title: str) -> Chart:
    """Reliability diagram: accuracy in each confidence bin, above the bin counts.

    Bars below the diagonal are overconfident decisions.
    """
    found = scores["calibration"]
    bins = [b for b in found["bins"] if b["n"]]
    chart = new_chart(title, 390, rows=2, height_ratios=[4, 1], sharex=True)
    accuracy, counts = chart.axes
    for b in bins:
        left, wide = 100 * b["low"] + 0.3, 100 * (b["high"] - b["low"]) - 0.6
        (bar,) = accuracy.bar(left, 100 * b["accuracy"], wide, align="edge", color=BLUE)
        tip = (
            f"{percent(b['low'], 0)} to {percent(b['high'], 0)} % sure: {b['n']} decisions, "
            f"mean confidence {percent(b['confidence'])} %, accuracy {percent(b['accuracy'])} %"
        )
        chart.mark(bar, "bin", percent(b["low"], 0), tip)
        counts.bar(left, b["n"], wide, align="edge", color=QUIET)
        counts.annotate(str(b["n"]), (left + wide / 2, b["n"]), (0, 1), ha="center",
                        textcoords="offset points", fontsize=SMALL)  # fmt: skip
    sure = [100 * b["confidence"] for b in bins]
    accuracy.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=":")
    accuracy.plot(sure, sure, "o", color=RED, label="mean confidence, on the diagonal")
    accuracy.bar(0, 0, color=BLUE, label="accuracy in the bin")
    accuracy.set(ylabel="accuracy (%)", xlim=(0, 100), ylim=(0, 100))
    accuracy.grid(axis="y")
    chart.mark_grid(accuracy.yaxis)
    chart.figure.legend(loc="outside lower left", handlelength=1)
    counts.set(ylabel="decisions", yticks=[], ylim=(0, 1.3 * max(b["n"] for b in bins)))
    counts.set_xlabel(
        f"confidence (%), {len(found['bins'])} bins; calibration error {percent(found['ece'])}%"
    )
    said = [
        f"{percent(b['low'], 0)} to {percent(b['high'], 0)} %: accuracy {percent(b['accuracy'])} "
        f"% of {b['n']}"
        for b in bins
    ]
    chart.desc = f"Accuracy by confidence. {'; '.join(said)}."
    return chart


def learning_panels(histories: Mapping[str, History]) -> list[Panel]:
    """Panels for which the folds' histories have curves: losses of the heads, WA and UA."""
    noted = {key for history in histories.values() for entry in history for key in entry["train"]}
    heads = sorted(key for key in noted if key.startswith("loss_"))
    heads = [key for key in heads if key not in ("loss_er", "loss_scale")]
    panels = [("loss_er", "emotion loss", 1.0)]
    panels += [(key, f"loss of head {key.removeprefix('loss_')}", 1.0) for key in heads]
    panels += [("WA", "WA (%)", 100.0), ("UA", "UA (%)", 100.0)]
    return [panel for panel in panels if panel[0] in noted]


@styled()
def learning_chart(histories: Mapping[str, History], panels: Sequence[Panel], title: str) -> Chart:
    """Learning curves: the mean over folds as a thick line, every fold as a thin one.

    Epochs of the phases before the main training are shaded and count back from 0.
    """
    chart = new_chart(title, 236, WIDTH * len(panels), columns=len(panels))
    said = []
    for ax, panel in zip(chart.axes, panels, strict=True):
        for split in COLOURS:
            for phase in (*PHASES, ""):
                said += _draw_curves(chart, ax, histories, panel, split, phase)
        ax.set(xlabel="epoch", ylabel=panel[1])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        ax.grid(axis="y")
    _, top = zip(*(ax.get_ylim() for ax in chart.axes), strict=True)
    for ax, high in zip(chart.axes, top, strict=True):
        for phase in PHASES:
            epochs = [e["epoch"] for h in histories.values() for e in h if e["phase"] == phase]
            if epochs:
                ax.axvspan(min(epochs) - 0.5, max(epochs) + 0.5, color=LINE, alpha=0.4, zorder=0)
                ax.annotate(phase, (min(epochs) - 0.3, high), (0, -3), va="top",
                            textcoords="offset points", fontsize=SMALL, color=QUIET)  # fmt: skip
    handles, names = chart.axes[0].get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    chart.figure.legend(unique.values(), unique, loc="outside lower center", ncols=len(unique))
    chart.desc = f"Mean over folds. {'; '.join(said)}."
    return chart


def _draw_curves(
    chart: Chart, ax: Axes, histories: Mapping[str, History], panel: Panel, split: str, phase: str
) -> list[str]:
    """Draw the curves of one split in one phase; return their description, empty if none."""
    key, name, scale = panel
    curves = {f: curve(h, split, key, scale, phase) for f, h in histories.items()}
    curves = {fold: found for fold, found in curves.items() if found}
    if not curves:
        return []
    style = {"color": COLOURS[split], "linestyle": LINES[split]}
    for fold, found in curves.items() if len(curves) > 1 else ():
        (line,) = ax.plot(list(found), list(found.values()), alpha=0.4, linewidth=1, **style)
        values = list(found.values())
        ends = f"{split}, fold {fold}: {values[0]:.4g} to {values[-1]:.4g}"
        chart.mark(line, "curve", f"{key} {phase} {split} {fold}", ends)
    means = mean_curve(list(curves.values()))
    marker = MARKERS[split] if len(means) <= MARKED_EPOCHS else None
    ax.plot(list(means), list(means.values()), linewidth=2, marker=marker, markersize=4.5,
            label=split, **style)  # fmt: skip
    first, last = next(iter(means.values())), list(means.values())[-1]
    where = f", {phase}" if phase else ""
    return [f"{name}, {split}{where}: {first:.4g} to {last:.4g} after {len(means)} epochs"]


@styled()
def spark_chart(history: History, best_epoch: int | None, title: str) -> Chart | None:
    """UA over the epochs of one fold, small enough for a table; None if not recorded."""
    split = "valid" if any("UA" in entry["valid"] for entry in history) else "train"
    found = curve(history, split, "UA", 100)
    if not found:
        return None
    chart = new_chart(title, 24, 96)
    ax = chart.axes[0]
    ax.plot(list(found), list(found.values()), color=COLOURS[split], linewidth=2)
    values = list(found.values())
    chart.desc = f"{split} UA {values[0]:.1f} % after epoch 1, {values[-1]:.1f} % after the last"
    if best_epoch in found:
        ax.plot(best_epoch, found[best_epoch], "o", color=COLOURS[split], markersize=6)
        chart.desc += f", {found[best_epoch]:.1f} % after epoch {best_epoch}"
    ax.set(ylim=(-8, 108))
    ax.margins(x=0.06)
    ax.set_axis_off()
    return chart


@styled()
def layers_chart(weights: Mapping[str, Sequence[float]], names: Sequence[str], title: str) -> Chart:
    """Fusion weights (eq. 4) of each layer: mean over folds, a dot for every fold.

    Drawn relative to the uniform weights at the start of training, since small learning rates
    change them little.
    """
    table = np.array(list(weights.values()))  # (folds, layers)
    start, mean = 1 / len(names), table.mean(axis=0)
    digits = 3 if np.ptp(mean) > 0.02 else 4
    chart = new_chart(title, 60 + 20 * len(names))
    ax = chart.axes[0]
    ax.axvline(start, color=INK, linewidth=1, linestyle=":")
    ax.text(start, -0.7, f"start: 1/{len(names)}", ha="center", fontsize=SMALL)
    for i, name in enumerate(names):
        ax.hlines(i, start, mean[i], color=BLUE, alpha=0.6, linewidth=2)
        if len(table) > 1:
            ax.plot(table[:, i], [i] * len(table), "o", color=QUIET, alpha=0.7, markersize=4)
        (point,) = ax.plot(mean[i], i, "o", color=BLUE, markersize=9)
        folds = ", ".join(f"{fold} {w[i]:.4f}" for fold, w in weights.items())
        chart.mark(point, "layer", i, f"{name}: mean {mean[i]:.4f} ({folds})")
        ax.text(1.02, i, f"{mean[i]:.{digits}f}", transform=ax.get_yaxis_transform(), va="center",
                fontweight="bold")  # fmt: skip
    low, high = min(table.min(), 0.98 * start), max(table.max(), 1.02 * start)
    ax.set(xlim=(low - 0.06 * (high - low), high + 0.06 * (high - low)))
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel="fusion weight")
    ax.set_yticks(range(len(names)), names)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.grid(axis="x")
    chart.desc = "Mean over folds: " + ", ".join(
        f"{name} {w:.3f}" for name, w in zip(names, mean, strict=True)
    )
    return chart


@styled()
def probabilities_chart(
    labels: Sequence[str], probs: Sequence[float], ref: str | None, title: str
) -> Chart:
    """Probability of every emotion; the reference is marked if known."""
    chart = new_chart(title, 8 + 22 * len(labels))
    ax = chart.axes[0]
    for i, (name, p) in enumerate(zip(labels, probs, strict=True)):
        (bar,) = ax.barh(i, 100 * p, 0.62, color=BLUE if p == max(probs) else FAINT)
        chart.mark(bar, "emotion", name, f"{name}: {percent(p)} %")
        ax.text(100 * p + 1.5, i, percent(p), va="center")
    shown = [shorten(name) + (" (reference)" if name == ref else "") for name in labels]
    ax.set_yticks(range(len(labels)), shown)
    ax.set(xlim=(0, 116), ylim=(len(labels) - 0.5, -0.5), xticks=[])
    ax.spines["bottom"].set_visible(False)
    each = ", ".join(f"{n} {percent(p)} %" for n, p in zip(labels, probs, strict=True))
    chart.desc = f"{each}; the reference is {ref}." if ref else f"{each}."
    return chart


@styled()
def points_chart(
    lines: Mapping[str, Sequence[tuple[int, Interval, Sequence[float]]]],
    ticks: Sequence[str],
    xlabel: str,
    scores: Sequence[str],
) -> Chart:
    """Points of a sweep: means with 95% intervals, each seed as a dot.

    Args:
        lines: Points by label: index into ``ticks``, (mean, low, high) for each of ``scores``, and
            the seeds' values for each; all in percent.
        ticks: Tick labels.
        xlabel: Label of the axis.
        scores: Names of the panels.
    """
    chart = new_chart("", 260, 2 * WIDTH, columns=len(scores), sharey=True)
    for column, (ax, score) in enumerate(zip(chart.axes, scores, strict=True)):
        for number, (label, points) in enumerate(lines.items()):
            colour = (BLUE, RED)[column] if len(lines) == 1 else f"C{number}"
            drawn = []
            for place, intervals, seeds in points:
                x = place + 0.1 * (number - (len(lines) - 1) / 2)
                mean, low, high = intervals[column]
                ax.errorbar(x, mean, yerr=[[mean - low], [high - mean]], color=colour, fmt="o",
                            capsize=3)  # fmt: skip
                if len(seeds[column]) > 1:
                    ax.plot([x + 0.15] * len(seeds[column]), seeds[column], ".", color=QUIET)
                drawn.append((x, mean))
            if len(lines) > 1 and drawn:
                ax.plot(*zip(*drawn, strict=True), color=colour, linewidth=1, label=label)
        long = max(map(len, ticks)) > 6
        turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if long else {}
        ax.set_xticks(range(len(ticks)), ticks, **turned)
        ax.set(xlim=(-0.5, len(ticks) - 0.5), xlabel=xlabel, ylabel=f"{score.upper()} (%)")
        ax.yaxis.set_tick_params(labelleft=True)
        ax.grid(axis="y")
    if len(lines) > 1:
        chart.axes[0].legend(fontsize=SMALL)
    return chart


@styled()
def lambda_chart(
    values: Sequence[str], stated: Sequence[float], ours: Sequence[Interval | None], title: str
) -> Chart:
    """Scores over lambda: as stated in the paper, and ours where they have been run."""
    chart = new_chart(title, 250)
    ax = chart.axes[0]
    ax.plot(range(len(values)), stated, color=RED, linestyle="--", marker="s", label="stated")
    found = [(i, *own) for i, own in enumerate(ours) if own]
    for i, mean, low, high in found:
        ax.errorbar(i, mean, yerr=[[mean - low], [high - mean]], color=BLUE, capsize=3)
    ax.plot([f[0] for f in found], [f[1] for f in found], color=BLUE, marker="o", label="ours")
    ax.set_xticks(range(len(values)), values)
    ax.set(xlabel="lambda", ylabel="%")
    ax.grid(axis="y")
    chart.figure.legend(loc="outside lower center", ncols=2)
    said = [
        f"lambda {value}: stated {told:g} %, ours {f'{own[0]:.1f} %' if own else 'not run'}"
        for value, told, own in zip(values, stated, ours, strict=True)
    ]
    chart.desc = f"{'; '.join(said)}."
    return chart


def mean_curve(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Mean over the folds that reached an epoch, by epoch."""
    epochs = sorted(set().union(*curves))
    return {e: float(np.mean([c[e] for c in curves if e in c])) for e in epochs}


def speaker_accuracy(scores: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Correct decisions and utterances of every speaker, over all folds that tested on them."""
    found: dict[str, tuple[int, int]] = {}
    for entry in scores["speakers"]:
        right, n = found.get(entry["speaker"], (0, 0))
        pairs = list(zip(entry["ref"], entry["hyp"], strict=True))
        found[entry["speaker"]] = (right + sum(r == h for r, h in pairs), n + len(pairs))
    return found


def wilson(right: int, n: int) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson, 1927), as fractions."""
    p, z = right / n, Z95
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)
