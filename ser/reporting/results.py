"""Write RESULTS.md from scores.json files, with figures; measure leaks.

The file depends only on the scores.json files (or their records in results/) and on the ``stated``
entries in conf/: the same input gives the same bytes. Rows that differ only in their seed become
one row, mean ± standard deviation over the seeds.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser.config import load_config
from ser.console import duration, progress
from ser.data.folds import SPEAKER_DEPENDENT, caveat
from ser.errors import UserError
from ser.files import atomic_write
from ser.predict.card import is_synthetic
from ser.reporting import elsewhere
from ser.reporting.inputs import read_input
from ser.reporting.overview import DECADE, DECADE_TITLE, dated_rows, decade_table, write_overview
from ser.reporting.render import render
from ser.reporting.rows import Row, group_seeds, system_name
from ser.reporting.sweeps import PointsTable, marked_protocol
from ser.scoring.records import (
    SCORE_FIRST,
    Run,
    keep_records,
    read_all_records,
    read_all_scores,
    read_scores,
    sweep_figure,
)
from ser.scoring.text import (
    CLASS_SCORES,
    columns,
    differing,
    mark,
    marked,
    others_like,
    partial_notes,
    signed,
)


def make_report(
    exp_root: Path | str,
    results: Path | str,
    exp_dir: Path | str | Sequence[Path] | None = None,
    conf_dir: Path | str = "conf",
    records: Path | str | None = None,
) -> str:
    """Write RESULTS.md and draw figures.

    Args:
        exp_root: Directory of <corpus>/<tag>/scores.json.
        results: The Markdown file to write.
        exp_dir: Draw figures only for this experiment, or these; for all if None.
        conf_dir: Directory of the configurations, for the numbers stated in papers.
        records: Directory of <corpus>/<tag>.json. The scores below ``exp_root``, if any, are
            copied there first; the report is then made from this directory, not from
            ``exp_root``.

    Returns:
        The text of RESULTS.md.

    Raises:
        UserError: no scores at all, none in ``exp_dir``, or an invalid file, by name.
    """
    from ser.reporting.figures import draw_figures

    exp_root, results = Path(exp_root), Path(results)
    chosen = [exp_dir] if isinstance(exp_dir, str | Path) else exp_dir
    chosen = None if chosen is None else [Path(directory) for directory in chosen]
    # records must be complete; but old scores must not break the report of another experiment
    asked_for = chosen if records is None else None
    runs = read_all_scores(exp_root, needed=records is None, asked_for=asked_for)
    drawn = [path for path, _ in runs] if chosen is None else chosen
    inputs = [read_input(path) for path in drawn]
    if records is not None:
        records = Path(records)
        read_all_records(records)  # detect a damaged record before writing another
        keep_records(runs, records)
        runs = read_all_records(records)
        if not runs:
            raise UserError(
                f"{records}: no <corpus>/<tag>.json in it, and {exp_root} has no "
                f"<corpus>/<tag>/scores.json to keep there; {SCORE_FIRST}"
            )
    rows, text = build_results(runs, Path(conf_dir), results.parent, records)
    if records is not None:
        for path in write_overview(rows, Path(conf_dir), results.parent):
            progress(f"report: {path}")
    figures = []
    for number, experiment in enumerate(inputs, start=1):
        progress(f"report: figures of {experiment.name} ({number} of {len(inputs)})")
        figures += draw_figures(experiment)
    with atomic_write(results) as stream:
        stream.write(text)
    print(_summary(rows, results, figures))
    return text


def build_results(
    runs: Sequence[Run], conf_dir: Path, directory: Path, records: Path | None = None
) -> tuple[list[Row], str]:
    """Build the rows of ``runs`` and the text of a RESULTS.md in ``directory``.

    ``records`` is the directory of ``runs`` if they are records; their figures are elsewhere.
    """
    rows = group_seeds(runs)
    numbered = list(enumerate((row for row in rows if not row.first["sweep"]), start=1))
    tables: dict[str, list[list[str]]] = {"": [], SPEAKER_DEPENDENT: [], "LEAKY": []}
    for number, row in numbered:
        tables[mark(row.first)].append(_cells(number, row))
    ran = {(Path(row.first["config"]["path"]).name, row.first["corpus"]) for row in rows}
    absent = [s for s in read_stated(conf_dir) if (Path(s["config"]).name, s["corpus"]) not in ran]

    def figure_link(exp_dir: Path) -> str:
        link = _relative(exp_dir / "figures", directory)
        return (
            "" if records is not None or link.startswith("..") else f" Figures: [{link}]({link})."
        )

    return rows, render(
        "results.md",
        records=None if records is None else _relative(records, directory),
        sound=tables[""],
        dependent=tables[SPEAKER_DEPENDENT],
        leaky=tables["LEAKY"],
        sweeps=_sweeps([row for row in rows if row.first["sweep"]], directory),
        numbered=numbered,
        absent=[_not_run(stated) for stated in absent],
        decade=decade_table(dated_rows(rows, conf_dir)) if records is not None else [],
        decade_title=DECADE_TITLE,
        decade_figure=DECADE if records is not None and (directory / "docs").is_dir() else None,
        class_scores=CLASS_SCORES,
        elsewhere=elsewhere,
        **elsewhere.read_tests(runs),
        figure_link=figure_link,
    )


def read_stated(conf_dir: Path) -> list[dict[str, Any]]:
    """Read each configuration's ``stated`` entry, with the file as ``config``.

    An entry has ``corpus``, ``wa`` and ``ua`` (percent; null if not stated in the paper) and
    optionally ``source`` and ``protocol``, the paper's protocol if it is not ``paper``.
    """
    found = []
    for path in sorted(conf_dir.glob("*.yaml")):
        stated = load_config(path).get("stated")
        if stated is None:
            continue
        lacking = [key for key in ("corpus", "wa", "ua") if key not in stated]
        if lacking:
            raise UserError(
                f"{path}: stated: {', '.join(lacking)} not found; expected corpus, wa and ua "
                "(percent), and the source"
            )
        found.append({**stated, "config": f"{conf_dir.name}/{path.name}"})
    return found


def report_leakage(exp_dirs: Sequence[Path]) -> str:
    """Compare one system under sound and leaky protocols; also write ``leakage_<system>.txt``.

    The only table that shows leaky rows next to sound ones, since it is about their difference. A
    gap is a difference in points: for a leaky row from the sound row of the same protocol if any,
    else from the first sound row. The models differ, so it includes the randomness of training.

    Raises:
        UserError: an experiment without scores, experiments of different systems or corpora, or
            no sound one.
    """
    runs = [(directory, read_scores(directory / "scores.json")) for directory in exp_dirs]
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
    head = ("protocol", "folds", "seeds", "WA", "95%", "UA", "95%", "WA gap", "UA gap", "to", "")
    lines = [head]
    for row in rows:
        same = [s for s in sound if s.first["protocol"] == row.first["protocol"]]
        lines.append(_leak_cells(row, same[0] if same and row.first["leaky"] else sound[0]))
    notes = [
        f"{row.first['tag']}: PARTIAL: {note}" for row in rows for note in partial_notes(row.first)
    ]
    system, corpus = rows[0].first["system"], rows[0].first["corpus"]
    title = f"{system} on {corpus}: what a leak is worth (percent; gaps in points)"
    text = "\n".join([title, "", *columns(lines), *notes]) + "\n"
    with atomic_write(exp_dirs[0].parent / f"leakage_{system}.txt") as stream:
        stream.write(text)
    return text


def _leak_cells(row: Row, sound: Row) -> list[str]:
    scores = row.first
    gaps = [signed(row.mean(name) - sound.mean(name)) for name in ("wa", "ua")]
    measured = [(row.cell("summary", name), row.interval(name)) for name in ("wa", "ua")]
    return [
        scores["protocol"],
        str(len(scores["per_fold"])),
        row.joined("seed"),
        *measured[0],
        *measured[1],
        *(["", "", ""] if row is sound else [*gaps, sound.first["protocol"]]),
        f"LEAKY: {'; '.join(scores['leaky'])}" if scores["leaky"] else mark(scores),
    ]


def _cells(number: int, row: Row) -> list[str]:
    """A row of the main table."""
    s, folds = row.first, row.first["folds"]
    count = str(len(folds["expected"]))
    if folds["missing"]:
        count = f"{len(folds['scored'])} of {count} (**partial**)"
    notes = ["synthetic"] * is_synthetic(s["corpus"]) + ["**partial**"] * bool(s["corpus_partial"])
    return [
        str(number),
        ("floor: " if row.is_floor else "") + row.name,
        s["corpus"] + (f" ({', '.join(notes)})" if notes else ""),
        marked(s, bold=True),
        count,
        row.joined("seed"),
        row.scored("wa"),
        row.scored("ua"),
        _stated(s),
    ]


def _sweeps(points: Sequence[Row], directory: Path) -> list[dict[str, Any]]:
    """Contents of the sections on the sweeps that ``points`` belong to."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in points:
        s = row.first
        groups.setdefault((s["corpus"], s["protocol"], s["sweep"]["name"]), []).append(row)
    sweeps = []
    for (corpus, protocol, name), rows in groups.items():
        rows = sorted(rows, key=lambda row: row.first["sweep"]["number"])
        runs = [run for row in rows for run in row.runs]
        everything = Row(runs)
        figure = runs[0][0].parent / sweep_figure(rows[0].first)
        named = [(r.first["sweep"]["point"], r, r.first["sweep"].get("stated")) for r in rows]
        sweeps.append(
            {
                "name": name,
                "corpus": corpus,
                "protocol": marked_protocol(protocol),
                "others": others_like(protocol),
                "about": rows[0].first["sweep"]["about"],
                "count": rows[0].first["sweep"]["points"],
                "commands": list(dict.fromkeys(scores["command"] for _, scores in runs)),
                "table": PointsTable(named),
                "figure": _relative(figure, directory) if figure.is_file() else None,
                "commits": everything.joined("commit"),
                "hardware": everything.joined("hardware"),
                "seconds": duration([sum(s["train_seconds"] or 0 for _, s in runs)]),
            }
        )
    return sweeps


