"""Input of figures and pages: the results of stages 4 and 5 in one experiment."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ser.data.tables import read_table
from ser.errors import UserError
from ser.scoring.predictions import ERROR_COLUMNS
from ser.scoring.records import SCORE_FIRST, read_scores
from ser.scoring.text import mark
from ser.training.experiment import PHASES, Experiment, open_experiment, read_run

# One fold's epochs: epoch (up to 0 before the main training), phase, train, valid.
History = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class WrongDecision:
    """A line of errors.tsv; ``sure`` and ``missed``: probability of hypothesis and reference."""

    utt_id: str
    ref: str
    hyp: str
    sure: float
    missed: float
    wav: str
    own_id: str


@dataclass
class ReportInput:
    """One experiment with its scores; everything else is read lazily."""

    exp_dir: Path
    dump_dir: Path
    data_dir: Path
    scores: dict[str, Any]

    @property
    def name(self) -> str:
        """The tag."""
        return self.scores["tag"]

    @property
    def title(self) -> str:
        """The tag with its marks, for everything shown of the experiment."""
        marks = [mark(self.scores), "PARTIAL" if self.scores["partial"] else ""]
        return self.name + "".join(f" ({text})" for text in marks if text)

    @property
    def heading(self) -> str:
        """System, corpus, protocol and folds, for figures in files."""
        s, folds = self.scores, self.scores["folds"]
        count = f"{len(folds['expected'])} folds"
        if folds["missing"]:
            count = f"{len(folds['scored'])} of {count}, partial"
        elif s["partial"]:
            count += ", partial corpus"
        kind = ", ".join(filter(None, (s["protocol"], mark(s), count)))
        return f"{s['system']} on {s['corpus']} ({kind})"

    @property
    def kind(self) -> str | None:
        """Single or multi-task, in words; None if unknown, as with copied scores."""
        run = read_run(self.exp_dir) if (self.exp_dir / "run.yaml").is_file() else {}
        settings = run.get("settings") or {}
        if "data" not in settings and "aux_conf" not in settings:
            return None
        conf = settings.get("aux_conf") or {}
        heads = [name for name, head in conf.items() if (head or {}).get("weight", 1.0)]
        return f"multi-task: emotion + {', '.join(heads)}" if heads else "single task"

    @cached_property
    def histories(self) -> dict[str, History]:
        """Epochs of the scored folds that have a history.json."""
        return read_histories(self.exp_dir, self.scores["folds"]["scored"])

    def layer_weights(self) -> dict[str, list[float]]:
        """Fusion weights after training, by fold; empty without a fusion."""
        found = {fold: final_layer_weights(h) for fold, h in self.histories.items()}
        found = {fold: weights for fold, weights in found.items() if weights}
        return found if len({len(w) for w in found.values()}) == 1 else {}

    def layer_names(self) -> list[str]:
        """Names of the fused layers, from the input up."""
        weights = self.layer_weights()
        path = self.exp_dir / next(iter(weights), "") / "config.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        low = ((config or {}).get("frontend_conf") or {}).get("low_level", True)
        count = len(next(iter(weights.values()), ()))
        return ["low-level" if low and i == 0 else f"layer {i + (not low)}" for i in range(count)]

    @cached_property
    def errors(self) -> list[WrongDecision]:
        """The wrong decisions, the most confident first.

        Raises:
            UserError: errors.tsv is absent, malformed, or not of these scores.
        """
        path = self.exp_dir / "errors.tsv"
        cure = "write it again: ./run.sh --stage 5 --stop-stage 5 with the same options"
        if not path.is_file():
            raise UserError(f"{path.name}: no such file in the experiment; {cure}")
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        if lines[0].split("\t") != ERROR_COLUMNS:
            raise UserError(f"{path.name}:1: expected {' '.join(ERROR_COLUMNS)}; {cure}")
        found = []
        for number, line in enumerate(lines[1:], start=2):
            try:
                utt_id, ref, hyp, sure, missed, *rest = line.split("\t")
                found.append(WrongDecision(utt_id, ref, hyp, float(sure), float(missed), *rest))
            except (ValueError, TypeError):
                raise UserError(f"{path.name}:{number}: malformed; {cure}") from None
        counts = self.scores["confusion"]["counts"]
        wrong = sum(n for i, row in enumerate(counts) for j, n in enumerate(row) if i != j)
        if len(found) != wrong:
            raise UserError(
                f"{path.name}: {len(found)} wrong decisions, scores.json has {wrong}; {cure}"
            )
        return found

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment with its data; UserError if these are missing or have changed."""
        return open_experiment(self.exp_dir, self.dump_dir)

    @cached_property
    def own_ids(self) -> dict[str, str]:
        """The corpus's own ids; empty if its dump is not available."""
        table = self.dump_dir / "utt2orig"
        return read_table(table) if table.is_file() else {}

    def fold_of(self, utt_id: str) -> str | None:
        """The scored fold that tests an utterance; None if none does."""
        folds = self.scores["folds"]["scored"]
        return next((f for f in folds if utt_id in self.experiment.references(f)), None)


