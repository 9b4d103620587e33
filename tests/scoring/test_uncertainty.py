"""Intervals and tests against examples worked by hand, scipy, and simulated corpora."""

from dataclasses import replace

import numpy as np
import pytest

from ser.scoring.predictions import Prediction
from ser.scoring.score import score_folds
from ser.scoring.uncertainty import (
    Trials,
    bootstrap,
    differences,
    from_decisions,
    mcnemar,
    measure,
    score_intervals,
)


def trials(*speakers, classes=1, folds=None):
    """Trials from (right, of) of each speaker and system, one class: ((2, 4),) is 2 of 4 right."""
    speaker, right = [], []
    for s, systems in enumerate(speakers):
        of = systems[0][1]
        speaker += [s] * of
        right += np.stack([np.arange(of) < r for r, _ in systems], axis=1).tolist()
    speaker = np.array(speaker)
    fold = speaker if folds is None else np.array(folds)[speaker]
    right = np.array(right, dtype=float)
    return Trials(
        speaker=speaker,
        label=np.zeros(len(speaker), dtype=int),
        fold=np.repeat(fold[:, None], right.shape[1], axis=1),
        right=right,
        classes=classes,
    )


def corpus(rng, mean=2.2, sd=0.9, class_sd=0.6, systems=1, inter=0.0):
    """Decisions of 10 speakers on 9 utterances of each of 4 classes, or by several systems.

    Normal effects of the speaker, of the class with that speaker, and of the system with that
    speaker (``inter``) add up to the logit of being right.
    """
    logit = (
        mean
        + rng.normal(0, sd, (10, 1, 1))
        + rng.normal(0, class_sd, (10, 4, 1))
        + rng.normal(0, inter, (10, 1, systems))
    )
    speaker, label = np.repeat(np.arange(10), 36), np.arange(360) % 4
    right = rng.random((360, systems)) < 1 / (1 + np.exp(-logit[speaker, label]))
    return Trials(
        speaker=speaker,
        label=label,
        fold=np.repeat(speaker[:, None], systems, axis=1),
        right=right.astype(float),
        classes=4,
    )


def within(share, expected, n, sds=4.0):
    """Whether ``share`` of n independent trials lies within ``sds`` binomial deviations."""
    return abs(share - expected) <= sds * np.sqrt(expected * (1 - expected) / n)


# Scores


def test_the_scores_are_those_of_score_folds():
    rng = np.random.default_rng(3)
    labels = ["angry", "happy", "sad"]
    folds, lists = {}, []
    for fold in ("A", "B", "C"):
        refs, hyps = rng.integers(0, 3, 20), rng.integers(0, 3, 20)
        if fold == "B":
            refs %= 2  # nobody sad
        folds[fold] = [
            Prediction(f"{fold}{i}", labels[r], labels[h], (1.0, 0.0, 0.0))
            for i, (r, h) in enumerate(zip(refs, hyps, strict=True))
        ]
        strings = {"ref": "".join(map(str, refs)), "hyp": "".join(map(str, hyps))}
        lists.append({"fold": fold, "speaker": fold, **strings})
    expected = score_folds(folds, labels)
    found = measure(from_decisions([lists], 3, "session"))
    for name in ("wa", "ua", "wa_pooled", "ua_pooled"):
        assert found[name].item() == pytest.approx(expected["summary"][name])
    recalls = [expected["per_class"][label]["recall"] for label in labels]
    assert found["recall"][0, 0] == pytest.approx(recalls)


def test_a_fold_of_two_speakers_counts_once():
    # Fold 0: speakers with 4 of 4 and 1 of 2, 5/6; fold 1: 1 of 2. Mean of folds 2/3, pooled 6/8.
    found = measure(trials([(4, 4)], [(1, 2)], [(1, 2)], folds=[0, 0, 1]))
    assert found["wa"].item() == pytest.approx(2 / 3)
    assert found["wa_pooled"].item() == pytest.approx(6 / 8)


