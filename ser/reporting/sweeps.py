"""Results of a sweep: one table and one figure over its points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ser.console import percent, progress
from ser.data.folds import caveat
from ser.files import atomic_write
from ser.reporting.figures import points_chart
from ser.reporting.render import render
from ser.reporting.rows import Row
from ser.scoring.records import Run, read_scores
from ser.scoring.text import others_like, partial_notes
from ser.training.sweep import Point, Sweep

SCORES = ("wa", "ua")


@dataclass(frozen=True)
class Found:
    """A point with its scored experiments; ``row`` is None without any."""

    point: Point
    row: Row | None


@dataclass(frozen=True)
class PointsTable:
    """Table of a sweep: for each point its name, row if it has been run, and stated scores."""

    points: Sequence[tuple[str, Row | None, dict[str, Any] | None]]

    @property
    def stated(self) -> bool:
        """Whether the paper states any scores."""
        return any(stated for *_, stated in self.points)

    @property
    def notes(self) -> list[str]:
        """Notes on partial results."""
        return [
            f"{name}, seed {scores['seed']}: PARTIAL: {note}"
            for name, row, _ in self.points
            for _, scores in (row.runs if row else ())
            for note in partial_notes(scores)
        ]

    @staticmethod
    def valid_ua(row: Row) -> str:
        """Mean UA of validation speakers over folds and seeds; ``-`` without any."""
        values = [f["valid_ua"] for _, scores in row.runs for f in scores["per_fold"].values()]
        return "-" if None in values else percent(float(np.mean(values)))


def report_sweep(
    sweep: Sweep, base: Path, exp_root: Path, corpus: str, protocol: str, seeds: Sequence[int]
) -> Path:
    """Write ``<exp_root>/<corpus>/<sweep>_<protocol>.md``, and the figure next to it.

    Args:
        sweep, base: The sweep and the configuration that it varies.
        exp_root: Holds <corpus>/<tag>/scores.json.
        seeds: Seeds of every point.

    Returns:
        The Markdown file. Its rows are in the points' order, including points not run yet.
    """
    found = find_points(sweep, exp_root / corpus, protocol, seeds)
    target = exp_root / corpus / f"{sweep.name}_{protocol}.md"
    figure = target.with_suffix(".png")
    done = sum(entry.row is not None for entry in found)
    if done:
        _draw(sweep, found, figure, f"{corpus}, {marked_protocol(protocol)}")
    points = [(f.point.name, f.row, sweep.stated.get(f.point.name)) for f in found]
    with atomic_write(target) as stream:
        stream.write(
            render(
                "sweep.md",
                sweep=sweep,
                base=base.name,
                corpus=corpus,
                protocol=marked_protocol(protocol),
                others=others_like(protocol),
                table=PointsTable(points),
                figure=figure.name if done else None,
            )
        )
    progress(f"sweep: {done} of {len(found)} points have scores; see {target}")
    return target


def marked_protocol(protocol: str) -> str:
    """The protocol's name, with a caveat if it is not comparable."""
    return f"{protocol} ({caveat(protocol)})" if caveat(protocol) else protocol


def find_points(sweep: Sweep, directory: Path, protocol: str, seeds: Sequence[int]) -> list[Found]:
    """Find the scored experiments of every point in ``directory``, exp/<corpus>.

    Seeds with different scored folds cannot be averaged: only the group with the most folds, and
    then the most seeds, is used until the others are complete.
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


def _draw(sweep: Sweep, found: Sequence[Found], path: Path, title: str) -> None:
    """Draw the points, joining those that differ only in ``x``."""
    lines, ticks = _lines(sweep, found)
    drawn = {
        label: [
            (
                place,
                [entry.row.in_percent(name) for name in SCORES],
                [[100 * s["summary"][name] for _, s in entry.row.runs] for name in SCORES],
            )
            for place, entry in entries
            if entry.row
        ]
        for label, entries in lines.items()
    }
    chart = points_chart(drawn, ticks, sweep.x or sweep.name, SCORES)
    chart.save_png(path, f"{sweep.about}. {title}: mean over seeds, 95% interval; grey: each seed")


def _lines(
    sweep: Sweep, found: Sequence[Found]
) -> tuple[dict[str, list[tuple[int, Found]]], list[str]]:
    """Points of each line with their positions on the axis, and the tick labels."""
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
