"""The results at a glance: the figure and the table of README, made from the records alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ser.errors import UserError
from ser.files import atomic_write
from ser.reporting.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

START, END = "<!-- results: written by make results -->", "<!-- end of results -->"
PROTOCOL = "strict"
CORPORA = {"nemo": "nEMO", "emodb": "EmoDB"}  # recorded speech, one panel each
# System, or sweep and point -> its name here. Of two with one name on a corpus the first is shown.
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
IN_TABLE = (FLOOR, "S2+, frozen encoder", "S1+, frozen encoder", "S2+", "S1+")


def named_rows(rows: Sequence[Row], corpus: str) -> dict[str, Row]:
    """The rows of ``corpus`` under PROTOCOL by their names here, in the order of NAMES."""
    found: dict[str, Row] = {}
    for system, name in NAMES.items():
        for row in rows:
            first = row.first
            if (first["corpus"], first["protocol"]) != (corpus, PROTOCOL) or first["leaky"]:
                continue
            sweep = first["sweep"]
            if system == (f"{sweep['name']} {sweep['point']}" if sweep else first["system"]):
                found.setdefault(name, row)
    return found


def draw_overview(rows: Sequence[Row]) -> Figure:
    """WA of every system with its 95% interval over speakers, one panel for each corpus.

    The floor's WA is a line through its panel.
    """
    from ser.reporting.figures import COLOURS, new_figure

    panels = {corpus: named_rows(rows, corpus) for corpus in CORPORA}
    counts = [max(1, len(panel)) for panel in panels.values()]
    size = (7.0, 0.28 * sum(counts) + 1.4)
    figure, all_axes = new_figure(1, size, len(panels), sharex=True, height_ratios=counts)
    for axes, (corpus, panel) in zip(all_axes, panels.items(), strict=True):
        for height, row in enumerate(panel.values()):
            wa = 100 * np.mean([run["summary"]["wa"] for _, run in row.runs])
            bounds = row.intervals["wa"]
            if bounds is not None:
                axes.plot(100 * bounds[0], [height, height], color=COLOURS["train"])
            axes.plot([wa], [height], "o", color=COLOURS["train"])
            if list(panel)[height] == FLOOR:
                axes.axvline(wa, color=COLOURS["valid"], linewidth=1, linestyle="--")
        axes.set_yticks(range(len(panel)), panel)
        axes.set_ylim(-0.6, len(panel) - 0.4)
        speakers = len(next(iter(panel.values())).first["speakers"]) if panel else 0
        axes.set_title(f"{CORPORA[corpus]}, {speakers} unseen speakers", loc="left")
        axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("WA (%), 95% interval over speakers; dashed: the floor S0")
    return figure


def overview_table(rows: Sequence[Row]) -> str:
    """README's table: the systems of IN_TABLE on every corpus, as Markdown."""
    lines = ["| corpus | system | WA [95%] | UA | PER |", "| --- | --- | --- | --- | --- |"]
    lines += ["| IEMOCAP | S1 (paper: 76.0 WA, 76.9 UA) | not run | | |"]
    for corpus, title in CORPORA.items():
        named = named_rows(rows, corpus)
        for name in IN_TABLE:
            if name in named:
                row = named[name]
                wa = f"{row.cell('summary', 'wa')} [{row.interval('wa')}]"
                per = row.cell("units", "per") if row.first["units"] else "-"
                lines += [f"| {title} | {name} | {wa} | {row.cell('summary', 'ua')} | {per} |"]
    return "\n".join(lines)


def write_overview(rows: Sequence[Row], readme: Path, picture: Path) -> None:
    """Draw ``picture`` (SVG) and put the table between the two marks of ``readme``.

    Raises:
        UserError: ``readme`` lacks the marks.
    """
    import matplotlib

    text = readme.read_text(encoding="utf-8")
    block = re.compile(f"{re.escape(START)}.*{re.escape(END)}", re.DOTALL)
    if not block.search(text):
        raise UserError(f"{readme}: no lines {START} and {END}; put them where the table belongs")
    table = f"{START}\n{overview_table(rows)}\n{END}"
    with atomic_write(readme) as stream:
        stream.write(block.sub(lambda _: table, text))
    with (
        matplotlib.rc_context({"svg.hashsalt": "overview", "svg.fonttype": "path"}),
        atomic_write(picture, "wb") as stream,
    ):
        draw_overview(rows).savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
