"""Scores of the CTC head's decisions beside those of the emotion head."""

import json
import math

import pytest

from ser.errors import UserError
from ser.reporting.results import make_report
from ser.scoring.decision_scores import against_own
from ser.scoring.decisions import FILE_NAME, Evidence, write_evidence
from ser.scoring.infer import infer_folds
from ser.scoring.records import read_scores
from ser.scoring.score import score_experiment
from ser.training.experiment import open_experiment
from tests.support.fake_experiment import FOLDS, LABELS, FakeModel, make_experiment


@pytest.fixture
def toy(tmp_path):
    exp, dump, data = make_experiment(tmp_path)
    infer_folds(exp, dump, build_model=lambda config, device: FakeModel())
    return exp, dump, data


def put_evidence(exp, dump, wrong=(), valid=()):
    """The tag mass is wrong about the utterances in ``wrong``, the transcript never."""
    experiment = open_experiment(exp, dump)

    def logp(ref, miss):
        sure = (ref + 1) % len(LABELS) if miss else ref
        return tuple(math.log(0.7 if e == sure else 0.1) for e in range(len(LABELS)))

    for fold in FOLDS:
        evidence = []
        for split, utts in (("test", experiment.references(fold)), ("valid", valid)):
            for utt in utts:
                ref = LABELS.index(experiment.emotions[utt])
                sources = {"head": logp(ref, False), "transcript": logp(ref, False)}
                sources["mass"] = logp(ref, utt in wrong)
                evidence.append(Evidence(utt, split, ref, sources))
        write_evidence(exp / fold / FILE_NAME, LABELS, evidence)


def test_each_decision_is_scored_like_the_emotion_heads(toy):
    exp, dump, data = toy
    put_evidence(exp, dump, wrong=("Ses01F_000", "Ses01M_001"))
    scores = score_experiment(exp, dump, data)["decisions"]
    assert list(scores) == ["mass", "transcript"]  # nobody validates, so nothing is fused
    assert scores["mass"]["wa"] == pytest.approx((4 / 5 + 4 / 5 + 1) / 3)
    assert scores["mass"]["wa_pooled"] == pytest.approx(13 / 15)
    assert scores["transcript"]["wa"] == 1.0
    assert scores["mass"]["weights"] is None


def test_fusions_carry_the_weight_that_validation_chose_in_each_fold(toy):
    exp, dump, data = toy
    put_evidence(exp, dump, wrong=("Ses02F_000",), valid=("Ses01F_001", "Ses01F_002"))
    scores = score_experiment(exp, dump, data)["decisions"]
    assert set(scores["head+mass"]["weights"]) == set(FOLDS)
    assert scores["head+mass"]["wa"] == 1.0  # the weight is 0: both are equally good on validation


def test_the_difference_to_the_emotion_head_is_paired(toy):
    exp, dump, data = toy
    put_evidence(exp, dump, wrong=("Ses01F_000", "Ses01M_001"))
    scores = score_experiment(exp, dump, data)
    found = against_own([scores, scores], "mass")["wa"]
    assert found.value == pytest.approx(-2 / 15)
    assert found.low < -2 / 15 < found.high


def test_decisions_stand_in_scores_txt_and_in_the_report(toy, tmp_path):
    exp, dump, data = toy
    put_evidence(exp, dump, wrong=("Ses01F_000", "Ses01M_001"))
    score_experiment(exp, dump, data)
    row = next(x for x in (exp / "scores.txt").read_text().splitlines() if "tags, mass" in x)
    assert row.split()[3:6] == ["86.7", "87.5", "-13.3"]
    text = make_report(tmp_path / "exp", tmp_path / "R.md", conf_dir=tmp_path / "conf")
    assert "- Decision by unit tags, mass: WA 86.7, UA 87.5; WA against the emotion head's" in text


def test_a_fold_without_evidence_leaves_the_emotion_head_alone(toy):
    exp, dump, data = toy
    put_evidence(exp, dump)
    (exp / "Ses01M" / FILE_NAME).unlink()
    assert score_experiment(exp, dump, data)["decisions"] is None
    assert "decision " not in (exp / "scores.txt").read_text()


def test_decisions_about_other_utterances_are_refused(toy):
    exp, dump, data = toy
    put_evidence(exp, dump)
    path = exp / "Ses01M" / FILE_NAME
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"decisions.jsonl: 1 test utterances are missing"):
        score_experiment(exp, dump, data)
    put_evidence(exp, dump)
    score_experiment(exp, dump, data)
    scores = json.loads((exp / "scores.json").read_text())
    scores["decisions"]["mass"]["hyp"][0] = "0"
    (exp / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(UserError, match=r"decisions.mass.hyp: other utterances than those of sp"):
        read_scores(exp / "scores.json")
