"""What a sweep has found: one table and one figure over its points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ser.console import progress
from ser.files import atomic_write
from ser.reporting.figures import COLOURS, DPI, new_figure
from ser.reporting.rows import Row
from ser.reporting.sweep_table import marked_protocol, sweep_legend, sweep_table
from ser.scoring.records import Run, read_scores
from ser.training.sweep import Point, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Found:
    """A point with the experiments that have scores; ``row`` is None without any."""

    point: Point
    row: Row | None


def report_sweep(
    sweep: Sweep, base: Path, exp_root: Path, corpus: str, protocol: str, seeds: Sequence[int]
) -> Path:
    """Write ``<exp_root>/<corpus>/<sweep>_<protocol>.md``, and the figure beside it.

    Args:
        sweep, base: The sweep and the configuration that it is around.
        exp_root: Holds <corpus>/<tag>/scores.json.
        seeds: Those of every point.

    Returns:
        The Markdown file. Its rows have the points' order; a point that has not been run says so.
    """
    found = find_points(sweep, exp_root / corpus, protocol, seeds)
    target = exp_root / corpus / f"{sweep.name}_{protocol}.md"
    figure = target.with_suffix(".png")
    if any(entry.row for entry in found):
        with atomic_write(figure, "wb") as stream:
            draw(sweep, found, f"{corpus}, {marked_protocol(protocol)}").savefig(
                stream, format="png", dpi=DPI
            )
    with atomic_write(target) as stream:
        stream.write(format_sweep(sweep, found, base.name, corpus, protocol, figure.name))
    done = sum(entry.row is not None for entry in found)
    progress(f"sweep: {done} of {len(found)} points have scores; see {target}")
    return target


def format_sweep(
    sweep: Sweep, found: Sequence[Found], base: str, corpus: str, protocol: str, figure: str
) -> str:
    """The Markdown text."""
    lines = [
        f"# {sweep.about}",
        "",
        f"Sweep `{sweep.name}` around `{base}` on {corpus}, protocol {marked_protocol(protocol)}. "
        + sweep_legend(protocol),
        "",
        *sweep_table([(f.point.name, f.row, sweep.stated.get(f.point.name)) for f in found]),
    ]
    if any(entry.row for entry in found):
        lines += ["", f"![WA and UA of the points]({figure})"]
    return "\n".join(lines) + "\n"


def draw(sweep: Sweep, found: Sequence[Found], title: str) -> Figure:
    """WA and UA over the points: the mean over seeds with its 95% interval, each seed as a dot.

    Where points differ in more than ``x``, those that differ in nothing else are a line.
    """
    lines, ticks = _lines(sweep, found)
    figure, axes = new_figure(2, (9.0, 3.6), sharey=True)
    for ax, name, own in zip(axes, ("wa", "ua"), COLOURS.values(), strict=True):
        for number, (label, entries) in enumerate(lines.items()):
            colour = own if len(lines) == 1 else f"C{number}"
            drawn = []
            for tick, entry in entries:
                position = tick + 0.1 * (number - (len(lines) - 1) / 2)
                if entry.row is not None:
                    drawn.append((position, _draw_point(ax, position, entry.row, name, colour)))
            if len(lines) > 1 and drawn:
                ax.plot(*zip(*drawn, strict=True), color=colour, linewidth=1, label=label)
        long = max(map(len, ticks)) > 6
        slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if long else {}
        ax.set_xticks(range(len(ticks)), ticks, **slanted)
        ax.set_xlim(-0.5, len(ticks) - 0.5)
        ax.set_xlabel(sweep.x or sweep.name)
        ax.set_ylabel(f"{name.upper()} (%)")
        ax.yaxis.set_tick_params(labelleft=True)
        ax.grid(axis="y", color="0.9")
        ax.set_axisbelow(True)
    if len(lines) > 1:
        axes[0].legend(frameon=False, fontsize="small")
    figure.suptitle(f"{sweep.about}\n{title}: mean over seeds, 95% interval; grey: each seed")
    return figure


def _draw_point(ax: Axes, position: float, row: Row, name: str, colour: str) -> float:
    """Draw one point; its mean in percent."""
    values = [100 * scores["summary"][name] for _, scores in row.runs]
    mean = float(np.mean(values))
    bounds = row.intervals[name]
    if bounds is not None:
        low, high = 100 * bounds[0]
        ax.errorbar(
            position, mean, yerr=[[mean - low], [high - mean]], color=colour, capsize=3, fmt="none"
        )
    ax.plot(position, mean, "o", color=colour)
    if len(values) > 1:
        ax.plot([position + 0.15] * len(values), values, ".", color="0.4", markersize=5)
    return mean


def _lines(
    sweep: Sweep, found: Sequence[Found]
) -> tuple[dict[str, list[tuple[int, Found]]], list[str]]:
    """For each line its points with their places on the axis, and what stands at these places."""
    lines: dict[str, list[tuple[int, Found]]] = {}
    values = list(dict.fromkeys(str(f.point.changes.get(sweep.x)) for f in found))
    for entry in found:
        others = {key: value for key, value in entry.point.changes.items() if key != sweep.x}
        label = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in others.items())
        place = values.index(str(entry.point.changes.get(sweep.x)))
        lines.setdefault(label, []).append((place, entry))
    if len(lines) == 1 or any(sweep.x not in entry.point.changes for entry in found):
        return {"": list(enumerate(found))}, [entry.point.name for entry in found]
    return lines, values


def find_points(sweep: Sweep, directory: Path, protocol: str, seeds: Sequence[int]) -> list[Found]:
    """Every point with its scored experiments in ``directory``, exp/<corpus>.

    Seeds of which other folds are scored than of most cannot be averaged with these: they are left
    out until the rest of their folds is there.
    """
    found = []
    for point in sweep.points:
        groups: dict[tuple[str, ...], list[Run]] = {}
        for seed in seeds:
            exp_dir = directory / point.experiment(sweep.name, protocol, seed)
            if (exp_dir / "scores.json").is_file():
                scores = read_scores(exp_dir / "scores.json")
                groups.setdefault(tuple(scores["folds"]["scored"]), []).append((exp_dir, scores))
        most = max(groups, key=lambda folds: (len(folds), len(groups[folds])), default=None)
        found.append(Found(point, None if most is None else Row(groups[most])))
    return found
