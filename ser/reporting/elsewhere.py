"""Tables and charts of tests on other corpora and degraded recordings, and of abstention."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from ser.console import percent
from ser.files import atomic_write
from ser.reporting.charts import (
    BLUE,
    INK,
    LINE,
    OVER,
    QUIET,
    RED,
    SHADE,
    SMALL,
    TURNED,
    WIDTH,
    Chart,
    new_chart,
    styled,
)
from ser.scoring.degrade import CLEAN
from ser.scoring.elsewhere import STRICT
from ser.scoring.records import CROSSCORPUS, ROBUSTNESS, Run
from ser.scoring.text import columns, difference, interval
from ser.scoring.uncertainty import differences, from_decisions, paired

Record = Mapping[str, Any]
CROSS = ["system", "trained on", "tested on", "utterances", "speakers", "WA [95%]",
         "largest class", "UA [95%]", "chance"]  # fmt: skip
ROBUST = ["condition", "WA [95%]", "UA [95%]", "change of UA", "95%", "p"]


def cross_rows(records: Sequence[Record]) -> list[list[str]]:
    """A row for each system and each corpus it was tested on, in percent."""
    rows = []
    for record in records:
        for corpus, test in record["tests"].items():
            refs = "".join(entry["ref"] for entry in test["speakers"])
            largest = max(map(refs.count, set(refs))) / len(refs)
            speakers = {entry["speaker"] for entry in test["speakers"]}
            rows.append([record["system"], record["corpus"], corpus, str(len(refs)),
                         str(len(speakers)), _scored(test, "wa"), percent(largest),
                         _scored(test, "ua"), percent(1 / len(test["labels"]))])  # fmt: skip
    return rows


def robust_rows(record: Record) -> list[list[str]]:
    """A row for each condition, in percent and percentage points."""
    tests, classes = record["tests"], len(record["labels"])
    trials = {c: from_decisions([t["speakers"]], classes, STRICT) for c, t in tests.items()}
    rows = []
    for condition, test in tests.items():
        change = ["", "", ""]
        if condition != CLEAN:
            change = difference(differences(paired(trials[CLEAN], trials[condition]))["ua"])
        rows.append([condition, _scored(test, "wa"), _scored(test, "ua"), *change])
    return rows


def read_tests(runs: Sequence[Run]) -> dict[str, list[Record]]:
    """Read tests on other corpora and degraded recordings from experiments or their records."""
    return {
        name.removesuffix(".json"): [
            json.loads((directory / name).read_text(encoding="utf-8"))
            for directory, _ in runs
            if (directory / name).is_file()
        ]
        for name in (CROSSCORPUS, ROBUSTNESS)
    }


def _scored(test: Record, name: str) -> str:
    bounds = test[f"{name}_ci"]
    return percent(test[name]) + (f" [{interval(bounds)}]" if bounds else "")


def show(path: Path, rows: Sequence[Sequence[str]], chart: Chart, heading: str) -> None:
    """Print a table, and write it and its chart next to ``path`` as .tsv and .png."""
    with atomic_write(path.with_suffix(".tsv")) as stream:
        stream.writelines("\t".join(row) + "\n" for row in rows)
    chart.save_png(path.with_suffix(".png"), heading)
    print("\n".join(columns(rows)))


@styled()
def matrix_chart(records: Sequence[Record]) -> Chart:
    """UA of each system on each corpus, shaded by its position between chance and 100%."""
    corpora = list(dict.fromkeys(c for record in records for c in record["tests"]))
    side, high = max(62, (WIDTH - 120) / len(corpora)), 46
    chart = new_chart("", 40 + high * len(records), 130 + side * len(corpora))
    ax = chart.axes[0]
    for y, record in enumerate(records):
        for corpus, test in record["tests"].items():
            x = corpora.index(corpus)
            chance, own = 1 / len(test["labels"]), corpus == record["corpus"]
            shade = max(0.0, (test["ua"] - chance) / (1 - chance))
            ax.add_patch(Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, linewidth=1 + own / 2,
                                   facecolor=to_rgba(SHADE, shade),
                                   edgecolor=INK if own else LINE))  # fmt: skip
            style = {"ha": "center", "color": TURNED if shade > 0.6 else OVER}
            ax.text(x, y, percent(test["ua"]), va="bottom", fontweight="bold", **style)
            ax.text(x, y + 0.05, f"chance {percent(chance)}", va="top", fontsize=SMALL, **style)
    names = [f"{record['system']}\n{record['corpus']}" for record in records]
    ax.set(xlim=(-0.5, len(corpora) - 0.5), ylim=(len(records) - 0.5, -0.5))
    ax.set(xlabel="tested on; UA (%), framed: speakers left out", ylabel="trained on")
    ax.set_xticks(range(len(corpora)), corpora)
    ax.set_yticks(range(len(records)), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return chart


@styled()
def robustness_chart(record: Record) -> Chart:
    """UA with its interval under each condition, and for the original recordings."""
    tests = {c: test for c, test in record["tests"].items() if c != CLEAN}
    clean, chart = record["tests"][CLEAN]["ua"], new_chart("", 56 + 16 * len(tests))
    ax = chart.axes[0]
    ax.axvline(100 * clean, color=INK, linestyle="--", linewidth=1, label="as recorded")
    ax.axvline(100 / len(record["labels"]), color=QUIET, linestyle=":", linewidth=1, label="chance")
    for i, test in enumerate(tests.values()):
        low, high = (100 * b for b in test["ua_ci"] or (test["ua"], test["ua"]))
        ax.errorbar(100 * test["ua"], i, xerr=[[100 * test["ua"] - low], [high - 100 * test["ua"]]],
                    color=BLUE, fmt="o", capsize=2, markersize=4)  # fmt: skip
    ax.set_yticks(range(len(tests)), tests)
    ax.set(xlim=(0, 100), ylim=(len(tests) - 0.5, -0.5), xlabel="UA (%)")
    ax.grid(axis="x")
    chart.figure.legend(loc="outside lower center", ncols=2)
    return chart


@styled()
def risk_chart(scores: Mapping[str, Any], title: str) -> Chart | None:
    """Error rate of the most confident decisions over coverage; None if not recorded."""
    found = scores["calibration"]
    if not found["risk"]:
        return None
    chart = new_chart(title, 240)
    ax, said = chart.axes[0], []
    for name, of, style in (
        ("as trained", found, {"color": BLUE}),
        ("temperature scaled", found["scaled"], {"color": RED, "linestyle": "--"}),
    ):
        if of:
            shares = [100 * (i + 1) / len(of["risk"]) for i in range(len(of["risk"]))]
            label = f"{name}, AURC {percent(of['aurc'])} %"
            ax.plot(shares, [100 * r for r in of["risk"]], label=label, **style)
            said.append(f"{label}; of the surer half {percent(of['risk'][len(shares) // 2 - 1])} %")
    ax.axhline(100 * (1 - found["accuracy"]), color=QUIET, linestyle=":", linewidth=1)
    ax.set(xlim=(0, 100), xlabel="coverage (% answered, the surest first)", ylabel="wrong (%)")
    ax.set_ylim(bottom=0)
    ax.grid(axis="y")
    chart.figure.legend(loc="outside lower center")
    chart.desc = f"Risk by coverage: {'; '.join(said)}."
    return chart
