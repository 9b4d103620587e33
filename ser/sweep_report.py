"""What a sweep has found: one table and one figure over its points."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser import decisions
from ser.cli import progress
from ser.figures import COLOURS, DPI, new_figure
from ser.fileio import atomic_write
from ser.folds import caveat
from ser.metrics import confusion_matrix, unweighted_accuracy
from ser.records import read_scores
from ser.report import Row
from ser.score_table import others_like, partial_notes, percent
from ser.sweep import Point, Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Found:
    """A point with the experiments that have scores; ``row`` is None without any."""

    point: Point
    row: Row | None

    @property
    def valid_ua(self) -> float | None:
        """UA on validation speakers of the models that are tested, mean over folds and seeds.

        None where the protocol has no validation speakers, or a fold says nothing of them.
        """
        values = [_valid_ua(path, scores) for path, scores in self.row.runs] if self.row else []
        return float(np.mean(values)) if values and None not in values else None


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
    found = [_find(sweep, point, exp_root / corpus, protocol, seeds) for point in sweep.points]
    target = exp_root / corpus / f"{sweep.name}_{protocol}.md"
    figure = target.with_suffix(".png")
    if any(entry.row for entry in found):
        with atomic_write(figure, "wb") as stream:
            draw(sweep, found, f"{corpus}, {_marked(protocol)}").savefig(
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
    heads = ["point", "seeds", "WA", "95% WA", "UA", "95% UA", "valid UA", "PER", "stated WA / UA"]
    lines = [
        f"# {sweep.about}",
        "",
        f"Sweep `{sweep.name}` around `{base}` on {corpus}, protocol {_marked(protocol)}. Percent; "
        f"mean ± standard deviation over seeds; the intervals are for {others_like(protocol)}. "
        "*valid UA* is that of validation speakers: what a choice between points may look at.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
    ]
    notes = []
    for entry in found:
        stated = sweep.stated.get(entry.point.name, {})
        said = f"{stated['wa']:.1f} / {stated['ua']:.1f}" if stated else ""
        if entry.row is None:
            cells = [entry.point.name, "not run", *[""] * 6, said]
        else:
            seeds = ", ".join(str(scores["seed"]) for _, scores in entry.row.runs)
            measured = [
                cell
                for name in ("wa", "ua")
                for cell in (entry.row.cell("summary", name), entry.row.interval(name))
            ]
            cells = [entry.point.name, seeds, *measured, percent(entry.valid_ua)]
            cells += [entry.row.cell("units", "per"), said]
            notes += [
                f"- {entry.point.name}, seed {scores['seed']}: PARTIAL: {note}"
                for _, scores in entry.row.runs
                for note in partial_notes(scores)
            ]
        lines.append(f"| {' | '.join(cells)} |")
    if any(entry.row for entry in found):
        lines += ["", f"![WA and UA of the points]({figure})"]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def draw(sweep: Sweep, found: Sequence[Found], title: str) -> Figure:
    """WA and UA over the points: the mean over seeds with its 95% interval, each seed as a dot."""
    figure, axes = new_figure(2, (9.0, 3.6), sharey=True)
    for ax, name, colour in zip(axes, ("wa", "ua"), COLOURS.values(), strict=True):
        for position, entry in enumerate(found):
            if entry.row is None:
                continue
            values = [100 * scores["summary"][name] for _, scores in entry.row.runs]
            mean = float(np.mean(values))
            bounds = entry.row.intervals[name]
            if bounds is not None:
                low, high = 100 * bounds[0]
                reach = [[mean - low], [high - mean]]
                ax.errorbar(position, mean, yerr=reach, color=colour, capsize=3, fmt="none")
            ax.plot(position, mean, "o", color=colour)
            if len(values) > 1:
                ax.plot([position + 0.15] * len(values), values, ".", color="0.4", markersize=5)
        ax.set_xticks(range(len(found)), [entry.point.name for entry in found])
        if max(len(entry.point.name) for entry in found) > 6:
            ax.tick_params(axis="x", rotation=30)
        ax.set_xlim(-0.5, len(found) - 0.5)
        ax.set_xlabel(sweep.x or sweep.name)
        ax.set_ylabel(f"{name.upper()} (%)")
        ax.yaxis.set_tick_params(labelleft=True)
        ax.grid(axis="y", color="0.9")
        ax.set_axisbelow(True)
    figure.suptitle(f"{sweep.about}\n{title}: mean over seeds, 95% interval; grey: each seed")
    return figure


def _marked(protocol: str) -> str:
    return f"{protocol} ({caveat(protocol)})" if caveat(protocol) else protocol


def _find(
    sweep: Sweep, point: Point, directory: Path, protocol: str, seeds: Sequence[int]
) -> Found:
    runs = []
    for seed in seeds:
        exp_dir = directory / point.experiment(sweep.name, protocol, seed)
        if (exp_dir / "scores.json").is_file():
            runs.append((exp_dir, read_scores(exp_dir / "scores.json")))
    return Found(point, Row(runs) if runs else None)


def _valid_ua(exp_dir: Path, scores: dict[str, Any]) -> float | None:
    """Mean over folds, from the tested model's evidence, or else from its epoch's history."""
    values = []
    for fold, entry in scores["per_fold"].items():
        path = exp_dir / fold / decisions.FILE_NAME
        if path.is_file():
            values.append(_evident_ua(path, scores["labels"]))
            continue
        try:
            history = json.loads((exp_dir / fold / "history.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        epochs = {e["epoch"]: e.get("valid", {}).get("UA") for e in history}
        values.append(epochs.get(entry["best_epoch"]))
    return None if not values or None in values else float(np.mean(values))


def _evident_ua(path: Path, labels: Sequence[str]) -> float | None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    rows = [row for row in rows if row["split"] == "valid"]
    hyps = [labels[int(np.argmax(row["head"]))] for row in rows]
    counts = confusion_matrix([row["ref"] for row in rows], hyps, labels)
    return unweighted_accuracy(counts) if rows else None
