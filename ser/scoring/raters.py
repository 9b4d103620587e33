"""Probabilities and decisions compared with the individual raters' labels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ser.scoring.predictions import Prediction

LEAST = 5e-7  # probability floor, since predictions.tsv has six decimals


def kl(q: np.ndarray, p: np.ndarray) -> np.ndarray:
    """KL(q || p) in nats over the last axis; ``p`` is above 0 where ``q`` is."""
    return (q * np.log(np.where(q > 0, q, 1) / np.where(q > 0, p, 1))).sum(axis=-1)


def jsd(q: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in nats, at most log 2 (Lin, 1991)."""
    middle = (q + p) / 2
    return (kl(q, middle) + kl(p, middle)) / 2


def score_raters(
    rows: Iterable[Prediction], raters: Mapping[str, np.ndarray], labels: Sequence[str]
) -> dict[str, Any] | None:
    """Compute the entry ``raters`` of scores.json; ``raters`` comes from ``read_raters``."""
    if not (told := [row for row in rows if row.utt_id in raters]):
        return None
    q = np.stack([raters[row.utt_id] for row in told])  # (N, C)
    p = np.array([row.probs for row in told]).clip(min=LEAST)
    said = q[np.arange(len(told)), [labels.index(row.hyp) for row in told]]
    return {
        "n": len(told),
        "divided": float(((q > 0).sum(axis=1) > 1).mean()),
        "kl": float(kl(q, p).mean()),
        "jsd": float(jsd(q, p).mean()),
        "any_rater": float((said > 0).mean()),
    }
