"""Calibration: how often decisions of a given confidence are right; and the raters' own labels.

The confidence of a decision is the probability of the predicted emotion. Expected calibration error
(Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3): decisions are grouped by
confidence into bins of equal width; ECE is the mean over all decisions of the distance between
their bin's accuracy and mean confidence. With few decisions in a bin, chance alone keeps it above
0: a value from 300 utterances is only comparable with others from as many.

Two proper scores are added, the negative log-likelihood and the Brier score (1950), and how well
confidence separates right from wrong: when the least confident decisions are rejected, *coverage*
is the fraction that remains, *risk* the fraction of these that are wrong. AURC is the mean risk
over all coverages k / N (Geifman and El-Yaniv 2017, Selective Classification for Deep Neural
Networks); if abstention is random, it is the error rate.

Temperature scaling (Guo et al.) divides the logits of a fold's model by T, which is fitted to the
fold's validation speakers. Decisions do not change. The objective is their summed negative
log-likelihood plus (ln T)^2 / (2 s^2) with s = ln 2, a normal prior of ln T around 0: with few
utterances that are all recognised the likelihood alone would drive T to zero.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ser.scoring.predictions import Prediction, confidence

BINS = 10
COVERAGES = 20  # at which the risk is recorded
LEAST = 5e-7  # smaller probabilities are rounded to 0 in predictions.tsv
TEMPERATURES = (0.01, 100.0)
PRIOR = np.log(2)  # standard deviation of ln T


def calibration(predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, Any]:
    """Compute ECE, mean confidence and accuracy, as fractions, overall and per bin.

    Args:
        predictions: Those of all folds together; not empty.
        labels: The emotions, in the order of the probabilities.

    Returns:
        ``ece``, ``confidence``, ``accuracy`` and ``bins``, of equal width: a list of ``low``, which
        a bin excludes, ``high``, ``n``, ``confidence`` and ``accuracy``, both None in an empty bin;
        ``nll``, ``brier`` (0 to 2), ``aurc``, and ``risk`` at coverages of 1 / COVERAGES,
        2 / COVERAGES ... 1.
    """
    sure = np.array([confidence(p, labels) for p in predictions])  # (N,)
    right = np.array([p.ref == p.hyp for p in predictions], dtype=float)  # (N,)
    # Rounded to the six decimals of predictions.tsv: 0.3 must not land above 3 / 10.
    where = np.clip(np.ceil(np.round(sure * BINS, 6)).astype(int) - 1, 0, BINS - 1)
    table, ece = [], 0.0
    for i in range(BINS):
        inside = where == i
        n = int(inside.sum())
        entry = {"low": i / BINS, "high": (i + 1) / BINS, "n": n}
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
        **proper_scores(predictions, labels),
        **_selective(sure, right),
    }


def proper_scores(predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, float]:
    """``nll``, mean of -ln p(reference), and ``brier``, mean of sum_c (p_c - [c = ref])^2."""
    probs = np.array([p.probs for p in predictions])  # (N, C)
    refs = np.array([labels.index(p.ref) for p in predictions])  # (N,)
    own = probs[np.arange(len(refs)), refs]
    errors = np.square(probs - np.eye(len(labels))[refs]).sum(axis=1)
    return {"nll": float(-np.log(own.clip(min=LEAST)).mean()), "brier": float(errors.mean())}


def _selective(sure: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """``aurc`` and ``risk``; ties in confidence are averaged, as over random orders."""
    _, group = np.unique(-np.round(sure, 6), return_inverse=True)  # the most confident first
    wrong = np.bincount(group, weights=1 - right) / np.bincount(group)
    risk = np.cumsum(wrong[np.sort(group)]) / np.arange(1, len(sure) + 1)  # (N,)
    shares = np.arange(1, COVERAGES + 1) / COVERAGES
    kept = np.ceil(np.round(shares * len(risk), 6)).astype(int)
    return {"aurc": float(risk.mean()), "risk": risk[kept - 1].clip(0, 1).tolist()}


def fit_temperature(predictions: Sequence[Prediction], labels: Sequence[str]) -> float:
    """Fit T to predictions of a fold's validation utterances."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logp = np.log(np.clip([p.probs for p in predictions], LEAST, None))  # (N, C)
    own = np.arange(len(logp)), [labels.index(p.ref) for p in predictions]

    def loss(log_t: float) -> float:
        return log_t**2 / (2 * PRIOR**2) - log_softmax(logp / np.exp(log_t), axis=1)[own].sum()

    bounds = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def scaled(
    folds: Mapping[str, Sequence[Prediction]],
    labels: Sequence[str],
    temperatures: Mapping[str, float | None],
) -> dict[str, Any] | None:
    """Scores of ``calibration`` with each fold's probabilities at its temperature.

    Returns:
        The scores and ``temperature`` by fold; None if a fold has no temperature.
    """
    if not all(temperatures.get(fold) for fold in folds):
        return None
    rows = [_at(p, temperatures[fold]) for fold, predictions in folds.items() for p in predictions]
    found = calibration(rows, labels)
    return {key: found[key] for key in ("ece", "confidence", "nll", "brier", "aurc", "risk")} | {
        "temperature": {fold: temperatures[fold] for fold in folds}
    }


def _at(prediction: Prediction, temperature: float) -> Prediction:
    """softmax(log p / T)."""
    powers = np.clip(prediction.probs, LEAST, None) ** (1 / temperature)
    return replace(prediction, probs=tuple((powers / powers.sum()).tolist()))


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
