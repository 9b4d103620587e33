"""Sound and leaky protocols side by side."""

import json

import pytest

from ser.errors import UserError
from ser.reporting.results import report_leakage
from tests.support.fake_scores import make_scores

LEAK = "--protocol prefix: train and test share speakers"


@pytest.fixture
def experiment(tmp_path):
    def make(protocol, correct, leaky=(), tag="seed1", **changes):
        tag = f"s1_{protocol}_{tag}"
        directory = tmp_path / "toy" / tag
        directory.mkdir(parents=True)
        scores = make_scores(
            correct=correct, tag=tag, protocol=protocol, leaky=list(leaky), **changes
        )
        (directory / "scores.json").write_text(json.dumps(scores))
        return directory

    return make


def test_gaps_are_taken_from_the_first_sound_row_and_leaks_are_named(experiment):
    # two folds of 4: 2 + 4 right of 8 is a mean of 75, 4 + 4 one of 100
    leaky, sound = experiment("prefix", 4, [LEAK]), experiment("strict", 2)
    text = report_leakage([leaky, sound])
    lines = text.splitlines()
    assert lines[0].startswith("s1 on toy: what a leak is worth")
    prefix, strict = lines[3], lines[4]
    assert prefix.split()[:3] == ["prefix", "2", "1"]
    assert "+25.0" in prefix
    assert prefix.endswith(f"LEAKY: {LEAK}")
    assert "75.0" in strict
    assert "+" not in strict
    assert (sound.parent / "leakage_s1.txt").read_text() == text


def test_a_selection_on_the_test_speaker_is_compared_with_its_own_protocol(experiment):
    # means of 75, 62.5 and 100
    leak = "--select best-on-test: the epoch was chosen by the test utterances"
    runs = [experiment("strict", 2), experiment("paper", 1)]
    runs.append(experiment("paper", 4, [leak], tag="best-on-test_seed1", select="best-on-test"))
    paper, best = report_leakage(runs).splitlines()[4:]
    assert paper.split()[-3:] == ["-12.5", "-12.5", "strict"]
    assert "+37.5   +37.5   paper  LEAKY" in best


def test_a_speaker_dependent_row_is_marked_and_no_gap_is_taken_from_it(experiment):
    lines = report_leakage([experiment("kfold2", 4), experiment("strict", 2)]).splitlines()
    kfold, strict = lines[3], lines[4]
    assert kfold.endswith("speaker-dependent") and "+25.0" in kfold
    assert "+" not in strict


def test_different_systems_are_not_compared(experiment):
    with pytest.raises(UserError, match="system: found s1, s2; compare one system with itself"):
        report_leakage([experiment("strict", 2), experiment("paper", 2, system="s2")])


def test_without_a_sound_row_there_is_no_gap(experiment):
    with pytest.raises(UserError, match="all of these are leaky or"):
        report_leakage([experiment("prefix", 4, [LEAK])])


def test_an_experiment_without_scores_is_named(tmp_path):
    with pytest.raises(UserError, match="scores.json: no such file; score first"):
        report_leakage([tmp_path])
