"""RESULTS.md from scores.json files, and the figures beside them.

The file is a function of the scores.json files and of the ``stated`` entries in conf/: the same
input gives the same bytes. Rows that differ only in their seed become one row, mean ± standard
deviation over the seeds.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ser.cli import progress
from ser.errors import UserError
from ser.fileio import atomic_write
from ser.scoring import SCHEMA, mean_sd, partial_notes, percent

NEEDED = [
    "system",
    "tag",
    "corpus",
    "protocol",
    "seed",
    "labels",
    "folds",
    "summary",
    "per_fold",
    "per_class",
    "confusion",
    "config",
    "settings_sha256",
    "command",
    "commit",
    "corpus_partial",
    "partial",
]

INTRODUCTION = """\
# Results

Written by stage 6 from the `scores.json` of every experiment; do not edit it by hand. To rebuild:
`./run.sh --stage 6 --stop-stage 6 --results RESULTS.md`.

All numbers are percentages. **WA** and **UA** are means over the folds of each fold's accuracy and
mean per-class recall; *pooled* counts all held-out utterances as one test set. **PER** is the
error rate of the decoded phonemes or phoneme classes without their emotion tag, **UER** that of
the units as trained. With several seeds, a cell is the mean ± standard deviation over seeds.
"""


@dataclass
class Row:
    """One line of the table: the same experiment under one or more seeds."""

    runs: list[tuple[Path, dict[str, Any]]]  # (experiment directory, scores.json), by seed

    @property
    def first(self) -> dict[str, Any]:
        """The scores of the lowest seed; what does not depend on the seed is read from here."""
        return self.runs[0][1]

    def cell(self, *keys: str) -> str:
        """A number of scores.json in percent, over the seeds."""
        values = [_dig(scores, keys) for _, scores in self.runs]
        if any(value is None for value in values):
            return "-"
        mean, sd = mean_sd(values)
        return percent(mean) if sd is None else f"{percent(mean)} ± {percent(sd)}"

    def joined(self, values: Sequence[Any]) -> str:
        """Distinct values in order of appearance."""
        return ", ".join(dict.fromkeys(map(str, values)))


def make_report(
    exp_root: Path | str,
    results: Path | str,
    exp_dir: Path | str | None = None,
    conf_dir: Path | str = "conf",
) -> str:
    """Write RESULTS.md and draw figures.

    Args:
        exp_root: directory of <corpus>/<tag>/scores.json.
        results: the Markdown file to write.
        exp_dir: draw the figures of this experiment only; of all when None.
        conf_dir: directory of the configurations, for what the papers state.

    Returns:
        The text of RESULTS.md.

    Raises:
        UserError: no scores at all, none in ``exp_dir``, or a file that cannot be read as what
            it should be, by name.
    """
    from ser.figures import draw_figures

    exp_root, results = Path(exp_root), Path(results)
    runs = read_all_scores(exp_root)
    if exp_dir is not None:
        exp_dir = Path(exp_dir)
        if not (exp_dir / "scores.json").is_file():
            raise UserError(f"{exp_dir}/scores.json: no such file; {_score_first()}")
        drawn = [(exp_dir, read_scores(exp_dir / "scores.json"))]
    else:
        drawn = runs
    rows, text = build_results(runs, Path(conf_dir), results.parent)
    figures = []
    for number, (directory, scores) in enumerate(drawn, start=1):
        progress(f"report: figures of {directory.name} ({number} of {len(drawn)})")
        figures += draw_figures(directory, scores)
    with atomic_write(results) as stream:
        stream.write(text)
    print(_summary(rows, results, figures))
    return text


def build_results(
    runs: Sequence[tuple[Path, dict[str, Any]]], conf_dir: Path, directory: Path
) -> tuple[list[Row], str]:
    """The rows over ``runs`` and the text of a RESULTS.md that will stand in ``directory``."""
    rows = group_seeds(runs)
    return rows, format_results(rows, read_stated(conf_dir), directory)


def read_all_scores(exp_root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every <corpus>/<tag>/scores.json below ``exp_root``, in the order of their paths."""
    files = sorted(exp_root.glob("*/*/scores.json"))
    if not files:
        raise UserError(f"{exp_root}: no <corpus>/<tag>/scores.json in it; {_score_first()}")
    return [(path.parent, read_scores(path)) for path in files]


