"""What several raters said: their table, and how far a model is from them."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from ser.data.labels import read_raters
from ser.errors import UserError
from ser.scoring.calibration import jsd, kl, score_raters
from ser.scoring.predictions import Prediction

LABELS = ["angry", "sad", "neutral"]


def test_every_rater_counts_once_and_other_words_are_left_out(tmp_path):
    table = tmp_path / "utt2raters"
    table.write_text("u1 angry angry,sad fru\nu2 fru\nu3 sad\nu4 sad,sad,angry neutral\n")
    found = read_raters(table, LABELS)
    assert {utt: shares.tolist() for utt, shares in found.items()} == {
        "u1": [0.75, 0.25, 0],  # 1 + 1/2 and 1/2 of two votes that count
        "u3": [0, 1, 0],
        "u4": pytest.approx([1 / 6, 1 / 3, 1 / 2]),
    }
    table.write_text("u1 fru\nu2 other other\n")
    with pytest.raises(UserError, match=r"utt2raters: no rater says one of angry, sad, neutral"):
        read_raters(table, LABELS)
    table.write_text("u1 sad\nu2\n")
    with pytest.raises(UserError, match=r"utt2raters:2: u2 has no value"):
        read_raters(table, LABELS)


def test_divergences_are_those_of_scipy():
    generator = np.random.default_rng(0)
    q, p = generator.dirichlet(np.ones(4), size=(2, 50))
    q[0] = [1, 0, 0, 0]
    assert kl(q, p) == pytest.approx(entropy(q, p, axis=1))
    assert jsd(q, p) == pytest.approx(jensenshannon(q, p, axis=1) ** 2)
    assert jsd(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(np.log(2))


def test_decisions_are_right_if_one_rater_shares_them():
    rows = [
        Prediction("u1", "angry", "sad", (0.25, 0.75, 0.0)),
        Prediction("u2", "angry", "neutral", (0.0, 0.0, 1.0)),
        Prediction("u9", "angry", "neutral", (0.0, 0.0, 1.0)),  # of which nothing is known
    ]
    raters = {"u1": np.array([0.75, 0.25, 0.0]), "u2": np.array([0.0, 1.0, 0.0])}
    found = score_raters(rows, raters, LABELS)
    assert (found["n"], found["divided"], found["any_rater"]) == (2, 0.5, 0.5)
    # 3/4 log 3 + 1/4 log 1/3, and - log of what six decimals hide
    assert found["kl"] == pytest.approx((np.log(3) / 2 - np.log(5e-7)) / 2, rel=1e-5)
    assert score_raters(rows[2:], raters, LABELS) is None
