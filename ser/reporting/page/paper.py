"""The page of the whole paper (ser/reporting/paper.py), as one HTML file and as Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ser.console import progress
from ser.files import atomic_write
from ser.reporting import paper as content
from ser.reporting.page import charts
from ser.reporting.page.markup import Markup, page, tag
from ser.reporting.page.markup import table as make_table
from ser.reporting.paper import NOT_RUN, SCORES, Paper, Table
from ser.reporting.rows import Row
from ser.training.sweep import Sweep

MATRICES = ("0", "0.1")  # the values of lambda in Figure 5


def as_html(paper: Paper) -> Markup:
    """The whole document; it loads nothing."""
    sections = [
        *((table.title, [_set(table)]) for table in content.tables(paper)),
        ("Confusion matrices, lambda 0 and 0.1 (Figure 5)", _matrices(paper)),
        ("Lambda against WA and UA (Figure 6)", _curves(paper)),
        ("What was run", [_set(_runs(paper))]),
    ]
    header = [tag("h1", f"{paper.published['source']}: the paper beside ours")]
    header += [tag("p", text, class_="note") for text in _introduction(paper)]
    marks = [tag("p", text, class_="mark", role="note") for text in content.notes(paper)]
    body = [tag("section", tag("h2", title), parts) for title, parts in sections]
    return page(
        f"{paper.corpus}: the paper beside ours", [tag("header", header, marks), tag("main", body)]
    )


def as_markdown(paper: Paper) -> str:
    """The same without charts: Figure 5 as its differences, Figure 6 as Table 3."""
    lines = [f"# {paper.published['source']}: the paper beside ours", ""]
    lines += [line for text in _introduction(paper) for line in (text, "")]
    lines += [f"- {text}" for text in content.notes(paper)]
    for table in (*content.tables(paper), content.recalls(paper), _runs(paper)):
        lines += ["", f"## {table.title}", "", f"| {' | '.join(table.head)} |"]
        lines += ["|" + " --- |" * len(table.head)]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
        lines += ["", table.note] if table.note else []
    return "\n".join(lines) + "\n"


def _introduction(paper: Paper) -> list[str]:
    seeds = ", ".join(map(str, paper.seeds))
    return [
        f"Ours: {paper.corpus}, seeds {seeds}. WA and UA in percent, mean ± standard deviation "
        "over seeds; in brackets the 95% interval for other speakers like these. What has no "
        f'scores yet is "{NOT_RUN}".',
        "Protocol paper: one speaker tests, all others train, the last epoch is tested. Protocol "
        "strict: the session's other speaker validates and chooses the epoch.",
    ]


def _runs(paper: Paper) -> Table:
    rows = []
    for protocol, points in paper.rows.items():
        for name, row in points.items():
            cells = [NOT_RUN, "", "", ""]
            if row is not None:
                folds = row.first["folds"]
                cells = [
                    row.joined([s["seed"] for _, s in row.runs]),
                    f"{len(folds['scored'])} of {len(folds['expected'])}",
                    row.joined([s["commit"] for _, s in row.runs]),
                    row.joined([s["hardware"] for _, s in row.runs]),
                ]
            rows.append([f"{name}, {protocol}", *cells])
    return Table("What was run", ["experiment", "seeds", "folds", "commit", "hardware"], rows)


def _set(table: Table) -> Markup:
    note = tag("p", table.note, class_="note") if table.note else None
    return tag("div", make_table(table.head, table.rows), note)


def _matrices(paper: Paper) -> list[Markup]:
    drawn = []
    for protocol, rows in paper.rows.items():
        for value in MATRICES:
            row, name = rows[paper.published["table3"][value]], f"lambda {value}, {protocol}"
            if row is None:
                drawn.append(tag("p", f"{name}: {NOT_RUN}.", class_="note"))
                continue
            chart = charts.confusion_chart(content.confusion(row), f"Confusion matrix, {name}")
            drawn.append(tag("figure", chart, tag("figcaption", tag("b", name))))
    table = content.recalls(paper)
    return [tag("div", drawn, class_="pair"), tag("h3", table.title), _set(table)]


def _curves(paper: Paper) -> list[Markup]:
    points = paper.published["table3"]
    drawn = []
    for protocol, rows in paper.rows.items():
        for score in SCORES:
            stated = [paper.sweep.stated[point][score] for point in points.values()]
            ours = [_interval(rows[point], score) for point in points.values()]
            name = f"{score.upper()}, protocol {protocol}"
            chart = lambda_chart(list(points), stated, ours, f"Lambda against {name}")
            drawn.append(tag("figure", chart, tag("figcaption", tag("b", name))))
    note = (
        "Blue and round: ours with 95% intervals; orange, dashed and square: stated, on "
        f"{paper.published['corpus']}."
    )
    return [tag("div", drawn, class_="pair"), tag("p", note, class_="note")]


def _interval(row: Row | None, score: str) -> tuple[float, float, float] | None:
    """Mean over seeds, low and high in percent; all three are the mean without an interval."""
    if row is None:
        return None
    mean = float(np.mean([scores["summary"][score] for _, scores in row.runs]))
    bounds = row.intervals[score]
    low, high = (mean, mean) if bounds is None else bounds[0]
    return 100 * mean, 100 * float(low), 100 * float(high)


def lambda_chart(
    values: Sequence[str],
    stated: Sequence[float],
    ours: Sequence[tuple[float, float, float] | None],
    title: str,
) -> Markup:
    """Scores over the values of lambda, one place each: what is stated, and ours.

    Args:
        values: of lambda, as text.
        stated: the paper's score at each, in percent.
        ours: mean, low and high at each, in percent; None where it has not been run.
        title: of the chart.
    """
    left, right, top, bottom = 42, charts.WIDTH - 10, 30, 220
    known = [bound for found in ours if found for bound in found]
    marks = charts.ticks(min(*stated, *known), max(*stated, *known))

    def place(index: int, value: float) -> tuple[float, float]:
        across = (index + 0.5) / len(values)
        share = (value - marks[0]) / (marks[-1] - marks[0])
        return left + (right - left) * across, bottom - (bottom - top) * share

    parts: list[Markup] = [charts.label(4, 12, "%", class_="value")]
    for tick in marks:
        y = place(0, tick)[1]
        parts.append(charts.line(left, y, right, y, "grid"))
        parts.append(charts.label(left - 5, y + 4, f"{tick:g}", "end", "quiet"))
    for index, value in enumerate(values):
        parts.append(charts.label(place(index, 0)[0], bottom + 15, value, "middle", "quiet"))
    parts.append(charts.line(left, bottom, right, bottom, "axis"))
    parts.append(charts.label((left + right) / 2, bottom + 29, "lambda", "middle", "quiet"))
    curves: Mapping[str, list[tuple[int, float]]] = {
        "valid": list(enumerate(stated)),
        "train": [(i, found[0]) for i, found in enumerate(ours) if found],
    }
    for x, (kind, points), name in zip((150, 250), curves.items(), ("stated", "ours"), strict=True):
        parts.append(charts.path([(x, 8), (x + 22, 8)], f"thick {kind}"))
        parts += [charts.dot_of(kind, x + 11, 8), charts.label(x + 27, 12, name)]
        if points:
            parts.append(charts.path([place(*p) for p in points], f"thick {kind}"))
        parts += [
            tag("g", tag("title", f"lambda {values[i]}, {name}: {value:.1f} %"),
                charts.dot_of(kind, *place(i, value)))
            for i, value in points
        ]  # fmt: skip
    for index, found in enumerate(ours):
        if found:
            (x, low), (_, high) = (place(index, bound) for bound in found[1:])
            parts.append(charts.line(x, low, x, high, "whisker"))
    said = [
        f"lambda {value}: stated {told:g} %, ours {f'{own[0]:.1f} %' if own else NOT_RUN}"
        for value, told, own in zip(values, stated, ours, strict=True)
    ]
    return charts.chart(title, f"{'; '.join(said)}.", (charts.WIDTH, bottom + 34), parts)


def write_page(sweep: Sweep, exp_root: Path, corpus: str, seeds: Sequence[int]) -> Path:
    """Write ``<exp_root>/<corpus>/paper/paper.html`` and ``paper.md`` from what has scores.

    Returns:
        The HTML file.
    """
    paper = content.read_paper(sweep, exp_root / corpus, corpus, seeds)
    target = exp_root / corpus / "paper" / "paper.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    for path, text in (
        (target, as_html(paper)),
        (target.with_suffix(".md"), as_markdown(paper)),
    ):
        with atomic_write(path) as stream:
            stream.write(text)
    found = [row for rows in paper.rows.values() for row in rows.values()]
    done = sum(row is not None for row in found)
    progress(f"paper: {done} of {len(found)} points have scores")
    print(f"The paper beside ours: {target}")
    return target
