"""Proper scores, abstention and temperature scaling."""

import math

import numpy as np
import pytest

from ser.scoring.calibration import COVERAGES, calibration, fit_temperature, scaled
from ser.scoring.predictions import Prediction

AB = ["angry", "bored"]


def decided(*rows: tuple[str, float]) -> list[Prediction]:
    """Predictions from (reference, probability of angry)."""
    return [
        Prediction(f"u{i}", ref, AB[int(p < 0.5)], (p, 1 - p)) for i, (ref, p) in enumerate(rows)
    ]


def test_likelihood_and_brier_score_are_those_worked_by_hand():
    found = calibration(decided(("angry", 0.8), ("bored", 0.6)), AB)
    assert found["nll"] == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2)
    assert found["brier"] == pytest.approx((2 * 0.2**2 + 2 * 0.6**2) / 2)


def test_the_area_under_risk_and_coverage_is_the_mean_risk_of_the_surest_k():
    found = calibration(decided(("angry", 0.7), ("bored", 0.8), ("angry", 0.9)), AB)
    assert found["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert found["risk"][-1] == pytest.approx(1 / 3)  # the error rate
    assert found["risk"][math.ceil(COVERAGES / 3) - 2] == 0  # the surest third is right
    # of equally sure ones any order is as good: in the mean half of them are wrong
    tied = calibration(decided(("angry", 0.9), ("bored", 0.9), ("angry", 0.9), ("bored", 0.9)), AB)
    assert tied["aurc"] == pytest.approx(0.5)


def overconfident(n: int, factor: float) -> list[Prediction]:
    """``n`` predictions whose logits are ``factor`` times those that their references follow."""
    random = np.random.RandomState(0)
    logits = random.standard_normal(n)
    refs = random.rand(n) < 1 / (1 + np.exp(-logits))
    probs = 1 / (1 + np.exp(-factor * logits))
    return decided(*((AB[int(not r)], float(p)) for r, p in zip(refs, probs, strict=True)))


def test_the_temperature_undoes_a_factor_of_the_logits_and_the_prior_yields_to_many_utterances():
    assert fit_temperature(overconfident(20000, 3.0), AB) == pytest.approx(3.0, rel=0.05)


def test_few_utterances_that_are_all_recognised_do_not_make_the_temperature_zero():
    assert 0.2 < fit_temperature(decided(*[("angry", 0.9)] * 20), AB) < 1


def test_scaling_changes_no_decision_and_improves_the_likelihood():
    rows = overconfident(2000, 3.0)
    folds = {"one": rows[:1000], "two": rows[1000:]}
    temperatures = {fold: fit_temperature(part, AB) for fold, part in folds.items()}
    before, after = calibration(rows, AB), scaled(folds, AB, temperatures)
    assert after["nll"] < before["nll"] and after["ece"] < before["ece"]
    assert after["risk"][-1] == pytest.approx(before["risk"][-1])
    assert after["temperature"] == temperatures


def test_probabilities_are_raised_to_one_over_the_temperature_of_their_own_fold():
    folds = {"one": decided(("angry", 0.8)), "two": decided(("angry", 0.8))}
    found = scaled(folds, AB, {"one": 2.0, "two": 1.0})
    softened = math.sqrt(0.8) / (math.sqrt(0.8) + math.sqrt(0.2))
    assert found["confidence"] == pytest.approx((softened + 0.8) / 2)
    assert scaled(folds, AB, {"one": 2.0, "two": None}) is None