def read_input(
    exp_dir: Path, dump_dir: Path | None = None, data_dir: Path | None = None
) -> ReportInput:
    """Open the experiment in ``exp_dir``; its data are looked up next to ``exp/`` unless given.

    Raises:
        UserError: it has no scores.json, or an inconsistent one.
    """
    path = exp_dir / "scores.json"
    if not path.is_file():
        what = "no such directory" if not exp_dir.is_dir() else "not scored"
        raise UserError(f"{path}: {what}; {SCORE_FIRST}, or give exp/<corpus>/<tag>")
    scores = read_scores(path)
    root = exp_dir.resolve().parents[2]
    dump_dir = dump_dir or root / "dump" / scores["corpus"]
    return ReportInput(exp_dir, dump_dir, data_dir or root / "data" / scores["corpus"], scores)


def read_histories(exp_dir: Path, folds: Sequence[str]) -> dict[str, History]:
    """Read history.json of every fold that has one, preceded by those of its earlier phases.

    Raises:
        UserError: one of the files is not a readable list of epochs.
    """
    histories = {}
    for fold in folds:
        if not (exp_dir / fold / "history.json").is_file():
            continue
        before: list[dict[str, Any]] = []
        for phase in PHASES:
            path = exp_dir / fold / phase / "history.json"
            before += _read_epochs(path, fold, phase) if path.is_file() else []
        for number, entry in enumerate(before, start=1 - len(before)):
            entry["epoch"] = number
        histories[fold] = before + _read_epochs(exp_dir / fold / "history.json", fold)
    return {fold: history for fold, history in histories.items() if history}


def _read_epochs(path: Path, fold: str, phase: str = "") -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = [
            {
                "epoch": int(entry["epoch"]),
                "phase": phase,
                "train": entry.get("train") or {},
                "valid": entry.get("valid") or {},
            }
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise UserError(
            f"{path}: not a list of epochs ({err}); remove it to draw without this fold, "
            f"or train the fold again: ./run.sh --stage 4 --folds {fold}"
        ) from None
    return sorted(found, key=lambda entry: entry["epoch"])


def curve(
    history: History, split: str, key: str, scale: float = 1, phase: str = ""
) -> dict[int, float]:
    """Epoch -> value of one fold in one phase, without values that are not finite."""
    return {
        entry["epoch"]: scale * float(entry[split][key])
        for entry in history
        if entry["phase"] == phase
        and key in entry[split]
        and math.isfinite(float(entry[split][key]))
    }


def final_layer_weights(history: History) -> list[float]:
    """layer_weight_0, layer_weight_1 ... of the last epoch; empty without a fusion."""
    values = {**history[-1]["valid"], **history[-1]["train"]}
    weights = []
    while (key := f"layer_weight_{len(weights)}") in values:
        weights.append(float(values[key]))
    return weights
