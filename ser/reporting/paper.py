"""The whole paper on one page: its tables and figures beside ours (``./run.sh --paper``).

The experiments are the points of a sweep under two protocols; the paper's numbers are in the
sweep's file under ``stated`` and ``published``. Tables consist of text cells, which
templates/paper.html and paper.md lay out. Points without scores are "not run".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ser.console import progress
from ser.files import atomic_write
from ser.reporting.charts import Chart
from ser.reporting.figures import confusion_chart, lambda_chart
from ser.reporting.render import render
from ser.reporting.rows import Row
from ser.reporting.sweeps import find_points
from ser.scoring.records import same_tests
from ser.scoring.text import difference, partial_notes
from ser.scoring.uncertainty import Trials, differences, from_decisions, paired
from ser.training.sweep import Sweep

PROTOCOLS = ("paper", "strict")
NOT_RUN = "not run"
SCORES = ("wa", "ua")
MATRICES = ("0", "0.1")  # the values of lambda in Figure 5


@dataclass(frozen=True)
class Table:
    """Cells of text; the first column names the row."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Paper:
    """Contents of a page."""

    sweep: Sweep
    corpus: str
    seeds: list[int]
    rows: dict[str, dict[str, Row | None]]  # protocol -> point -> its scored seeds

    @property
    def published(self) -> dict[str, Any]:
        """The paper's other results besides the points' scores."""
        return self.sweep.published


def read_paper(sweep: Sweep, directory: Path, corpus: str, seeds: Sequence[int]) -> Paper:
    """Read the scores in ``directory`` (exp/<corpus>) of all points under both protocols."""
    rows = {
        protocol: {f.point.name: f.row for f in find_points(sweep, directory, protocol, seeds)}
        for protocol in PROTOCOLS
    }
    return Paper(sweep, corpus, list(seeds), rows)


def write_page(sweep: Sweep, exp_root: Path, corpus: str, seeds: Sequence[int]) -> Path:
    """Write ``<exp_root>/<corpus>/paper/paper.html`` and ``paper.md`` from the scored points.

    In the Markdown, Figure 5 is given as differences and Figure 6 as Table 3.

    Returns:
        The HTML file.
    """
    paper = read_paper(sweep, exp_root / corpus, corpus, seeds)
    target = exp_root / corpus / "paper" / "paper.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    context = {
        "title": f"{corpus}: the paper beside ours",
        "paper": paper,
        "tables": tables(paper),
        "recalls": recalls(paper),
        "runs": _runs(paper),
        "notes": notes(paper),
        "matrices": _matrices(paper),
        "curves": _curves(paper),
    }
    for path in (target, target.with_suffix(".md")):
        with atomic_write(path) as stream:
            stream.write(render(path.name, **context))
    found = [row for rows in paper.rows.values() for row in rows.values()]
    done = sum(row is not None for row in found)
    progress(f"paper: {done} of {len(found)} points have scores")
    print(f"The paper beside ours: {target}")
    return target


def tables(paper: Paper) -> list[Table]:
    """The paper's Tables 2 and 3, the fine-tuning strategies, and the tests."""
    lambdas, strategies = paper.published["table3"], paper.published["strategies"]
    note = "With lambda 0.1. The stated numbers are those of S1; none are quoted for the others."
    return [
        _systems(paper),
        _points(paper, "The weight of the phoneme head (Table 3)", "lambda", lambdas),
        _points(paper, "Fine-tuning strategies", "what is trained", strategies, note),
        *_tests(paper),
    ]


def recalls(paper: Paper) -> Table:
    """Figure 5 as numbers: recall with lambda 0.1 minus recall with lambda 0, in points."""
    first, second = (paper.published["table3"][value] for value in ("0", "0.1"))
    stated = paper.published["figure5"]
    labels = list(stated)
    changes = {}
    for protocol, rows in paper.rows.items():
        trials = compared(rows[first], rows[second])
        if trials is not None:
            names = rows[first].first["labels"]
            changes[protocol] = dict(zip(names, differences(trials)["recall"], strict=True))
            labels = names
    cells = [
        [
            label,
            f"{stated[label]:+.1f}" if label in stated else "",
            *(_change(changes.get(protocol, {}).get(label)) for protocol in paper.rows),
        ]
        for label in labels
    ]
    head = ["recall, lambda 0.1 minus 0", "stated", *(f"ours, {name}" for name in paper.rows)]
    note = "Percentage points with the 95% interval over speakers and p, not corrected."
    return Table("What lambda 0.1 changes for each emotion", head, cells, note)


def compared(first: Row | None, second: Row | None) -> Trials | None:
    """Pair two systems over the seeds that both have; None if they cannot be paired yet."""
    if first is None or second is None:
        return None
    runs = [{scores["seed"]: scores for _, scores in row.runs} for row in (first, second)]
    seeds = [seed for seed in runs[0] if seed in runs[1]]
    if not seeds or not same_tests(*(own[seeds[0]] for own in runs)):
        return None
    classes, protocol = len(first.first["labels"]), first.first["protocol"]
    return paired(
        *(
            from_decisions([own[seed]["speakers"] for seed in seeds], classes, protocol)
            for own in runs
        )
    )