def test_seeds_make_an_utterance_right_by_a_fraction():
    one = {"fold": "A", "speaker": "A", "ref": "001", "hyp": "001"}
    other = one | {"hyp": "011"}
    made = from_decisions([[one], [other]], 2, "strict")
    assert made.right[:, 0].tolist() == [1.0, 0.5, 1.0]
    assert measure(made)["ua"].item() == pytest.approx((0.75 + 1) / 2)
    with pytest.raises(ValueError, match="not tested on the same"):
        from_decisions([[one], [other | {"ref": "111"}]], 2, "strict")


def test_crossed_folds_are_parts_of_their_speaker():
    # A: 1 of 2 in one fold and 2 of 2 in another, 3 of 4 together; B: 0 of 1
    entries = [
        {"fold": "A_g1", "speaker": "A", "ref": "01", "hyp": "00"},
        {"fold": "A_g2", "speaker": "A", "ref": "01", "hyp": "01"},
        {"fold": "B_g1", "speaker": "B", "ref": "0", "hyp": "1"},
    ]
    assert measure(from_decisions([entries], 2, "crossed2"))["wa"].item() == pytest.approx(0.375)
    assert measure(from_decisions([entries], 2, "strict"))["wa"].item() == pytest.approx(0.5)


# The bootstrap


def test_drawing_two_speakers_gives_the_three_samples_there_are():
    # Speakers with 4 of 4 and 2 of 4: both the first, one of each, both the second.
    drawn = bootstrap(trials([(4, 4)], [(2, 4)]), utterances=False, replicates=4000)["wa"][:, 0]
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [0.5, 0.75, 1.0]
    for count, expected in zip(counts, (0.25, 0.5, 0.25), strict=True):
        assert within(count / 4000, expected, 4000)


def test_drawing_utterances_as_well_adds_their_variance():
    # Between: accuracies 1 and 0.5, variance 0.0625. Within: 0 and 0.5 * 0.5 / 4, mean 0.03125.
    # A mean of two draws has half of 0.0625 + 0.03125.
    drawn = bootstrap(trials([(4, 4)], [(2, 4)]), replicates=20000)["wa"][:, 0]
    assert drawn.var() == pytest.approx(0.046875, rel=0.04)
    assert drawn.mean() == pytest.approx(0.75, abs=0.006)


def test_the_pooled_score_weighs_a_speaker_by_its_utterances():
    drawn = bootstrap(trials([(8, 8)], [(0, 2)]), utterances=False, replicates=500)
    assert set(drawn["wa_pooled"][:, 0]) == {0.0, 0.8, 1.0}
    assert set(drawn["wa"][:, 0]) == {0.0, 0.5, 1.0}


def test_speakers_of_a_session_are_drawn_apart():
    # One session of 2 of 2 and 0 of 2, another of 1 of 2 and 1 of 2; drawing the first speaker
    # four times leaves the other session out and gives 1.
    made = trials([(2, 2)], [(0, 2)], [(1, 2)], [(1, 2)], folds=[0, 0, 1, 1])
    drawn = bootstrap(made, utterances=False, replicates=4000)["wa"][:, 0]
    assert drawn.max() == 1.0 and drawn.min() == 0.0


def test_a_class_that_a_sample_lacks_is_left_out_of_its_ua():
    # Only the second speaker has class 1: drawn twice without it, UA is class 0's recall.
    made = Trials(
        speaker=np.array([0, 0, 1, 1]),
        label=np.array([0, 0, 0, 1]),
        fold=np.array([[0], [0], [1], [1]]),
        right=np.array([[1.0], [0.0], [1.0], [0.0]]),
        classes=2,
    )
    drawn = bootstrap(made, utterances=False, replicates=300)
    assert set(drawn["ua_pooled"][:, 0].round(6)) == {0.5, round((2 / 3 + 0) / 2, 6)}
    assert np.isnan(drawn["recall"][:, 0, 1]).any()


def test_the_interval_is_students_around_the_score():
    # Three speakers, 10 utterances each, 5, 5 and 8 right: variance of a draw 0.02 between and
    # (0.025 + 0.025 + 0.016) / 3 within; a third of it is the mean's, 0.014; t(2) = 4.3027.
    made = trials([(5, 10)], [(5, 10)], [(8, 10)])
    low, high = score_intervals(made, replicates=40000)["wa"][0]
    assert low == pytest.approx(0.6 - 4.3027 * np.sqrt(0.014), abs=0.01)
    assert high == 1.0  # 0.6 + 0.509


