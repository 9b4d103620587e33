"""Rows of the results tables: the same experiment under one or more seeds."""

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ser.console import duration, percent
from ser.data.folds import mean_over
from ser.scoring.metrics import mean_sd
from ser.scoring.records import Run
from ser.scoring.text import decision_rows, differing, interval, parameter_count
from ser.scoring.uncertainty import from_decisions, score_intervals

FLOOR = re.compile(r"(?:^|_)s(?:0|14)(?:_|$)")  # linear classifiers, which all others should beat


@dataclass
class Row:
    """One line of the table: the same experiment under one or more seeds."""

    runs: list[Run]  # by seed

    @property
    def first(self) -> dict[str, Any]:
        """Scores of the lowest seed, used for everything that does not depend on the seed."""
        return self.runs[0][1]

    @property
    def name(self) -> str:
        """The system, and as code its differences from the configuration."""
        changed = differing(self.first)
        return system_name(self.first) + (f" `{changed}`" if changed else "")

    @property
    def is_floor(self) -> bool:
        """Whether it is a linear classifier on fixed features (S0, S14)."""
        return bool(FLOOR.search(self.first["system"]))

    def cell(self, *keys: str) -> str:
        """Format a number of scores.json in percent, over the seeds."""
        values = []
        for _, value in self.runs:
            for key in keys:
                value = (value or {}).get(key)
            values.append(value)
        if any(value is None for value in values):
            return "-"
        mean, sd = mean_sd(values)
        return percent(mean) if sd is None else f"{percent(mean)} ± {percent(sd)}"

    @cached_property
    def intervals(self) -> dict[str, np.ndarray | None]:
        """95% intervals of the mean over the seeds, (1, 2) each, as fractions."""
        decisions = [scores["speakers"] for _, scores in self.runs]
        classes, protocol = len(self.first["labels"]), self.first["protocol"]
        return score_intervals(from_decisions(decisions, classes, protocol))

    def interval(self, name: str) -> str:
        """The 95% interval of ``wa`` or ``ua``, in percent."""
        bounds = self.intervals[name]
        return interval(None if bounds is None else bounds[0])

    def scored(self, name: str) -> str:
        """``wa`` or ``ua`` with its interval, such as ``75.0 [70.1 to 79.9]``."""
        return f"{self.cell('summary', name)} [{self.interval(name)}]"

    def in_percent(self, name: str) -> tuple[float, float, float]:
        """Mean over the seeds, low and high; all three are the mean without an interval."""
        mean = self.mean(name)
        bounds = self.intervals[name]
        low, high = (mean, mean) if bounds is None else map(float, bounds[0])
        return 100 * mean, 100 * low, 100 * high

    def mean(self, name: str) -> float:
        """Mean ``wa`` or ``ua`` over the seeds, as a fraction."""
        return float(np.mean([scores["summary"][name] for _, scores in self.runs]))

    def fold_spread(self, name: str) -> str:
        """Standard deviation over folds of ``wa`` or ``ua``, of the mean over seeds."""
        if mean_over(self.first["protocol"]) != "folds":
            return "-"
        folds = [[f[name] for f in s["per_fold"].values()] for _, s in self.runs]  # seeds, folds
        return percent(mean_sd([mean_sd(values)[0] for values in zip(*folds, strict=True)])[1])

    def seed_spread(self, name: str) -> str:
        """Standard deviation over seeds of ``wa`` or ``ua``."""
        return percent(mean_sd([scores["summary"][name] for _, scores in self.runs])[1])

    def decisions(self) -> list[list[str]]:
        """Rows of decisions other than the emotion head's, if all seeds have the same ones."""
        found = [scores["decisions"] for _, scores in self.runs]
        if not all(own and own.keys() == found[0].keys() for own in found):
            return []
        return decision_rows([scores for _, scores in self.runs])[2:]

    def joined(self, *keys: str) -> str:
        """Distinct values of an entry of scores.json over the seeds."""
        found = [scores for _, scores in self.runs]
        for key in keys:
            found = [value[key] for value in found]
        return ", ".join(dict.fromkeys(map(str, found)))

    def parameters(self) -> str:
        """Number of parameters, and in brackets the number of trained ones if fewer."""
        counts = [parameter_count(scores["parameters"]) for _, scores in self.runs]
        return ", ".join(dict.fromkeys(counts))

    def training(self) -> str:
        """Training time of all folds, averaged over seeds."""
        return duration([scores["train_seconds"] for _, scores in self.runs])

    def epochs(self) -> str:
        """Range of the number of epochs over folds."""
        found = [v.get("epochs") for _, s in self.runs for v in s["per_fold"].values()]
        found = sorted({epochs for epochs in found if epochs})
        return "-".join(map(str, dict.fromkeys((found[0], found[-1])))) if found else "-"


def group_seeds(runs: Sequence[Run]) -> list[Row]:
    """Group runs that differ only in the seed into rows, by corpus, protocol and tag.

    A second run with the same seed, such as a copy of an experiment, begins another row.
    Within a corpus and protocol the floor comes first.
    """
    groups: dict[tuple, list[Run]] = {}
    found: Counter[tuple] = Counter()  # runs by row and seed
    for path, scores in runs:
        command = scores["command"].replace(f" --tag {shlex.quote(scores['tag'])}", "", 1)
        key = (
            scores["corpus"],
            scores["protocol"],
            scores["tag"].replace(f"_seed{scores['seed']}", "", 1),
            command.replace(f" --seed {scores['seed']}", "", 1),
            scores["settings_sha256"],
            tuple(scores["labels"]),
            tuple(scores["folds"]["scored"]),
            tuple(scores["corpus_partial"]),
            tuple(scores["leaky"]),
            scores["test_sha256"],
        )
        found[key, scores["seed"]] += 1
        groups.setdefault((*key, found[key, scores["seed"]]), []).append((path, scores))
    # A number sorts after every word, so that seed 10 follows seed 9.
    rows = [
        Row(sorted(groups[key], key=lambda run: (str(run[1]["seed"]).zfill(12), str(run[0]))))
        for key in sorted(groups)
    ]
    order = {"corpus": 0, "protocol": 1}
    return sorted(rows, key=lambda row: (*(row.first[key] for key in order), not row.is_floor))


def system_name(scores: Mapping[str, Any]) -> str:
    """The name of the configuration, with that of the encoder."""
    ssl = scores.get("ssl")
    return scores["system"] + (f" ({Path(ssl.rstrip('/')).name})" if ssl else "")
