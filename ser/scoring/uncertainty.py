"""Uncertainty of scores over speakers: bootstrap over speakers, McNemar's test.

Utterances of one speaker are correlated, so a score of 5,531 utterances of 10 speakers is known
about as well as a mean of 10 values. Therefore speakers are resampled.

**Interval of a score.** Draw as many speakers as there are, with replacement, then each drawn
speaker's utterances, with replacement; the standard deviation of a score over such replicates is
its standard error, and the interval is the score plus and minus Student's t quantile (speakers
minus 1 degrees of freedom) times it, clipped to 0 and 1. Folds keep their utterances, so WA and UA
remain means over folds. Coverage of the 95% interval of WA in 1,500 simulated corpora each, whose
speakers differ by a logit-normal effect, compared with that of the 2.5 and 97.5 percentiles of the
same replicates (simulation error 0.6; UA and the pooled scores agree within 0.2; tests repeat the
first and the last row):

                                                                        here   percentiles
    10 speakers, 36 utterances each, WA 86, sd over speakers 11 points   95.2   93.1
    10 speakers, 552 each (IEMOCAP's size), WA 72, sd 7                  95.5   92.1
    10 speakers, 40 each, WA 66, sd 16                                   95.6   93.3
    10 speakers, 40 each, WA 95, sd 6                                    93.6   91.8
    20 speakers, 36 each, WA 86, sd 11                                   96.1   95.1
     5 speakers, 1,100 each, WA 72, sd 6                                 94.6   84.1
     4 speakers, 600 each, WA 71, sd 10                                  93.6   81.9
    10 speakers, 36 each, WA 86, sd 13: a few much worse than most       92.1   90.1
    10 speakers who do not differ at all, 36 each, WA 90                 99.5   99.1

Percentile, basic and BCa intervals are too short for few speakers. Hesterberg's expanded
percentiles reach 91 with four speakers; the bootstrap-t interval keeps its level but is three times
as long there. The interval used here is conservative if speakers hardly differ, since drawing
utterances counts their noise a second time; near 100% it errs on one side: the truth lies below
the interval more often (6.3% for the fourth row) than above it.

**Interval and p-value of a difference.** Both systems use the same drawn speakers. Only speakers
are drawn: if two systems differ equally for every speaker, drawing utterances as well would double
the variance (0.1% rejections at 5% under the null, simulated). The standard error is multiplied by
sqrt(S / (S - 1)) for S speakers, which makes that of a mean over speakers unbiased, and the
p-value is Student's with S - 1 degrees of freedom: 4.0 to 5.4% rejections at 5% under the null
with 4 to 10 speakers. For a mean over speakers it is the paired t-test.

**Known speakers.** Under a protocol whose models are tested on their training speakers (kfold), no
resampling of these speakers shows how others would fare. There, each speaker's utterances are
drawn and the speakers are fixed: the interval is for other utterances of these speakers. The
standard error of a score, and of a difference, is multiplied by sqrt(N / (N - S)) for N utterances,
with N - S degrees of freedom: with equally many utterances of each speaker this is the t interval,
or the paired t-test, of a stratified sample. In 2,000 simulated test sets of 36 utterances of each
speaker, 95% intervals of WA held in 94.1% for 10 speakers (WA 89) and in 95.3% for 4 (WA 87); a
test repeats the first. Utterances are assumed to be independent here, so an interval is too short
if some are alike, such as a repeated sentence.

Seeds: with several, an utterance counts as right by the fraction of seeds that had it right. An
interval then holds for the mean over these seeds; their spread is reported beside it.

Davison and Hinkley (1997), Bootstrap Methods and their Application, 3.8: resampling of clusters;
Hesterberg (2015), What Teachers Should Know about the Bootstrap, The American Statistician 69(4).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ser.data.folds import caveat, mean_over

LEVEL = 0.95
REPLICATES = 5000
TINY = 1e-12  # a spread below it is rounding
METHOD = "bootstrap of speakers, then their utterances; Student's t"
METHOD_KNOWN = "bootstrap of each speaker's utterances; Student's t"
# The stream of RandomState is frozen (NEP 19), that of Generator is not: equal scores must give
# equal intervals with any version of NumPy.
SEED = 20240319


@dataclass(frozen=True)
class Trials:
    """Decisions of V systems (or one) on N utterances with C classes.

    Attributes:
        speaker: Speaker of each utterance, (N,), from 0.
        label: Reference class, (N,), from 0 to C - 1.
        fold: Fold in which each system was tested on it, (N, V), from 0; WA and UA are means over
            folds. With crossed folds, the speaker.
        right: 1 if the system predicted the reference, else 0, (N, V); with several seeds the
            fraction that did.
        classes: C, including classes without utterances.
        known: The systems were trained on these speakers too, so that utterances are drawn and
            speakers are not.
    """

    speaker: np.ndarray
    label: np.ndarray
    fold: np.ndarray
    right: np.ndarray
    classes: int
    known: bool = False

    @property
    def speakers(self) -> int:
        """Number of speakers."""
        return len(np.unique(self.speaker))

    @property
    def degrees(self) -> int:
        """Degrees of freedom of a standard error, which is undefined below 1."""
        return len(self.speaker) - self.speakers if self.known else self.speakers - 1


Measured = dict[str, np.ndarray]  # wa, ua, wa_pooled, ua_pooled: (B, V); recall: (B, V, C)


def measure(trials: Trials) -> Measured:
    """Scores of the trials themselves, as one replicate (B = 1) in the format of ``bootstrap``."""
    table = _Table(trials)
    return table.scores(table.counts[None], np.ones((1, table.num_speakers), dtype=np.int64))


def bootstrap(trials: Trials, utterances: bool = True, replicates: int = REPLICATES) -> Measured:
    """Scores of ``replicates`` samples of speakers, drawn with replacement.

    Args:
        trials: The decisions. Known speakers are taken once each instead of being drawn.
        utterances: Draw the utterances within each drawn speaker as well; a speaker drawn k
            times gives k times as many utterances. If False, speakers keep their utterances.
        replicates: B.

    Returns:
        ``wa``, ``ua``, ``wa_pooled``, ``ua_pooled`` (B, V) and ``recall`` (B, V, C), NaN for a
        class that a replicate lacks. Equal trials give equal replicates.
    """
    table = _Table(trials)
    random = np.random.RandomState(SEED)
    speakers = table.num_speakers
    if trials.known:
        times = np.ones((replicates, speakers), dtype=np.int64)  # (B, S)
    else:
        times = random.multinomial(speakers, np.full(speakers, 1 / speakers), size=replicates)
    totals = np.empty((replicates, len(table.counts)), dtype=np.int64)  # (B, T)
    for s, kinds in enumerate(table.kinds_of):
        counts = table.counts[kinds]
        if not utterances:
            totals[:, kinds] = times[:, s, None] * counts
            continue
        for k in np.unique(times[:, s]):
            which = np.flatnonzero(times[:, s] == k)
            drawn = random.multinomial(k * counts.sum(), counts / counts.sum(), size=len(which))
            totals[np.ix_(which, kinds)] = drawn
    return table.scores(totals, times)


def score_intervals(trials: Trials, replicates: int = REPLICATES) -> dict[str, np.ndarray | None]:
    """95% intervals of WA and UA, mean over folds and pooled: (V, 2) each, as fractions.

    None for all scores with a single speaker (or a single utterance of each known speaker), for a
    score if all decisions are right or all wrong, and for UA if all decisions are for one class:
    the uncertainty is then unknown, not zero.
    """
    names = ("wa", "ua", "wa_pooled", "ua_pooled")
    if trials.degrees < 1:
        return dict.fromkeys(names)
    found, drawn = measure(trials), bootstrap(trials, replicates=replicates)
    quantile = _quantile(trials.degrees) * (_unbiased(trials) if trials.known else 1)
    half = {name: quantile * drawn[name].std(axis=0, ddof=1) for name in names}
    return {
        name: np.clip(np.stack([found[name][0] - h, found[name][0] + h], axis=1), 0, 1)
        if (h > TINY).all()
        else None
        for name, h in half.items()
    }


def interval_of_sums(
    sums: np.ndarray, score: Callable[[np.ndarray], np.ndarray]
) -> list[float] | None:
    """95% interval, clipped to -1 and 1, of a score of sums over utterances, such as CCC.

    As for a difference, only speakers are drawn, and a single speaker has no interval. ``sums``
    (S, K) are sums per speaker, ``score`` is a function (..., K) -> (...), NaN where undefined.
    """
    speakers, found = len(sums), float(score(sums.sum(axis=0)))
    if speakers < 2 or np.isnan(found):
        return None
    random = np.random.RandomState(SEED)
    times = random.multinomial(speakers, np.full(speakers, 1 / speakers), size=REPLICATES)
    error = np.nanstd(score(times @ sums), ddof=1) * np.sqrt(speakers / (speakers - 1))
    bounds = found + np.array([-1, 1]) * _quantile(speakers - 1) * error
    return bounds.clip(-1, 1).tolist()


@dataclass(frozen=True)
class Difference:
    """The second system minus the first, as a fraction; ``low`` to ``high`` is the interval."""

    value: float
    low: float | None  # None for a single speaker, or if all speakers differ equally
    high: float | None
    p: float | None  # None likewise, but 1 if the difference is 0 for every speaker


def differences(trials: Trials, replicates: int = REPLICATES) -> dict[str, Any]:
    """Second system minus first: ``wa``, ``ua``, ``wa_pooled``, ``ua_pooled`` and ``recall``.

    Each is a ``Difference``, ``recall`` a list of C of them (None for a class without utterances).
    """
    found = measure(trials)
    drawn = bootstrap(trials, utterances=trials.known, replicates=replicates)
    result: dict[str, Any] = {
        name: _difference(trials, found[name][0], drawn[name])
        for name in ("wa", "ua", "wa_pooled", "ua_pooled")
    }
    result["recall"] = [
        None
        if np.isnan(found["recall"][0, 0, c])
        else _difference(trials, found["recall"][0, :, c], drawn["recall"][:, :, c])
        for c in range(trials.classes)
    ]
    return result


def mcnemar(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test of two systems' correctness on the same utterances (N,).

    It assumes independent utterances, which those of one speaker are not: its p-value holds for
    these speakers only.
    """
    from scipy.special import bdtr

    first, second = first.astype(bool), second.astype(bool)
    only_first = int((first & ~second).sum())
    only_second = int((~first & second).sum())
    disagree = only_first + only_second
    p = min(1.0, 2 * float(bdtr(min(only_first, only_second), disagree, 0.5)))
    return {
        "both": int((first & second).sum()),
        "only_first": only_first,
        "only_second": only_second,
        "neither": int((~first & ~second).sum()),
        "p": p,
    }


