"""RESULTS.md from scores.json files, and the figures beside them.

The file is a function of the scores.json files (or of their records in results/) and of the
``stated`` entries in conf/: the same input gives the same bytes. Rows that differ only in their
seed become one row, mean ± standard deviation over the seeds.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser.config import load_config
from ser.console import duration, percent, progress
from ser.data.folds import SPEAKER_DEPENDENT, caveat
from ser.errors import UserError
from ser.files import atomic_write
from ser.reporting.rows import Row, group_seeds
from ser.reporting.sweep_table import marked_protocol, sweep_legend, sweep_table
from ser.scoring.metrics import mean_sd
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
    decision_rows,
    mark,
    marked,
    parameter_count,
    partial_notes,
)

INTRODUCTION = """\
# Results

{source}

Scores are percentages. **WA** and **UA** are means over the folds of each fold's accuracy and mean
per-class recall; *pooled* counts all held-out utterances as one test set. **95%** is an interval
for other speakers like these, from a bootstrap that draws speakers and then their utterances
(uncertainty.py says how, and how often it holds). Two rows with the same speakers may differ
clearly although their intervals overlap: `./run.sh --compare TAG TAG` tests the difference.
**PER** is the error rate of the decoded phonemes or phoneme classes without their emotion tag,
**UER** that of the units as trained. **Parameters** are those of one fold's model, and in brackets
those that were trained if not all. **Training** (h:mm:ss) is the sum over the folds; it depends on
the machine and on what else ran there, so that only rows trained side by side compare. With
several seeds, a cell is the mean ± standard deviation over seeds (of the training, the mean), and
the interval is that of the mean over these seeds. Where there is nothing to divide by, or an
earlier version recorded nothing, stands -; *macro* leaves it out, but for the precision of a class
never decided for, which counts as 0.
"""
FROM_EXPERIMENTS = """\
Written by stage 6 from the `scores.json` of every experiment; do not edit it by hand. To rebuild:
`./run.sh --stage 6 --stop-stage 6 --results RESULTS.md`."""
FROM_RECORDS = """\
Written by `make results` from the files in [{records}]({records}), each the `scores.json` of an
experiment, and from what the papers state according to conf/. A fresh clone gives the same bytes;
do not edit it by hand."""
KNOWN_SPEAKERS = """\
## Speaker-dependent: not comparable with the above

K-fold cross-validation: the speakers of a test fold are trained on too, with other utterances. It
tells how well known voices are recognised, which is easier. **95%** (and p) is for other utterances
of these speakers, from a bootstrap that draws utterances alone.
"""
LEAKY = """\
## LEAKY: not comparable

What these rows were trained or selected on knows the test speakers. They are here to measure how
much that is worth, and are no results.
"""


def make_report(
    exp_root: Path | str,
    results: Path | str,
    exp_dir: Path | str | None = None,
    conf_dir: Path | str = "conf",
    records: Path | str | None = None,
) -> str:
    """Write RESULTS.md and draw figures.

    Args:
        exp_root: directory of <corpus>/<tag>/scores.json.
        results: the Markdown file to write.
        exp_dir: draw the figures of this experiment only; of all when None.
        conf_dir: directory of the configurations, for what the papers state.
        records: directory of <corpus>/<tag>.json. The scores below ``exp_root``, of which there
            need not be any, are kept there first; the report is then made of what is there, and
            not of ``exp_root``.

    Returns:
        The text of RESULTS.md.

    Raises:
        UserError: no scores at all, none in ``exp_dir``, or a file that cannot be read as what
            it should be, by name.
    """
    from ser.reporting.figures import draw_figures

    exp_root, results = Path(exp_root), Path(results)
    exp_dir = None if exp_dir is None else Path(exp_dir)
    # what is kept must be whole; one experiment's report must not fail for an old one of another
    asked_for = exp_dir if records is None else None
    runs = read_all_scores(exp_root, needed=records is None, asked_for=asked_for)
    drawn = runs
    if exp_dir is not None:
        if not (exp_dir / "scores.json").is_file():
            raise UserError(f"{exp_dir}/scores.json: no such file; {SCORE_FIRST}")
        drawn = [(exp_dir, read_scores(exp_dir / "scores.json"))]
    if records is not None:
        records = Path(records)
        read_all_records(records)  # a damaged record is found before another is written
        keep_records(runs, records)
        runs = read_all_records(records)
        if not runs:
            raise UserError(
                f"{records}: no <corpus>/<tag>.json in it, and {exp_root} has no "
                f"<corpus>/<tag>/scores.json to keep there; {SCORE_FIRST}"
            )
    rows, text = build_results(runs, Path(conf_dir), results.parent, records)
    figures = []
    for number, (directory, scores) in enumerate(drawn, start=1):
        progress(f"report: figures of {directory.name} ({number} of {len(drawn)})")
        figures += draw_figures(directory, scores)
    with atomic_write(results) as stream:
        stream.write(text)
    print(_summary(rows, results, figures))
    return text


def build_results(
    runs: Sequence[Run], conf_dir: Path, directory: Path, records: Path | None = None
) -> tuple[list[Row], str]:
    """The rows over ``runs`` and the text of a RESULTS.md that will stand in ``directory``.

    ``records`` is where ``runs`` come from, if they are records; their figures are elsewhere.
    """
    rows = group_seeds(runs)
    return rows, format_results(rows, read_stated(conf_dir), directory, records)


def read_stated(conf_dir: Path) -> list[dict[str, Any]]:
    """What the papers state: each configuration's ``stated`` entry, with the file as ``config``.

    An entry has ``corpus``, ``wa`` and ``ua`` (percent; null where the paper says nothing) and
    optionally ``source``, and ``protocol``, that of the paper if it is not ``paper``.
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