def _not_run(stated: Mapping[str, Any]) -> list[str]:
    """A row of numbers stated in a paper that have not been reproduced here."""
    command = (
        f"./run.sh --corpus {stated['corpus']} --corpus-dir PATH/TO/{stated['corpus'].upper()} "
        f"--config {stated['config']} --protocol {stated.get('protocol', 'paper')}"
    )
    system = Path(stated["config"]).stem.removeprefix("train_")
    source = str(stated.get("source", "-"))
    return [system, stated["corpus"], _stated_numbers(stated), source, f"`{command}`"]


def _stated(scores: Mapping[str, Any]) -> str:
    """Numbers stated in the paper, if speaker-dependent or -independent like these scores."""
    stated = scores.get("stated")
    if not stated or stated.get("corpus") != scores["corpus"]:
        return ""
    if caveat(stated.get("protocol", "paper")) != mark(scores):
        return ""
    return _stated_numbers(stated)


def _stated_numbers(stated: Mapping[str, Any]) -> str:
    found = caveat(stated.get("protocol", "paper"))
    numbers = " / ".join("-" if stated[key] is None else str(stated[key]) for key in ("wa", "ua"))
    return f"{numbers} (**{found}**)" if found else numbers


def _relative(path: Path, directory: Path) -> str:
    return Path(os.path.relpath(path, directory)).as_posix()


def _summary(rows: Sequence[Row], results: Path, figures: Sequence[Path]) -> str:
    lines = ["", f"Results: {results} ({len(rows)} row{'s' * (len(rows) != 1)})"]
    for row in rows:
        s = row.first
        changed = f" {differing(s)}" if differing(s) else ""
        lines.append(
            f"  {system_name(s)}{changed}, {s['corpus']}, {s['protocol']}: "
            f"WA {row.cell('summary', 'wa')}  UA {row.cell('summary', 'ua')}"
            f"  (95%: {row.interval('wa')}, {row.interval('ua')})"
            + ("  (PARTIAL)" if s["partial"] else "")
            + (f"  ({mark(s)})" if mark(s) else "")
        )
    for directory in dict.fromkeys(path.parent for path in figures):
        names = ", ".join(path.name for path in figures if path.parent == directory)
        lines.append(f"Figures: {directory}/ ({names})")
    return "\n".join(lines)
