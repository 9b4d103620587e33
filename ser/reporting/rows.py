"""Rows of the results tables: the same experiment under one or more seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ser.console import percent
from ser.data.folds import mean_over
from ser.scoring.metrics import mean_sd
from ser.scoring.records import Run
from ser.scoring.text import interval
from ser.scoring.uncertainty import from_decisions, score_intervals


@dataclass
class Row:
    """One line of the table: the same experiment under one or more seeds."""

    runs: list[Run]  # by seed

    @property
    def first(self) -> dict[str, Any]:
        """The scores of the lowest seed; what does not depend on the seed is read from here."""
        return self.runs[0][1]

    def cell(self, *keys: str) -> str:
        """A number of scores.json in percent, over the seeds."""
        values = [dig(scores, keys) for _, scores in self.runs]
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

    def fold_spread(self, name: str) -> str:
        """Standard deviation over folds of ``wa`` or ``ua``, of the mean over seeds."""
        if mean_over(self.first["protocol"]) != "folds":
            return "-"
        folds = [[f[name] for f in s["per_fold"].values()] for _, s in self.runs]  # seeds, folds
        return percent(mean_sd([mean_sd(values)[0] for values in zip(*folds, strict=True)])[1])

    def joined(self, values: Sequence[Any]) -> str:
        """Distinct values in order of appearance."""
        return ", ".join(dict.fromkeys(map(str, values)))


def dig(scores: Mapping[str, Any], keys: Sequence[str]) -> Any:
    value: Any = scores
    for key in keys:
        value = (value or {}).get(key)
    return value


def group_seeds(runs: Sequence[Run]) -> list[Row]:
    """Rows of runs that differ in nothing but the seed, ordered by corpus, protocol and tag."""
    groups: dict[tuple, list[Run]] = {}
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
            tuple(scores["leaky"]),
            scores["test_sha256"],
        )
        groups.setdefault(key, []).append((path, scores))
    # A number sorts after every word, so that seed 10 follows seed 9.
    return [
        Row(sorted(groups[key], key=lambda run: (str(run[1]["seed"]).zfill(12), str(run[0]))))
        for key in sorted(groups)
    ]


def _without_seed(text: str, seed: str) -> str:
    return text.replace(seed, "", 1)