def format_results(
    rows: Sequence[Row],
    stated: Sequence[Mapping[str, Any]],
    directory: Path,
    records: Path | None = None,
) -> str:
    """The text of RESULTS.md; ``directory`` is where it will stand, for links to figures."""
    if records is None:
        source = FROM_EXPERIMENTS
    else:
        source = FROM_RECORDS.format(records=_relative(records, directory))
    points = [row for row in rows if row.first["sweep"]]
    numbered = list(enumerate((row for row in rows if not row.first["sweep"]), start=1))
    parts = [INTRODUCTION.format(source=source)]
    for kind, heading in (("", []), (SPEAKER_DEPENDENT, [KNOWN_SPEAKERS]), ("LEAKY", [LEAKY])):
        part = [(number, row) for number, row in numbered if mark(row.first) == kind]
        parts += [*heading, _table(part)] if part else []
    if points:
        parts.append(_sweeps(points, directory))
    parts += ["## Runs\n"] if numbered else []
    figures = None if records is not None else directory
    parts += [_details(number, row, figures) for number, row in numbered]
    ran = {(Path(row.first["config"]["path"]).name, row.first["corpus"]) for row in rows}
    absent = [s for s in stated if (Path(s["config"]).name, s["corpus"]) not in ran]
    if absent:
        parts.append(_not_run(absent))
    return "\n".join(parts)


def _table(rows: Sequence[tuple[int, Row]]) -> str:
    head = [
        "#",
        "System",
        "Corpus",
        "Protocol",
        "Folds",
        "Seeds",
        "WA",
        "WA 95%",
        "UA",
        "UA 95%",
        "WA pooled",
        "UA pooled",
        "PER",
        "UER",
        "Epochs",
        "Parameters",
        "Training",
        "Stated by the paper (WA / UA)",
        "Commit",
    ]
    lines = [head, ["---"] * len(head)]
    for number, row in rows:
        scores = row.first
        epochs = [v.get("epochs") for _, s in row.runs for v in s["per_fold"].values()]
        lines.append(
            [
                str(number),
                _system(scores),
                scores["corpus"] + (" (**partial**)" if scores["corpus_partial"] else ""),
                marked(scores, bold=True),
                _folds(scores),
                row.joined([s["seed"] for _, s in row.runs]),
                row.cell("summary", "wa"),
                row.interval("wa"),
                row.cell("summary", "ua"),
                row.interval("ua"),
                row.cell("summary", "wa_pooled"),
                row.cell("summary", "ua_pooled"),
                row.cell("units", "per"),
                row.cell("units", "uer"),
                _range([e for e in epochs if e]),
                row.joined([parameter_count(s["parameters"]) for _, s in row.runs]),
                duration([s["train_seconds"] for _, s in row.runs]),
                _stated(scores),
                row.joined([s["commit"] for _, s in row.runs]),
            ]
        )
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines) + "\n"


