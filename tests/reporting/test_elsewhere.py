"""Tables and charts of other corpora, worse recordings and abstention."""

import json
import shutil

import pytest

from ser.reporting.elsewhere import (
    cross_rows,
    matrix_chart,
    risk_chart,
    robust_rows,
    robustness_chart,
)
from ser.reporting.results import make_report
from tests.support.fake_scores import make_scores

LABELS = ["angry", "happy", "sad", "neutral"]


def made_up(*hyps: str, labels=LABELS, wa=0.5, ua=0.5):
    """A test of two speakers or more, four utterances each."""
    refs = "0123" if len(labels) == 4 else "0011"
    speakers = [
        {"fold": f"s{i}", "speaker": f"s{i}", "ref": refs, "hyp": hyp} for i, hyp in enumerate(hyps)
    ]
    bounds = {"wa_ci": [0.25, 0.75], "ua_ci": None}
    return {"labels": labels, "speakers": speakers, "wa": wa, "ua": ua, **bounds}


CROSS = {
    **{"tag": "s1_strict_seed1", "system": "s1", "corpus": "toy", "labels": LABELS},
    "tests": {
        "toy": made_up("0123", "0120", ua=0.875),
        "other": made_up("0000", "0111", "0011", labels=["angry", "sad"], ua=0.4),
    },
}
CONDITIONS = {"clean": made_up("0123", "0123", ua=1.0), "white:0": made_up("0000", "0003")}
ROBUST = {**CROSS, "tests": CONDITIONS}


def test_a_row_of_another_corpus_has_chance_and_the_largest_class_beside_its_scores():
    assert cross_rows([CROSS]) == [
        ["s1", "toy", "toy", "8", "2", "50.0 [25.0 to 75.0]", "25.0", "87.5", "25.0"],
        ["s1", "toy", "other", "12", "3", "50.0 [25.0 to 75.0]", "50.0", "40.0", "50.0"],
    ]


def test_the_matrix_shades_a_cell_by_its_distance_from_chance_and_frames_the_own_corpus():
    chart = matrix_chart([CROSS])
    own, other = (patch for patch in chart.axes[0].patches)
    assert own.get_facecolor()[3] == pytest.approx((0.875 - 0.25) / 0.75)
    assert other.get_facecolor()[3] == 0  # below chance
    assert own.get_linewidth() > other.get_linewidth()
    texts = [text.get_text() for text in chart.axes[0].texts]
    assert texts == ["87.5", "chance 25.0", "40.0", "chance 50.0"]


def test_a_change_is_against_clean_and_paired_over_speakers():
    clean, noisy = robust_rows(ROBUST)
    assert clean[3:] == ["", "", ""]
    # UA falls from 4 to 1 of 4 for one speaker, from 4 to 2 for the other
    assert noisy[3] == "-62.5" and noisy[4].startswith("-100.0 to")
    points = robustness_chart(ROBUST).axes[0]
    assert [label.get_text() for label in points.get_yticklabels()] == ["white:0"]


def test_the_risk_is_drawn_over_the_share_that_is_answered():
    scores = make_scores(correct=3)
    risk, scaled, errors = risk_chart(scores, "").axes[0].lines
    assert list(risk.get_xdata())[-1] == 100
    assert risk.get_ydata()[-1] == pytest.approx(12.5) == errors.get_ydata()[0]
    assert scaled.get_linestyle() == "--"
    scores["calibration"]["risk"] = None
    assert risk_chart(scores, "") is None


def test_records_keep_both_tests_and_results_show_them_with_their_commands(tmp_path):
    exp = tmp_path / "exp/toy/s1_strict_seed1"
    exp.mkdir(parents=True)
    (tmp_path / "conf").mkdir()
    (exp / "scores.json").write_text(json.dumps(make_scores()))
    (exp / "crosscorpus.json").write_text(json.dumps(CROSS))
    (exp / "robustness.json").write_text(json.dumps(ROBUST))
    places = tmp_path / "exp", tmp_path / "RESULTS.md", exp, tmp_path / "conf"
    first = make_report(*places, records=tmp_path / "results")
    shutil.rmtree(tmp_path / "exp")
    places = tmp_path / "exp", tmp_path / "RESULTS.md", (), tmp_path / "conf"
    text = make_report(*places, records=tmp_path / "results")
    assert text == first
    assert "ser crosscorpus exp/toy/s1_strict_seed1 --on dump/other\n" in text
    assert "| s1 | toy | other | 12 | 3 |" in text
    assert "`ser robustness exp/toy/s1_strict_seed1 --conditions white:0`" in text
    assert "| white:0 | 50.0 [25.0 to 75.0] | 50.0 | -62.5 |" in text