def read_scores(path: Path) -> dict[str, Any]:
    """A scores.json; UserError names the file when it is damaged or of another schema."""
    cure = "write it again: ./run.sh --stage 5 --stop-stage 5 with its --corpus, --config, --tag"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise UserError(f"{path}: not JSON ({err}); {cure}") from None
    found = scores.get("schema") if isinstance(scores, dict) else None
    if found != SCHEMA:
        raise UserError(f"{path}: schema {found}, this version reads {SCHEMA}; {cure}")
    lacking = [key for key in NEEDED if key not in scores]
    if lacking:
        raise UserError(f"{path}: {', '.join(lacking)} not found in it; {cure}")
    return scores


def read_stated(conf_dir: Path) -> list[dict[str, Any]]:
    """What the papers state: each configuration's ``stated`` entry, with the file as ``config``.

    An entry has ``corpus``, ``wa`` and ``ua`` (percent) and optionally ``source`` and
    ``protocol``.
    """
    found = []
    for path in sorted(conf_dir.glob("*.yaml")):
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as err:
            raise UserError(f"{path}: not YAML: {' '.join(str(err).split())}") from None
        stated = config.get("stated") if isinstance(config, dict) else None
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


def group_seeds(runs: Sequence[tuple[Path, dict[str, Any]]]) -> list[Row]:
    """Rows of runs that differ in nothing but the seed, ordered by corpus, protocol and tag."""
    groups: dict[tuple, list[tuple[Path, dict[str, Any]]]] = {}
    for path, scores in runs:
        key = (
            scores["corpus"],
            scores["protocol"],
            _without_seed(scores["tag"], f"_seed{scores['seed']}"),
            _without_seed(scores["command"], f" --seed {scores['seed']}"),
            scores["settings_sha256"],
            tuple(scores["labels"]),
            tuple(scores["folds"]["scored"]),
            tuple(scores["corpus_partial"]),
        )
        groups.setdefault(key, []).append((path, scores))
    # A number sorts after every word, so that seed 10 follows seed 9.
    return [
        Row(sorted(groups[key], key=lambda run: (str(run[1]["seed"]).zfill(12), str(run[0]))))
        for key in sorted(groups)
    ]


def format_results(
    rows: Sequence[Row], stated: Sequence[Mapping[str, Any]], directory: Path
) -> str:
    """The text of RESULTS.md; ``directory`` is where it will stand, for links to figures."""
    parts = [INTRODUCTION, _table(rows), "## Runs\n"]
    parts += [_details(number, row, directory) for number, row in enumerate(rows, start=1)]
    ran = {(Path(row.first["config"]["path"]).name, row.first["corpus"]) for row in rows}
    absent = [s for s in stated if (Path(s["config"]).name, s["corpus"]) not in ran]
    if absent:
        parts.append(_not_run(absent))
    return "\n".join(parts)


def _table(rows: Sequence[Row]) -> str:
    head = [
        "#",
        "System",
        "Corpus",
        "Protocol",
        "Folds",
        "Seeds",
        "WA",
        "UA",
        "WA pooled",
        "UA pooled",
        "PER",
        "UER",
        "Epochs",
        "Stated by the paper (WA / UA)",
        "Commit",
    ]
    lines = [head, ["---"] * len(head)]
    for number, row in enumerate(rows, start=1):
        scores = row.first
        epochs = [v.get("epochs") for _, s in row.runs for v in s["per_fold"].values()]
        lines.append(
            [
                str(number),
                _system(scores),
                scores["corpus"] + (" (**partial**)" if scores["corpus_partial"] else ""),
                scores["protocol"],
                _folds(scores),
                row.joined([s["seed"] for _, s in row.runs]),
                row.cell("summary", "wa"),
                row.cell("summary", "ua"),
                row.cell("summary", "wa_pooled"),
                row.cell("summary", "ua_pooled"),
                row.cell("units", "per"),
                row.cell("units", "uer"),
                _range([e for e in epochs if e]),
                _stated(scores),
                row.joined([s["commit"] for _, s in row.runs]),
            ]
        )
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines) + "\n"