def test_of_known_speakers_the_utterances_are_drawn_and_the_speakers_stay():
    # 5 of 10, 5 of 10 and 8 of 10 right: variance of a mean of three speakers' means
    # (0.025 + 0.025 + 0.016) / 9, times 30 / 27; t(27) = 2.0518.
    made = replace(trials([(5, 10)], [(5, 10)], [(8, 10)]), known=True)
    half = 2.0518 * np.sqrt(0.066 / 9 * 30 / 27)
    found = score_intervals(made, replicates=40000)["wa"][0]
    assert found == pytest.approx([0.6 - half, 0.6 + half], abs=0.004)


def test_a_single_known_speaker_has_an_interval_for_further_utterances():
    low, high = score_intervals(replace(trials([(5, 10)]), known=True))["wa"][0]
    assert 0.1 < low < 0.5 < high < 0.9
    assert score_intervals(replace(trials([(1, 1)], [(0, 1)]), known=True))["wa"] is None


def test_of_known_speakers_the_test_of_a_difference_is_the_stratified_paired_t_test():
    # Differences: speaker 1 three utterances of 10 better, speaker 2 one better; within-speaker
    # variances (n - 1) 0.7 / 3 and 0.1; mean 0.2, error sqrt((0.7 / 30 + 0.01) / 4), t(18).
    from scipy.stats import t

    made = replace(trials([(5, 10), (8, 10)], [(7, 10), (8, 10)]), known=True)
    found = differences(made, replicates=20000)["wa"]
    error = np.sqrt((0.7 / 30 + 0.01) / 4)
    assert found.value == pytest.approx(0.2)
    assert found.p == pytest.approx(2 * t.sf(0.2 / error, 18), abs=0.004)
    assert found.high - 0.2 == pytest.approx(t.ppf(0.975, 18) * error, abs=0.005)


def test_the_interval_of_known_speakers_covers_the_truth_as_often_as_the_documentation_says():
    shape = np.random.default_rng(1).normal(0, 0.9, (10, 1))
    logit = 2.2 + shape + np.random.default_rng(2).normal(0, 0.6, (10, 4))
    right = 1 / (1 + np.exp(-logit))  # (S, C)
    rng, runs, hits = np.random.default_rng(8), 300, 0
    speaker, label = np.repeat(np.arange(10), 36), np.arange(360) % 4
    for _ in range(runs):
        drawn = (rng.random(360) < right[speaker, label])[:, None].astype(float)
        fold = (np.arange(360) // 4 % 5)[:, None]
        low, high = score_intervals(Trials(speaker, label, fold, drawn, 4, True), 200)["wa"][0]
        hits += low <= right.mean() <= high
    assert within(hits / runs, 0.941, runs, sds=3.0)


def test_a_single_speaker_has_no_interval_and_no_test():
    assert score_intervals(trials([(5, 10)]))["wa"] is None
    found = differences(trials([(5, 10), (8, 10)]))["wa"]
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high, found.p) == (None, None, None)


def test_equal_input_gives_equal_intervals():
    made = corpus(np.random.default_rng(0))
    first, second = score_intervals(made), score_intervals(made)
    assert all((first[name] == second[name]).all() for name in first)


def test_the_random_stream_is_the_same_for_every_numpy():
    # RandomState is frozen: these bytes may not change, or committed intervals would.
    drawn = bootstrap(trials([(4, 4)], [(2, 4)], [(1, 4)]), replicates=6)["wa"][:, 0]
    assert (drawn * 12).round(6).tolist() == [8, 5, 10, 12, 10, 8]


# Differences