def _details(number: int, row: Row, directory: Path | None) -> str:
    """A row's section; ``directory`` is None where there are no figures to link."""
    scores = row.first
    tags = row.joined([f"`{s['tag']}`" for _, s in row.runs])
    lines = [f"### {number}. {_system(scores)} on {scores['corpus']}, {marked(scores)}\n"]
    lines += [f"Experiment {tags}:\n"]
    lines += ["```sh", *(s["command"] for _, s in row.runs), "```\n"]
    lines += [f"- **Partial**: {note}." for note in partial_notes(scores)]
    lines += [f"- **LEAKY**: {why}." for why in scores["leaky"]]
    spreads = [f"over folds WA {row.fold_spread('wa')}, UA {row.fold_spread('ua')}"]
    if len(row.runs) > 1:
        over_seeds = [mean_sd([s["summary"][n] for _, s in row.runs])[1] for n in ("wa", "ua")]
        spreads.append("over seeds WA {}, UA {}".format(*map(percent, over_seeds)))
    lines.append(f"- Standard deviation {'; '.join(spreads)}.")
    pooled = f"WA {row.interval('wa_pooled')}, UA {row.interval('ua_pooled')}"
    lines.append(f"- 95% of the pooled scores: {pooled}.")
    for name, title in CLASS_SCORES.items():
        of = [f"{label} {row.cell('per_class', label, name)}" for label in scores["labels"]]
        macro = row.cell("macro", name)
        lines.append(f"- {title.capitalize()}, pooled: {', '.join(of)}; macro {macro}.")
    for name, head in scores["auxiliary"].items():
        accuracy = row.cell("auxiliary", name, "accuracy")
        lines.append(f"- Auxiliary head {name}: accuracy {accuracy} ({head['n']}).")
    if all(
        s["decisions"] and s["decisions"].keys() == scores["decisions"].keys() for _, s in row.runs
    ):
        for name, wa, ua, *change in decision_rows([s for _, s in row.runs])[2:]:
            lines.append(
                f"- Decision by {name}: WA {wa}, UA {ua}; WA against the emotion head's "
                "{} ({}), p = {}.".format(*change)
            )
    for kind, values in scores["slices"].items():
        parts = [_slice(row, kind, value) for value in values]
        lines.append(f"- By {kind}, pooled WA / UA: {'; '.join(parts)}.")
    lines.append(
        f"- Calibration: ECE {row.cell('calibration', 'ece')} ({len(scores['calibration']['bins'])}"
        f" bins), mean confidence {row.cell('calibration', 'confidence')}."
    )
    for path, s in row.runs:
        versions = ", ".join(f"{k} {v}" for k, v in sorted(s["versions"].items()))
        seconds = s["train_seconds"]
        trained = f"; {seconds:.0f} s of training" if seconds else ""
        lines.append(
            f"- Seed {s['seed']}: trained by {s['commit']} on {s['hardware']}{trained}; scored "
            f"{s['date']} by {s['scored_by']}; {versions}; configuration "
            f"{(s['config']['sha256'] or '-')[:12]}, data {(s['data_sha256'] or '-')[:12]}."
            f"{_figure_link(path, directory)}"
        )
    return "\n".join(lines) + "\n"