def _details(number: int, row: Row, directory: Path) -> str:
    scores = row.first
    tags = row.joined([f"`{s['tag']}`" for _, s in row.runs])
    lines = [f"### {number}. {_system(scores)} on {scores['corpus']}, {scores['protocol']}\n"]
    lines += [f"Experiment {tags}:\n"]
    lines += ["```sh", *(s["command"] for _, s in row.runs), "```\n"]
    lines += [f"- **Partial**: {note}." for note in partial_notes(scores)]
    spread = [f"WA {row.cell('summary', 'wa_sd')}", f"UA {row.cell('summary', 'ua_sd')}"]
    lines.append(f"- Standard deviation over folds: {', '.join(spread)}.")
    recalls = [f"{label} {row.cell('per_class', label, 'recall')}" for label in scores["labels"]]
    lines.append(f"- Recall, pooled: {', '.join(recalls)}.")
    for path, s in row.runs:
        versions = ", ".join(f"{k} {v}" for k, v in sorted((s.get("versions") or {}).items()))
        seconds = [v.get("train_seconds") for v in s["per_fold"].values()]
        trained = f"; {sum(seconds):.0f} s of training" if all(seconds) else ""
        lines.append(
            f"- Seed {s['seed']}: {s.get('date', '')}, {s.get('hardware', '')}{trained}; "
            f"{versions}.{_figure_link(path, directory)}"
        )
    return "\n".join(lines) + "\n"


def _not_run(absent: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "## Not run here\n",
        "These need a corpus that is not at hand. The numbers are the papers' own.\n",
        "| System | Corpus | Stated by the paper (WA / UA) | Source | Command |",
        "|" + " --- |" * 5,
    ]
    for s in absent:
        command = (
            f"./run.sh --corpus {s['corpus']} --corpus-dir PATH/TO/{s['corpus'].upper()} "
            f"--config {s['config']} --protocol {s.get('protocol', 'paper')}"
        )
        system = Path(s["config"]).stem.removeprefix("train_")
        numbers = f"{s['wa']} / {s['ua']}"
        cells = [system, s["corpus"], numbers, str(s.get("source", "-")), f"`{command}`"]
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
    stated = scores.get("stated")
    if not stated or stated.get("corpus") != scores["corpus"]:
        return ""
    return f"{stated['wa']} / {stated['ua']}"


def _range(epochs: Sequence[int]) -> str:
    if not epochs:
        return "-"
    return str(epochs[0]) if len(set(epochs)) == 1 else f"{min(epochs)}-{max(epochs)}"


def _figure_link(exp_dir: Path, directory: Path) -> str:
    link = Path(os.path.relpath(exp_dir / "figures", directory)).as_posix()
    return "" if link.startswith("..") else f" Figures: [{link}]({link})."


def _dig(scores: Mapping[str, Any], keys: Sequence[str]) -> Any:
    value: Any = scores
    for key in keys:
        value = (value or {}).get(key)
    return value


def _without_seed(text: str, seed: str) -> str:
    return text.replace(seed, "", 1)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _score_first() -> str:
    return "score first: ./run.sh --stage 5 --stop-stage 5 with the same options"


def _summary(rows: Sequence[Row], results: Path, figures: Sequence[Path]) -> str:
    lines = ["", f"Results: {results} ({len(rows)} row{'s' * (len(rows) != 1)})"]
    for row in rows:
        scores = row.first
        lines.append(
            f"  {_system(scores)}, {scores['corpus']}, {scores['protocol']}: "
            f"WA {row.cell('summary', 'wa')}  UA {row.cell('summary', 'ua')}"
            + ("  (PARTIAL)" if scores["partial"] else "")
        )
    for directory in dict.fromkeys(path.parent for path in figures):
        names = ", ".join(path.name for path in figures if path.parent == directory)
        lines.append(f"Figures: {directory}/ ({names})")
    return "\n".join(lines)