def test_for_a_mean_over_speakers_the_test_is_the_paired_t_test():
    from scipy.stats import ttest_rel

    made = trials([(5, 10), (6, 10)], [(5, 10), (7, 10)], [(2, 10), (8, 10)], [(4, 10), (4, 10)])
    expected = ttest_rel([0.6, 0.7, 0.8, 0.4], [0.5, 0.5, 0.2, 0.4])
    interval = expected.confidence_interval()
    found = differences(made, replicates=20000)["wa"]
    assert found.value == pytest.approx(0.225)
    assert found.p == pytest.approx(expected.pvalue, abs=0.005)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.01)


def test_equal_systems_do_not_differ():
    found = differences(trials([(5, 10), (5, 10)], [(7, 10), (7, 10)]))
    assert found["wa"].value == 0 and found["wa"].p == 1.0
    assert (found["ua"].low, found["ua"].high) == (None, None)


def test_a_difference_that_is_the_same_for_every_speaker_has_no_test():
    found = differences(trials([(5, 10), (6, 10)], [(7, 10), (8, 10)]))["wa"]
    assert (found.low, found.high, found.p) == (None, None, None)


def test_where_every_decision_is_right_there_is_no_interval():
    assert score_intervals(trials([(5, 5)], [(3, 3)]))["wa"] is None
    assert score_intervals(trials([(5, 5)], [(2, 3)]))["wa"] is not None


def test_per_class_changes_are_those_of_the_pooled_recalls():
    made = Trials(
        speaker=np.array([0, 0, 0, 1, 1, 1]),
        label=np.array([0, 0, 1, 0, 0, 1]),
        fold=np.array([[0, 0]] * 3 + [[1, 1]] * 3),
        right=np.array([[1, 1], [0, 1], [1, 0], [0, 1], [0, 0], [1, 1]], dtype=float),
        classes=3,
    )
    recall = differences(made)["recall"]
    assert recall[0].value == pytest.approx(3 / 4 - 1 / 4)
    assert recall[1].value == pytest.approx(-1 / 2)
    assert recall[2] is None  # nobody expressed it


def test_mcnemars_test_counts_what_only_one_had_right():
    first = np.array([1] * 5 + [1] + [0] * 7 + [0] * 2)
    second = np.array([1] * 5 + [0] + [1] * 7 + [0] * 2)
    # 1 against 7: 2 * (C(8,0) + C(8,1)) / 2^8 = 18 / 256.
    found = mcnemar(first, second)
    assert found == {"both": 5, "only_first": 1, "only_second": 7, "neither": 2, "p": 18 / 256}


def test_mcnemars_test_of_equal_decisions_is_1():
    assert mcnemar(np.array([1, 0]), np.array([1, 0]))["p"] == 1.0


# Simulation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "coverage"),
    [({}, 0.952), ({"sd": 0.0, "class_sd": 0.0}, 0.995)],
    ids=["speakers who differ", "speakers who do not"],
)
def test_the_interval_covers_the_truth_as_often_as_the_documentation_says(options, coverage):
    rng, runs, hits = np.random.default_rng(8), 500, 0
    effects = np.random.default_rng(1).normal(2.2, 0.0 if options else np.hypot(0.9, 0.6), 10**6)
    truth = (1 / (1 + np.exp(-effects))).mean()
    for _ in range(runs):
        low, high = score_intervals(corpus(rng, **options), replicates=200)["wa"][0]
        hits += low <= truth <= high
    assert within(hits / runs, coverage, runs, sds=3.0)


@pytest.mark.slow
@pytest.mark.parametrize("inter", [0.0, 0.6], ids=["no interaction", "with interaction"])
def test_p_values_are_uniform_when_systems_are_equally_good(inter):
    rng, runs = np.random.default_rng(4), 800
    p = []
    for _ in range(runs):
        made = corpus(rng, systems=2, inter=inter, mean=1.0, sd=0.5, class_sd=0.3)
        p.append(differences(made, replicates=150)["wa"].p)
    for level in (0.05, 0.2, 0.5, 0.8):
        # Four binomial deviations, and 1.5 points for what a t-test of 10 skewed means is off by.
        share = np.mean(np.array(p) <= level)
        assert abs(share - level) <= 4 * np.sqrt(level * (1 - level) / runs) + 0.015, (level, share)
