"""The table of a sweep: a line for each of its points. For its own report and for RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ser.console import duration, percent
from ser.data.folds import caveat
from ser.scoring.text import others_like, parameter_count, partial_notes

if TYPE_CHECKING:
    from ser.reporting.rows import Row

HEADS = (
    *("point", "seeds", "WA", "95% WA", "UA", "95% UA", "valid UA", "PER"),
    *("parameters", "training"),
)
STATED = "stated by the paper for its corpus (WA / UA)"


def sweep_table(
    points: Sequence[tuple[str, Row | None, Mapping[str, float] | None]],
) -> list[str]:
    """Markdown lines over ``points``: name, row if it has been run, and what the paper states.

    *valid UA* is the mean over folds and seeds on validation speakers, ``-`` without any. Below
    the table stands what is partial.
    """
    heads = [*HEADS, STATED] if any(stated for *_, stated in points) else [*HEADS]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    notes = []
    for name, row, stated in points:
        if row is None:
            cells = [name, "not run", *[""] * (len(HEADS) - 2)]
        else:
            measured = [
                cell
                for score in ("wa", "ua")
                for cell in (row.cell("summary", score), row.interval(score))
            ]
            seeds = row.joined([scores["seed"] for _, scores in row.runs])
            cells = [name, seeds, *measured, percent(_valid_ua(row)), row.cell("units", "per")]
            cells.append(row.joined([parameter_count(s["parameters"]) for _, s in row.runs]))
            cells.append(duration([s["train_seconds"] for _, s in row.runs]))
            notes += [
                f"- {name}, seed {scores['seed']}: PARTIAL: {note}"
                for _, scores in row.runs
                for note in partial_notes(scores)
            ]
        if STATED in heads:
            cells.append(f"{stated['wa']:.1f} / {stated['ua']:.1f}" if stated else "")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, *([""] if notes else []), *notes]


def sweep_legend(protocol: str) -> str:
    """What the columns mean under ``protocol``."""
    return (
        "Percent; mean ± standard deviation over seeds; the intervals are for "
        f"{others_like(protocol)}. *valid UA* is that of validation speakers: what a choice "
        "between points may look at. It is the highest of a training's epochs, except for the mean "
        "of several epochs' weights, which was not chosen by it. *training* (h:mm:ss) is the time "
        "of all folds; that of points compares only where they were trained side by side."
    )


def marked_protocol(protocol: str) -> str:
    """The protocol's name, with what makes it incomparable if anything does."""
    return f"{protocol} ({caveat(protocol)})" if caveat(protocol) else protocol


def _valid_ua(row: Row) -> float | None:
    values = [f["valid_ua"] for _, scores in row.runs for f in scores["per_fold"].values()]
    return None if None in values else float(np.mean(values))
