"""The emotion that the CTC head hears, and its fusion with the emotion head."""

import itertools
import math

import numpy as np
import pytest

from ser.errors import UserError
from ser.scoring.decisions import (
    Evidence,
    choose_weight,
    decide,
    fuse,
    gather,
    read_evidence,
    tag_mass,
    transcript_logp,
    transcript_targets,
    unit_tags,
    write_evidence,
)

UNITS = ["<blank>", "S0", "S1", "V0", "V1"]  # two classes, two emotions
LABELS = ["angry", "sad"]


def test_units_tell_their_emotion_and_the_blank_none():
    assert unit_tags(UNITS, 2).tolist() == [-1, 0, 1, 0, 1]
    assert unit_tags(["<blank>", "AH0_0", "AH0_1"], 2).tolist() == [-1, 0, 1]


@pytest.mark.parametrize(
    "units",
    [["<blank>", "S", "V"], ["<blank>", "A", "B", "|"], ["<blank>", "AH0", "AH1", "B"]],
    ids=["classes", "characters", "phones, whose digit is the stress"],
)
def test_units_without_tags_tell_nothing(units):
    assert unit_tags(units, 2) is None


def test_tag_mass_of_a_hand_worked_example():
    # over both frames, tag 0: 0.1 + 0.3 + 0.0 + 0.1, tag 1: 0.0 + 0.1 + 0.2 + 0.2; over the
    # second alone, 0.1 and 0.4 of 0.5
    posteriors = np.array([[0.5, 0.1, 0.0, 0.3, 0.1], [0.5, 0.0, 0.2, 0.1, 0.2]])
    with np.errstate(divide="ignore"):
        logp = tag_mass(np.log(posteriors), unit_tags(UNITS, 2), 2)
    assert np.exp(logp) == pytest.approx([0.5, 0.5])
    with np.errstate(divide="ignore"):
        logp = tag_mass(np.log(posteriors[1:]), unit_tags(UNITS, 2), 2)
    assert np.exp(logp) == pytest.approx([0.1 / 0.5, 0.4 / 0.5])


def enumerated(posteriors: np.ndarray, target: list[int]) -> float:
    """p(target | frames): the sum over all paths that collapse to it."""
    total = 0.0
    for path in itertools.product(range(posteriors.shape[1]), repeat=len(posteriors)):
        merged = [unit for unit, _ in itertools.groupby(path)]
        if [unit for unit in merged if unit != 0] == target:
            total += math.prod(posteriors[t, unit] for t, unit in enumerate(path))
    return total


def test_transcript_likelihoods_are_sums_over_all_alignments():
    random = np.random.default_rng(3)
    posteriors = random.dirichlet(np.ones(5), size=4)  # (T, V)
    targets = transcript_targets(["S1", "V1"], UNITS, 2)
    assert targets.tolist() == [[1, 3], [2, 4]]
    likelihood = np.array([enumerated(posteriors, target.tolist()) for target in targets])
    logp = transcript_logp(np.log(posteriors), targets)
    assert np.exp(logp) == pytest.approx(likelihood / likelihood.sum(), rel=1e-6)


def test_what_cannot_be_aligned_is_not_asked():
    log_probs = np.log(np.full((2, 5), 0.2))
    assert transcript_logp(log_probs, transcript_targets(["S0", "S0"], UNITS, 2)) is None
    assert transcript_logp(log_probs, transcript_targets(["S0", "V0"], UNITS, 2)) is not None


def test_the_true_tag_of_the_transcript_is_never_looked_at():
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(5), size=4))
    head = np.log(np.array([0.5, 0.5]))
    told = [gather("u", "test", 0, head, log_probs, UNITS, text) for text in (["S0"], ["S1"])]
    assert told[0] == told[1]


def test_without_words_the_transcript_decision_is_the_mass():
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(5), size=4))
    evidence = gather("u", "test", 0, np.log(np.array([0.5, 0.5])), log_probs, UNITS, [])
    assert evidence.logp["transcript"] == evidence.logp["mass"]


