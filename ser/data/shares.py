"""How many folds a corpus will have, from its corpus.yaml alone, before stage 3 has made them."""

from typing import Any

from ser.data.folds import num_groups, num_parts


def expected_folds(spec: Any, protocol: str) -> int:
    """How many folds stage 3 will make of a corpus, given its corpus.yaml (``load_spec``).

    Too many do no harm, since a task without a fold ends at once, and with too few a task trains
    several. So a corpus.yaml that does not say gives 1.
    """
    parts = num_parts(protocol)
    if parts is not None:
        return parts
    groups = num_groups(protocol)
    if protocol == "session":
        return len(spec.sessions or spec.counts.session or [None])
    return len(spec.counts.speaker or [None]) * (groups or 1)
