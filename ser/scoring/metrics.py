"""Metrics: confusion matrix, accuracy, precision, recall, F1; fractions.

A division by zero is undefined, None: recall of a class without reference utterances, precision of
a class that is never predicted, F1 of one that is neither. (This is scikit-learn with
``zero_division=np.nan``.) Means exclude undefined values, except for the precision of a class with
utterances that is never predicted: it counts as 0, as in scikit-learn's default, since predicting
fewer classes would otherwise pay. F1 of such a class is 0 anyway: it is 2 TP / (2 TP + FP + FN).
"""

from collections.abc import Sequence

import numpy as np

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"  # classes in decision strings


def confusion_matrix(refs: Sequence[str], hyps: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Counts (C, C): rows are references, columns decisions, in the order of ``labels``."""
    index = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for ref, hyp in zip(refs, hyps, strict=True):
        counts[index[ref], index[hyp]] += 1
    return counts


def accuracy(counts: np.ndarray) -> float:
    """Correct decisions over all (eq. 8), from a confusion matrix (C, C)."""
    return float(np.trace(counts) / counts.sum())


def recalls(counts: np.ndarray) -> list[float | None]:
    """Each class's recall from a confusion matrix (C, C); None for a class without utterances."""
    return [
        float(row[i] / row.sum()) if row.sum() else None  # (C,) -> a fraction
        for i, row in enumerate(counts)
    ]


def precisions(counts: np.ndarray) -> list[float | None]:
    """Each class's precision from a confusion matrix (C, C); None for one never predicted."""
    return recalls(counts.T)


def macro_precision(counts: np.ndarray) -> float:
    """Mean precision over the classes in a row or column of a confusion matrix (C, C)."""
    totals = counts.sum(axis=1) + counts.sum(axis=0)  # (C,)
    by_class = zip(precisions(counts), totals, strict=True)
    return mean_defined([value or 0.0 for value, total in by_class if total])


def f1_scores(counts: np.ndarray) -> list[float | None]:
    """Each class's F1 from a confusion matrix (C, C); None for one in no row or column."""
    totals = counts.sum(axis=1) + counts.sum(axis=0)  # (C,): 2 TP + FN + FP
    return [float(2 * counts[i, i] / total) if total else None for i, total in enumerate(totals)]


def mean_defined(values: Sequence[float | None]) -> float:
    """Mean of the values that are not None, at least one."""
    return float(np.mean([value for value in values if value is not None]))


def absent(counts: np.ndarray, labels: Sequence[str]) -> list[str]:
    """The classes without utterances in a confusion matrix (C, C)."""
    return [label for label, n in zip(labels, counts.sum(axis=1), strict=True) if not n]


def unweighted_accuracy(counts: np.ndarray) -> float:
    """Mean recall over the classes that have utterances (the inner mean of eq. 10)."""
    return mean_defined(recalls(counts))


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); no deviation for a single value."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), sd
