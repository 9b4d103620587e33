"""UA of the tested model on validation speakers."""

import json

import pytest

from ser.scoring.decision_scores import valid_ua

LABELS = ["angry", "happy", "sad", "neutral"]


@pytest.fixture
def fold_dir(tmp_path):
    history = [{"epoch": 1, "valid": {"UA": 0.9}}, {"epoch": 2, "valid": {"UA": 0.5}}, {"epoch": 3}]
    (tmp_path / "history.json").write_text(json.dumps(history))
    return tmp_path


def test_without_decisions_it_is_that_of_the_epoch_that_is_tested(fold_dir):
    assert valid_ua(fold_dir, LABELS, 2) == 0.5


def test_an_epoch_without_validation_has_none(fold_dir, tmp_path):
    assert valid_ua(fold_dir, LABELS, 3) is None
    assert valid_ua(tmp_path / "no fold", LABELS, 1) is None


def test_decisions_of_the_tested_model_go_before_the_history(fold_dir):
    # of the validation rows one of two angry ones and the sad one are right: (1/2 + 1) / 2
    rows = [("valid", "angry", 0), ("valid", "angry", 1), ("valid", "sad", 2), ("test", "sad", 0)]
    lines = [{"emotions": LABELS}]
    for split, ref, decided in rows:
        head = [0.0 if i == decided else -1.0 for i in range(4)]
        lines.append({"utt_id": "u", "split": split, "ref": ref, "head": head})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (fold_dir / "decisions.jsonl").write_text(text)
    assert valid_ua(fold_dir, LABELS, 2) == 0.75