def _quantile(degrees: int) -> float:
    """Student's t quantile of a two-sided interval. (scipy.stats takes seconds to import.)"""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + LEVEL) / 2))


def _unbiased(trials: Trials) -> float:
    """Factor that makes the spread of replicates unbiased: sqrt(n / degrees of freedom)."""
    drawn = len(trials.speaker) if trials.known else trials.speakers
    return float(np.sqrt(drawn / trials.degrees))


def _difference(trials: Trials, found: np.ndarray, drawn: np.ndarray) -> Difference:
    """Difference of scores (V,) given replicates (B, V); those without the class are ignored."""
    from scipy.special import stdtr

    value = float(found[1] - found[0])
    if trials.degrees < 1:
        return Difference(value, None, None, None)
    error = np.nanstd(drawn[:, 1] - drawn[:, 0], ddof=1) * _unbiased(trials)
    if not error > TINY:  # the same for every speaker, usually nothing
        return Difference(value, None, None, 1.0 if abs(value) <= TINY else None)
    half = _quantile(trials.degrees) * float(error)
    p = 2 * stdtr(trials.degrees, -abs(value) / error)
    return Difference(value, max(value - half, -1.0), min(value + half, 1.0), float(p))


class _Table:
    """Utterance counts by kind: same speaker, class, folds and outcomes.

    A kind is drawn as often as its utterances, so a replicate is a draw of counts (T,).
    """

    def __init__(self, trials: Trials):
        self.classes = trials.classes
        _, speaker = np.unique(trials.speaker, return_inverse=True)
        columns = [speaker[:, None], trials.label[:, None], trials.fold, trials.right]
        kinds, self.counts = np.unique(
            np.concatenate(columns, axis=1).astype(float), axis=0, return_counts=True
        )  # (T, 2 + 2 V), (T,)
        systems = trials.right.shape[1]
        self.num_speakers = int(speaker.max()) + 1
        speaker, self.label = kinds[:, 0].astype(int), kinds[:, 1].astype(int)
        self.fold = kinds[:, 2 : 2 + systems].astype(int)
        self.right = kinds[:, 2 + systems :]
        self.kinds_of = [np.flatnonzero(speaker == s) for s in range(self.num_speakers)]
        self.speaker = speaker

    def scores(self, totals: np.ndarray, times: np.ndarray) -> Measured:
        """Compute scores from counts of kinds (B, T) and of speakers (B, S)."""
        columns = [self._column(totals, times, v) for v in range(self.right.shape[1])]
        return {name: np.stack([c[name] for c in columns], axis=1) for name in columns[0]}

    def _column(self, totals: np.ndarray, times: np.ndarray, v: int) -> Measured:
        """Scores of one system, (B,) and (B, C)."""
        folds, fold = np.unique(self.fold[:, v], return_inverse=True)
        cell = np.zeros((len(fold), len(folds) * self.classes))  # (T, F C): where a kind counts
        cell[np.arange(len(fold)), fold * self.classes + self.label] = 1
        shape = (len(totals), len(folds), self.classes)
        of = (totals @ cell).reshape(shape)  # utterances, (B, F, C)
        right = (totals @ (cell * self.right[:, v, None])).reshape(shape)
        tested = np.zeros((self.num_speakers, len(folds)))
        tested[self.speaker, fold] = 1
        weight = times @ tested / tested.sum(axis=0)  # (B, F): 1 when each speaker is drawn once
        weight = np.where(of.sum(axis=2) > 0, weight, 0)
        recall = _ratio(right.sum(axis=1), of.sum(axis=1))  # (B, C)
        return {
            "wa": _mean(_ratio(right.sum(axis=2), of.sum(axis=2)), weight),
            "ua": _mean(_mean(_ratio(right, of), of > 0), weight),
            "wa_pooled": _ratio(right.sum(axis=(1, 2)), of.sum(axis=(1, 2))),
            "ua_pooled": _mean(recall, ~np.isnan(recall)),
            "recall": recall,
        }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, NaN where ``whole`` is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted mean over the last axis; values of weight 0 may be NaN."""
    weight = weight.astype(float)
    return _ratio((np.where(weight > 0, values, 0) * weight).sum(-1), weight.sum(-1))


def from_decisions(runs: list[list[Mapping[str, Any]]], classes: int, protocol: str) -> Trials:
    """Trials of one system from the ``speakers`` entries of its scores.json, one list per seed.

    ``protocol`` determines whether the system was trained on these speakers too, and whether its
    scores are means over folds or over speakers.

    Raises:
        ValueError: the seeds were not tested on the same utterances.
    """
    first = runs[0]
    if any(layout(run) != layout(first) for run in runs[1:]):
        raise ValueError("the runs were not tested on the same utterances")
    refs = "".join(entry["ref"] for entry in first)
    hyps = ["".join(entry["hyp"] for entry in run) for run in runs]
    right = np.mean([[r == h for r, h in zip(refs, hyp, strict=True)] for hyp in hyps], axis=0)
    lengths = [len(entry["ref"]) for entry in first]
    part = "fold" if mean_over(protocol) == "folds" else "speaker"
    return Trials(
        speaker=np.repeat(numbers([entry["speaker"] for entry in first]), lengths),
        label=np.array([int(r, 36) for r in refs]),
        fold=np.repeat(numbers([entry[part] for entry in first]), lengths)[:, None],
        right=right[:, None],
        classes=classes,
        known=bool(caveat(protocol)),
    )


def paired(first: Trials, second: Trials) -> Trials:
    """Join trials on the same utterances in the same order, for a paired comparison."""
    return replace(
        first,
        fold=np.concatenate([first.fold, second.fold], axis=1),
        right=np.concatenate([first.right, second.right], axis=1),
    )


def layout(speakers: list[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Fold, speaker and references of the ``speakers`` entries of a scores.json."""
    return [(entry["fold"], entry["speaker"], entry["ref"]) for entry in speakers]


def numbers(names: list[str]) -> np.ndarray:
    """Replace each of N names by its place among the distinct ones, (N,)."""
    return np.unique(names, return_inverse=True)[1]
