"""Results at a glance, from the records alone: README's table and figure, systems by year."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ser.config import load_config
from ser.files import atomic_write
from ser.predict.card import is_synthetic
from ser.reporting.charts import BLUE, QUIET, RED, SMALL, WIDTH, Chart, new_chart, styled
from ser.reporting.rows import Row

START, END = "<!-- results: written by make results -->", "<!-- end of results -->"
BLOCK = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
OVERVIEW, DECADE = "docs/results.svg", "docs/decade.svg"
DECADE_TITLE = "A decade of speech emotion recognition on one protocol"
PROTOCOL = "strict"
CORPORA = {"nemo": "nEMO", "emodb": "EmoDB"}  # recorded speech, one panel each
# System, or sweep and point -> its name here. If two have the same name on a corpus, the one with
# more seeds is shown, else the first.
NAMES = {
    "s14_egemaps_svm": "S14, eGeMAPS + SVM",
    "s14_compare_svm": "S14, ComParE + SVM",
    "s4_cgru_attention": "S4",
    "s5_cnn_blstm_gender": "S5",
    "s0": "S0, the floor",
    "emodb_s0": "S0, the floor",
    "whisper_s0": "S0, the floor",
    "emodb_s1": "S1",
    "emodb_s2": "S2",
    "s3_char": "S3, characters",
    "emodb_s3_bpe": "S3, BPE",
    "emodb_s2_plus": "S2+",
    "whisper_s2_plus": "S2+",
    "phoneme_head none": "S2+, frozen encoder",
    "phoneme_head class": "S1+ without tags, frozen encoder",
    "whisper_untagged": "S1+ without tags",
    "whisper_frozen": "S1+, frozen encoder",
    "phoneme_head tagged_class": "S1+, frozen encoder",
    "emodb_s1_plus": "S1+",
    "whisper_s1_plus": "S1+",
}
FLOOR = "S0, the floor"
IN_TABLE = {
    "nemo": (FLOOR, "S2+, frozen encoder", "S1+, frozen encoder"),
    "emodb": (FLOOR, "S2+", "S1+"),
}


@dataclass(frozen=True)
class Dated:
    """A row with its system's paper: year, authors, how the paper's numbers were obtained."""

    year: int
    by: str
    note: str
    row: Row


def named_rows(rows: Sequence[Row], corpus: str) -> dict[str, Row]:
    """Rows of ``corpus`` under PROTOCOL by their names here, in the order of NAMES."""
    found: dict[str, Row] = {}
    for system, name in NAMES.items():
        for row in rows:
            first = row.first
            if (first["corpus"], first["protocol"]) != (corpus, PROTOCOL) or first["leaky"]:
                continue
            sweep = first["sweep"]
            if system == (f"{sweep['name']} {sweep['point']}" if sweep else first["system"]):
                found[name] = max(found.get(name, row), row, key=lambda row: len(row.runs))
    return found


def dated_rows(rows: Sequence[Row], conf_dir: Path) -> dict[str, list[Dated]]:
    """Rows under PROTOCOL for recorded speech by corpus, sorted by the year of the paper.

    The year comes from a configuration's ``paper``; rows without it, points of sweeps, and corpora
    with fewer than two systems are left out.
    """
    found: dict[str, list[Dated]] = {}
    for row in rows:
        s = row.first
        path = conf_dir / Path(s["config"]["path"]).name
        if s["protocol"] != PROTOCOL or s["leaky"] or s["sweep"] or s["partial"]:
            continue
        if is_synthetic(s["corpus"]) or not path.is_file():
            continue
        paper = load_config(path).get("paper")
        if paper:
            dated = Dated(int(paper["year"]), paper["by"], paper.get("note", ""), row)
            found.setdefault(s["corpus"], []).append(dated)
    for group in found.values():
        group.sort(key=lambda dated: (dated.year, dated.row.first["system"]))
    return {corpus: group for corpus, group in found.items() if len(group) > 1}


def decade_table(dated: Mapping[str, Sequence[Dated]]) -> list[list[str]]:
    """Year, paper, system, corpus, WA and UA with intervals, parameters, training, note."""
    return [
        [str(d.year), d.by, d.row.name, corpus, d.row.scored("wa"),
         d.row.scored("ua"), d.row.parameters(), d.row.training(), d.note]
        for corpus, group in dated.items() for d in group
    ]  # fmt: skip


def draw_decade(dated: Mapping[str, Sequence[Dated]]) -> Chart:
    """WA of every system on the same folds, in the order of the papers, with parameters."""
    panels = {}
    for corpus, group in dated.items():
        panel: dict[str, tuple[Row, str]] = {}
        for d in group:
            system = d.row.first["system"]
            label = f"{d.year}  {NAMES.get(system) or _short(system)}"
            if label in panel:
                label += f", {system}"
            epochs = d.row.first["max_epoch"]  # if not as in its configuration
            panel[label] = (d.row, _parameters(d.row) + (f", {epochs} epochs" if epochs else ""))
        panels[CORPORA.get(corpus, corpus)] = panel
    return forest_chart(panels, DECADE_TITLE, "parameters, training")


def _short(system: str) -> str:
    """``s10_ladder`` -> ``S10, ladder``; other names as they are."""
    found = re.fullmatch(r"(s\d+[a-z]?)_(.*)", system)
    return f"{found[1].capitalize()}, {found[2].replace('_', ' ')}" if found else system


def draw_overview(rows: Sequence[Row]) -> Chart:
    """WA of every named system, with a line at the floor in each panel."""
    panels = {
        title: {name: (row, "") for name, row in named_rows(rows, corpus).items()}
        for corpus, title in CORPORA.items()
    }
    return forest_chart({t: p for t, p in panels.items() if p}, "Results at a glance", "")


@styled()
def forest_chart(
    panels: Mapping[str, Mapping[str, tuple[Row, str]]], title: str, noted: str
) -> Chart:
    """Forest plot of WA with its 95% interval over speakers, a panel for each corpus.

    Args:
        panels: By corpus name, rows with a text at the right, by label.
        title: Title of the chart.
        noted: Heading of the texts at the right.
    """
    counts = [len(panel) for panel in panels.values()] or [1]
    height = 20 * sum(counts) + 46 * len(counts) + 30
    chart = new_chart(title, height, 1.7 * WIDTH, len(counts), sharex=True, height_ratios=counts)
    described = []
    for ax, (corpus, panel) in zip(chart.axes, panels.items(), strict=False):
        for place, (label, (row, text)) in enumerate(panel.items()):
            wa, low, high = row.in_percent("wa")
            ax.errorbar(wa, place, xerr=[[wa - low], [high - wa]], fmt="o", color=BLUE, capsize=2,
                        markersize=5)  # fmt: skip
            ax.text(1.02, place, text, transform=ax.get_yaxis_transform(), va="center",
                    fontsize=SMALL, color=QUIET)  # fmt: skip
            if row.is_floor and label == FLOOR:
                ax.axvline(wa, color=RED, linewidth=1, linestyle="--")
            described.append(f"{corpus}, {label}: {wa:.1f}")
        ax.set_yticks(range(len(panel)), list(panel))
        ax.set(ylim=(len(panel) - 0.4, -0.6))
        speakers = {e["speaker"] for e in next(iter(panel.values()))[0].first["speakers"]}
        ax.set_title(f"{corpus}, {len(speakers)} unseen speakers", loc="left", fontsize=10.5)
        ax.text(1.02, -1, noted, transform=ax.get_yaxis_transform(), fontsize=SMALL, color=QUIET)
        ax.grid(axis="x")
    floors = any(FLOOR in panel for panel in panels.values())
    chart.axes[-1].set_xlabel(
        "WA (%), 95% interval over speakers" + ("; dashed: the floor S0" if floors else "")
    )
    chart.desc = "; ".join(described)
    return chart


def overview_table(rows: Sequence[Row]) -> str:
    """Format README's table of the systems in IN_TABLE, as Markdown."""
    lines = ["| corpus | system | WA [95%] | UA [95%] |", "| --- | --- | --- | --- |"]
    for corpus, names in IN_TABLE.items():
        named = named_rows(rows, corpus)
        for name in names:
            if name in named:
                wa, ua = (named[name].scored(score) for score in ("wa", "ua"))
                lines.append(f"| {CORPORA[corpus]} | {name} | {wa} | {ua} |")
    return "\n".join(lines)


def write_overview(rows: Sequence[Row], conf_dir: Path, root: Path) -> list[Path]:
    """Put the table between the markers in ``root``/README.md, and draw the figures in docs/.

    A README without markers is left unchanged; without docs/ nothing is drawn.

    Returns:
        The files written.
    """
    written = []
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if BLOCK.search(text):
        table = f"{START}\n{overview_table(rows)}\n{END}"
        with atomic_write(readme) as stream:
            stream.write(BLOCK.sub(lambda _: table, text))
        written.append(readme)
    if (root / "docs").is_dir():
        written.append(draw_overview(rows).save_svg(root / OVERVIEW))
        dated = dated_rows(rows, conf_dir)
        written += [draw_decade(dated).save_svg(root / DECADE)] if dated else []
    return written


def _parameters(row: Row) -> str:
    """Format size and training time briefly: 20.6 M, 0:24:38."""
    counts = row.first["parameters"]
    if not counts:
        return row.training()
    total = counts["total"]
    size = f"{total / 1e6:.1f} M" if total >= 1e5 else f"{total / 1e3:.1f} k"
    return f"{size}, {row.training()}"