def _sweeps(points: Sequence[Row], directory: Path) -> str:
    """The sections of the sweeps that ``points`` belong to, each with its table and figure."""
    sweeps: dict[tuple[str, ...], list[Row]] = {}
    for row in points:
        scores = row.first
        key = (scores["corpus"], scores["protocol"], scores["sweep"]["name"])
        sweeps.setdefault(key, []).append(row)
    lines = ["## Sweeps", "", "One system with one thing varied; each point is trained anew."]
    for (corpus, protocol, name), rows in sweeps.items():
        rows = sorted(rows, key=lambda row: row.first["sweep"]["number"])
        origin = rows[0].first["sweep"]
        runs = [scores for row in rows for _, scores in row.runs]
        lines += ["", f"### {name} on {corpus}, {marked_protocol(protocol)}", ""]
        lines += [f"{origin['about']}. {sweep_legend(protocol)}"]
        if len(rows) < origin["points"]:
            lines += [f"Of {origin['points']} points, {len(rows)} have been run."]
        lines += ["", "```sh", *dict.fromkeys(scores["command"] for scores in runs), "```", ""]
        lines += sweep_table(
            [(r.first["sweep"]["point"], r, r.first["sweep"].get("stated")) for r in rows]
        )
        figure = rows[0].runs[0][0].parent / sweep_figure(rows[0].first)
        if figure.is_file():
            lines += ["", f"![WA and UA of the points]({_relative(figure, directory)})"]
        commits = rows[0].joined([scores["commit"] for scores in runs])
        machines = rows[0].joined([scores["hardware"] for scores in runs])
        seconds = duration([sum(s["train_seconds"] or 0 for s in runs)])
        lines += ["", f"Trained by {commits} on {machines}, {seconds} of training in all."]
    return "\n".join(lines) + "\n"


def _slice(row: Row, kind: str, value: str) -> str:
    """One slice's name, size and scores; an emotion that it lacks is not in its UA."""
    found = row.first["slices"][kind][value]
    lacking = f", without {', '.join(found['absent'])}" if found["absent"] else ""
    scores = f"{row.cell('slices', kind, value, 'wa')} / {row.cell('slices', kind, value, 'ua')}"
    return f"{value} {scores} ({found['n']}{lacking})"


def _not_run(absent: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "## Not run here\n",
        "These need a corpus that is not at hand. The numbers are the papers' own; those that are"
        " marked were found with the test speakers in training, and compare with no others.\n",
        "| System | Corpus | Stated by the paper (WA / UA) | Source | Command |",
        "|" + " --- |" * 5,
    ]
    for s in absent:
        command = (
            f"./run.sh --corpus {s['corpus']} --corpus-dir PATH/TO/{s['corpus'].upper()} "
            f"--config {s['config']} --protocol {s.get('protocol', 'paper')}"
        )
        system = Path(s["config"]).stem.removeprefix("train_")
        cells = [system, s["corpus"], _stated_numbers(s), str(s.get("source", "-")), f"`{command}`"]
        lines.append(f"| {' | '.join(map(_escape, cells))} |")
    return "\n".join(lines) + "\n"


def _system(scores: Mapping[str, Any]) -> str:
    ssl = scores.get("ssl")
    return scores["system"] + (f" ({Path(ssl).name})" if ssl else "")


def _folds(scores: Mapping[str, Any]) -> str:
    folds = scores["folds"]
    if folds["missing"]:
        return f"{len(folds['scored'])} of {len(folds['expected'])} (**partial**)"
    return str(len(folds["expected"]))


def _stated(scores: Mapping[str, Any]) -> str:
    """What the paper states, where it was found in the same way: with or without known speakers."""
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


def _range(epochs: Sequence[int]) -> str:
    if not epochs:
        return "-"
    return str(epochs[0]) if len(set(epochs)) == 1 else f"{min(epochs)}-{max(epochs)}"


def _figure_link(exp_dir: Path, directory: Path | None) -> str:
    if directory is None:
        return ""
    link = _relative(exp_dir / "figures", directory)
    return "" if link.startswith("..") else f" Figures: [{link}]({link})."


def _relative(path: Path, directory: Path) -> str:
    return Path(os.path.relpath(path, directory)).as_posix()


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _summary(rows: Sequence[Row], results: Path, figures: Sequence[Path]) -> str:
    lines = ["", f"Results: {results} ({len(rows)} row{'s' * (len(rows) != 1)})"]
    for row in rows:
        scores = row.first
        lines.append(
            f"  {_system(scores)}, {scores['corpus']}, {scores['protocol']}: "
            f"WA {row.cell('summary', 'wa')}  UA {row.cell('summary', 'ua')}"
            f"  (95%: {row.interval('wa')}, {row.interval('ua')})"
            + ("  (PARTIAL)" if scores["partial"] else "")
            + (f"  ({mark(scores)})" if mark(scores) else "")
        )
    for directory in dict.fromkeys(path.parent for path in figures):
        names = ", ".join(path.name for path in figures if path.parent == directory)
        lines.append(f"Figures: {directory}/ ({names})")
    return "\n".join(lines)