def notes(paper: Paper) -> list[str]:
    """Notes on partial results, with their experiments."""
    found: dict[str, list[str]] = {}
    for rows in paper.rows.values():
        for row in filter(None, rows.values()):
            for _, scores in row.runs:
                for note in partial_notes(scores):
                    found.setdefault(note, []).append(scores["tag"])
    return [f"*: PARTIAL: {note} ({', '.join(tags)})." for note, tags in found.items()]


def _systems(paper: Paper) -> Table:
    rows = []
    for entry in paper.published["table2"]:
        point = entry.get("point")
        stated = paper.sweep.stated[point] if point else entry
        noted = f" ({entry['note']})" if "note" in entry else ""
        ours = _ours(paper, point) if point else [""] * len(SCORES) * len(paper.rows)
        rows.append([entry["system"] + noted, _stated(stated), *ours])
    return Table("Systems (Table 2)", _head(paper, "system"), rows)


def _points(
    paper: Paper, title: str, first: str, points: Mapping[str, str], note: str = ""
) -> Table:
    """A row for each of ``points``, by what the first column calls it."""
    rows = [
        [name, _stated(paper.sweep.stated.get(point, {})), *_ours(paper, point)]
        for name, point in points.items()
    ]
    return Table(title, _head(paper, first), rows, note)


def _tests(paper: Paper) -> list[Table]:
    points, ways = paper.published["table3"], paper.published["strategies"]
    whole = next(iter(ways.values()))
    pairs = [("S1 minus S2 (lambda 0.1 minus 0)", points["0"], points["0.1"])]
    pairs += [
        (f"lambda {value} minus 0", points["0"], point)
        for value, point in points.items()
        if value not in ("0", "0.1")
    ]
    pairs += [(f"{name} minus everything", whole, p) for name, p in ways.items() if p != whole]
    head = ["difference", "WA", "95%", "p", "UA", "95%", "p"]
    found = []
    for protocol, rows in paper.rows.items():
        cells = []
        for name, first, second in pairs:
            trials = compared(rows[first], rows[second])
            if trials is None:
                waits = NOT_RUN if None in (rows[first], rows[second]) else "not the same folds yet"
                cells.append([name, waits, *[""] * 5])
            else:
                change = differences(trials)
                cells.append([name, *(c for score in SCORES for c in difference(change[score]))])
        note = (
            "Percentage points, the same speakers and seeds on both sides; bootstrap over speakers "
            "as ./run.sh --compare has it. p is not corrected for the number of tests."
        )
        found.append(Table(f"Paired tests, protocol {protocol}", head, cells, note))
    return found


def _head(paper: Paper, first: str) -> list[str]:
    ours = [f"ours, {p}: {s.upper()} [95%]" for p in paper.rows for s in SCORES]
    return [first, f"stated, {paper.published['corpus']}: WA / UA", *ours]


def _stated(entry: dict[str, Any]) -> str:
    """WA and UA with as many decimals as stated, at least one."""
    told = [entry[score] for score in SCORES if score in entry]
    return " / ".join(f"{v:.1f}" if round(v, 1) == v else f"{v:g}" for v in told)


def _ours(paper: Paper, point: str) -> list[str]:
    """WA and UA with their intervals, under every protocol."""
    cells = []
    for rows in paper.rows.values():
        row = rows[point]
        partial = "*" if row and any(partial_notes(s) for _, s in row.runs) else ""
        for score in SCORES:
            cells.append(NOT_RUN if row is None else row.scored(score) + partial)
    return cells


def _change(found: Any) -> str:
    if found is None:
        return NOT_RUN
    value, bounds, p = difference(found)
    return f"{value} [{bounds}], p {p}"


def _runs(paper: Paper) -> Table:
    rows = []
    for protocol, points in paper.rows.items():
        for name, row in points.items():
            cells = [NOT_RUN, "", "", ""]
            if row is not None:
                folds = row.first["folds"]
                count = f"{len(folds['scored'])} of {len(folds['expected'])}"
                cells = [row.joined("seed"), count, row.joined("commit"), row.joined("hardware")]
            rows.append([f"{name}, {protocol}", *cells])
    return Table("What was run", ["experiment", "seeds", "folds", "commit", "hardware"], rows)


def _matrices(paper: Paper) -> list[tuple[str, Chart | None]]:
    """Figure 5 under each protocol, counts over all folds and seeds; None if not run."""
    drawn = []
    for protocol, rows in paper.rows.items():
        for value in MATRICES:
            row, name = rows[paper.published["table3"][value]], f"lambda {value}, {protocol}"
            chart = None
            if row is not None:
                counts = np.sum([s["confusion"]["counts"] for _, s in row.runs], axis=0)  # (C, C)
                title = f"Confusion matrix, {name}"
                chart = confusion_chart(row.first["labels"], counts.tolist(), title)
            drawn.append((name, chart))
    return drawn


def _curves(paper: Paper) -> list[tuple[str, Chart]]:
    """Figure 6 for each protocol and score."""
    points = paper.published["table3"]
    drawn = []
    for protocol, rows in paper.rows.items():
        for score in SCORES:
            stated = [paper.sweep.stated[point][score] for point in points.values()]
            found = [rows[point] for point in points.values()]
            ours = [row.in_percent(score) if row else None for row in found]
            name = f"{score.upper()}, protocol {protocol}"
            drawn.append((name, lambda_chart(list(points), stated, ours, f"Lambda against {name}")))
    return drawn
