"""How the folds of stage 4 are shared out among the tasks of a job array.

``ser.bin.train --share K/N`` trains every N-th pair of experiment and fold, beginning with the
K-th: one fold of one seed for each task where there are as many tasks as pairs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ser.folds import num_groups, num_parts

T = TypeVar("T")


def expected_folds(spec: Mapping[str, Any], protocol: str) -> int:
    """How many folds stage 3 will make of a corpus, given its corpus.yaml (``load_spec``).

    Too many do no harm, since a task without a fold ends at once, and with too few a task trains
    several. So a corpus.yaml that does not say gives 1.
    """
    parts = num_parts(protocol)
    if parts is not None:
        return parts
    counts = spec["counts"]
    groups = num_groups(protocol)
    if protocol == "session":
        return len(spec.get("sessions") or counts.get("session") or [None])
    return len(counts.get("speaker") or [None]) * (groups or 1)


def task_of(
    experiment: T, fold: str, experiments: Sequence[T], folds: Sequence[str], tasks: int
) -> int:
    """The task, from 1 to ``tasks``, that trains ``fold`` of ``experiment``.

    ``experiments`` and ``folds`` are all of the array's, in its order. Raises ValueError if it
    trains no such pair.
    """
    position = experiments.index(experiment) * len(folds) + folds.index(fold)
    return position % tasks + 1
