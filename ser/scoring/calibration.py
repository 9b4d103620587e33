"""Calibration: how often decisions of a given confidence are right.

The confidence of a decision is the probability of the emotion decided for. Expected calibration
error (Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3): decisions are put into
bins of equal width by confidence; ECE is the mean over all decisions of the distance between
their bin's accuracy and mean confidence. With few decisions in a bin, chance alone keeps it above
0: a number from 300 utterances is to be compared only with others from as many.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ser.scoring.predictions import Prediction, confidence

BINS = 10


def calibration(
    predictions: Sequence[Prediction], labels: Sequence[str], bins: int = BINS
) -> dict[str, Any]:
    """ECE, mean confidence and accuracy, as fractions, and each bin's share in them.

    Args:
        predictions: of all folds together; not empty.
        labels: the emotions, in the order of the probabilities.
        bins: how many, of equal width. A bin holds its upper edge, not its lower one.

    Returns:
        ``ece``, ``confidence``, ``accuracy`` and ``bins``: a list of ``low``, ``high``, ``n``,
        ``confidence`` and ``accuracy``, both None in an empty bin.
    """
    sure = np.array([confidence(p, labels) for p in predictions])  # (N,)
    right = np.array([p.ref == p.hyp for p in predictions], dtype=float)  # (N,)
    # Six decimals are what predictions.tsv holds: 0.3 must not land above 3 / 10.
    where = np.clip(np.ceil(np.round(sure * bins, 6)).astype(int) - 1, 0, bins - 1)
    table, ece = [], 0.0
    for i in range(bins):
        inside = where == i
        n = int(inside.sum())
        entry = {"low": i / bins, "high": (i + 1) / bins, "n": n}
        entry |= {"confidence": None, "accuracy": None}
        if n:
            entry["confidence"] = float(sure[inside].mean())
            entry["accuracy"] = float(right[inside].mean())
            ece += n / len(sure) * abs(entry["accuracy"] - entry["confidence"])
        table.append(entry)
    return {
        "ece": ece,
        "confidence": float(sure.mean()),
        "accuracy": float(right.mean()),
        "bins": table,
    }
