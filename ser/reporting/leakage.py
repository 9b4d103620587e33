"""What a leak is worth: one system under sound and leaky protocols, in one table.

The only table of this recipe in which leaky rows stand beside sound ones, since their difference
is what it shows.
"""

from collections.abc import Sequence
from pathlib import Path

from ser.errors import UserError
from ser.files import atomic_write
from ser.reporting.rows import Row, group_seeds
from ser.scoring.records import SCORE_FIRST, read_scores
from ser.scoring.text import columns, mark, partial_notes, signed

HEADER = ("protocol", "folds", "seeds", "WA", "95%", "UA", "95%", "WA gap", "UA gap", "to", "")


def report_leakage(exp_dirs: Sequence[Path]) -> str:
    """The table over ``exp_dirs``, also written to ``leakage_<system>.txt`` beside the first.

    A gap is a difference in points, for a leaky row to the sound one of the same protocol if there
    is one, else to the first sound row. The models differ, so it carries the chance of a training.

    Raises:
        UserError: an experiment without scores, experiments of different systems or corpora, or
            none that is sound.
    """
    runs = []
    for directory in exp_dirs:
        if not (directory / "scores.json").is_file():
            raise UserError(f"{directory}/scores.json: no such file; {SCORE_FIRST}")
        runs.append((directory, read_scores(directory / "scores.json")))
    for key in ("corpus", "system"):
        found = sorted({str(scores[key]) for _, scores in runs})
        if len(found) > 1:
            raise UserError(f"{key}: found {', '.join(found)}; compare one {key} with itself")
    order = {str(directory): number for number, (directory, _) in enumerate(runs)}
    rows = sorted(group_seeds(runs), key=lambda row: order[str(row.runs[0][0])])
    sound = [row for row in rows if not mark(row.first)]
    if not sound:
        raise UserError(
            "all of these are leaky or speaker-dependent; give a sound one to measure the gap from"
        )
    lines = [HEADER, *(_cells(row, _reference(row, sound)) for row in rows)]
    notes = [
        f"{row.first['tag']}: PARTIAL: {note}" for row in rows for note in partial_notes(row.first)
    ]
    system, corpus = rows[0].first["system"], rows[0].first["corpus"]
    title = f"{system} on {corpus}: what a leak is worth (percent; gaps in points)"
    text = "\n".join([title, "", *columns(lines), *notes]) + "\n"
    with atomic_write(exp_dirs[0].parent / f"leakage_{system}.txt") as stream:
        stream.write(text)
    return text


def _reference(row: Row, sound: Sequence[Row]) -> Row:
    """What ``row`` is compared with; the first sound row is compared with nothing but itself."""
    same = [s for s in sound if s.first["protocol"] == row.first["protocol"]]
    return same[0] if same and row.first["leaky"] else sound[0]


def _cells(row: Row, sound: Row) -> list[str]:
    scores = row.first
    gaps = [signed(_mean(row, name) - _mean(sound, name)) for name in ("wa", "ua")]
    return [
        scores["protocol"],
        str(len(scores["per_fold"])),
        ", ".join(str(s["seed"]) for _, s in row.runs),
        row.cell("summary", "wa"),
        row.interval("wa"),
        row.cell("summary", "ua"),
        row.interval("ua"),
        *(["", "", ""] if row is sound else [*gaps, sound.first["protocol"]]),
        f"LEAKY: {'; '.join(scores['leaky'])}" if scores["leaky"] else mark(scores),
    ]


def _mean(row: Row, name: str) -> float:
    values = [scores["summary"][name] for _, scores in row.runs]
    return sum(values) / len(values)