def test_fusion_of_a_hand_worked_example():
    head, ctc = np.log([[0.8, 0.2]]), np.log([[0.1, 0.9]])
    assert np.exp(fuse(head, ctc, 0.0)) == pytest.approx(np.array([[0.8, 0.2]]))
    assert np.exp(fuse(head, ctc, 1.0)) == pytest.approx(np.array([[0.1, 0.9]]))
    left, right = math.sqrt(0.8 * 0.1), math.sqrt(0.2 * 0.9)
    expected = np.array([[left / (left + right), right / (left + right)]])
    assert np.exp(fuse(head, ctc, 0.5)) == pytest.approx(expected)


def test_the_weight_is_the_one_with_the_least_cross_entropy():
    sure, unsure = np.log([[0.9, 0.1], [0.1, 0.9]]), np.log([[0.5, 0.5], [0.5, 0.5]])
    assert choose_weight(unsure, sure, np.array([0, 1])) == 1.0
    assert choose_weight(sure, unsure, np.array([0, 1])) == 0.0
    assert choose_weight(unsure, unsure, np.array([0, 1])) == 0.0
    # complementary: each knows one utterance and hardly minds the other
    one, other = np.log([[0.9, 0.1], [0.5, 0.5]]), np.log([[0.5, 0.5], [0.1, 0.9]])
    assert choose_weight(one, other, np.array([0, 1])) == 0.5


def evidence(utt_id, split, ref, head, mass, transcript=None) -> Evidence:
    logp = {"head": head, "mass": mass, "transcript": transcript or mass}
    return Evidence(utt_id, split, ref, {k: tuple(np.log(v)) for k, v in logp.items()})


def test_weights_come_from_validation_speakers_and_decisions_are_on_the_test_speaker():
    rows = [
        evidence("t1", "test", 0, [0.6, 0.4], [0.1, 0.9]),
        evidence("v1", "valid", 0, [0.4, 0.6], [0.9, 0.1]),
        evidence("v2", "valid", 1, [0.6, 0.4], [0.1, 0.9]),
    ]
    decisions, weights = decide(rows)
    assert weights == {"head+mass": 1.0, "head+transcript": 1.0}
    assert decisions["head"] == {"t1": 0}
    assert decisions["head+mass"] == decisions["mass"] == {"t1": 1}


def test_without_validation_speakers_there_is_no_fusion():
    decisions, weights = decide([evidence("t1", "test", 0, [0.6, 0.4], [0.1, 0.9])])
    assert weights == {}
    assert set(decisions) == {"head", "mass", "transcript"}


def test_evidence_comes_back_from_its_file(tmp_path):
    rows = [evidence("t1", "test", 0, [0.6, 0.4], [0.1, 0.9])]
    write_evidence(tmp_path / "decisions.jsonl", LABELS, rows)
    (back,) = read_evidence(tmp_path / "decisions.jsonl", LABELS, {"t1": "angry"})
    assert back.logp["head"] == pytest.approx(rows[0].logp["head"], abs=1e-5)
    assert (back.utt_id, back.split, back.ref) == ("t1", "test", 0)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"angry", "sad"', '"angry", "joy"', "jsonl:1: emotions"),
        ('"t1"', '"t9"', "jsonl:2: t9: not a test utterance"),
        ('"ref": "angry"', '"ref": "joy"', "jsonl:2: "),
        ("-0.91629", "NaN", "jsonl:2: expected 2 numbers"),
        ("[-0.51083, -0.91629]", "[-0.51083]", "jsonl:2: expected 2 numbers"),
    ],
)
def test_damaged_evidence_is_refused_with_its_line(tmp_path, before, after, message):
    path = tmp_path / "decisions.jsonl"
    write_evidence(path, LABELS, [evidence("t1", "test", 0, [0.6, 0.4], [0.1, 0.9])])
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(UserError, match=message):
        read_evidence(path, LABELS, {"t1": "angry"})


def test_missing_test_utterances_are_named(tmp_path):
    path = tmp_path / "decisions.jsonl"
    write_evidence(path, LABELS, [])
    with pytest.raises(UserError, match="1 test utterances are missing, the first t1"):
        read_evidence(path, LABELS, {"t1": "angry"})
