"""Estimate a corpus' number of folds from its corpus.yaml alone, before stage 3 makes them."""

from typing import Any

from ser.data.folds import num_groups, num_parts


def expected_folds(spec: Any, protocol: str) -> int:
    """Number of folds that stage 3 will make of a corpus, from its corpus.yaml (``load_spec``).

    Too high a number does no harm, since a task without a fold ends at once; with too low a number
    a task trains several folds. So the result is 1 if corpus.yaml does not determine it.
    """
    parts = num_parts(protocol)
    if parts is not None:
        return parts
    groups = num_groups(protocol)
    if protocol == "session":
        return len(spec.sessions or spec.counts.session or [None])
    return len(spec.counts.speaker or [None]) * (groups or 1)
