"""Trained models on other corpora and on worse recordings."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ser.data.tables import read_table, write_lines, write_table
from ser.errors import UserError
from ser.reporting.elsewhere import cross_rows, robust_rows
from ser.scoring import elsewhere
from ser.scoring.elsewhere import crosscorpus, robustness
from ser.scoring.infer import infer_folds
from ser.scoring.score import score_experiment
from ser.scoring.text import difference, signed
from ser.scoring.uncertainty import differences, from_decisions, paired
from tests.support.fake_experiment import (
    FOLDS,
    LABELS,
    LEVELS,
    FakeModel,
    make_experiment,
    train_fold,
    write_run,
)


class Levels(FakeModel):
    """The fake model in the parts of a real one."""

    def __init__(self):
        super().__init__()
        self.frontend = self.encoder = self.pooling = torch.nn.Identity()

    def encode(self, speech, speech_lengths):
        mask = torch.arange(speech.shape[1])[None] < speech_lengths[:, None]
        return SimpleNamespace(pooled=((speech * mask).sum(1) / speech_lengths)[:, None])

    def emotion_head(self, pooled):
        levels = torch.tensor([LEVELS[e] for e in LABELS]) / 32768
        return -self.sharpness * (pooled - levels[None]).abs() * 100

    emotion_head.weight = torch.zeros(1)


class Builder:
    def __init__(self):
        self.calls = 0

    def __call__(self, config, device):
        self.calls += 1
        return Levels()


@pytest.fixture
def toy(tmp_path):
    """A scored experiment, and dump/other with happy, sad and calm."""
    exp, dump, data = make_experiment(tmp_path)
    infer_folds(exp, dump, build_model=Builder())
    score_experiment(exp, dump, data)
    write_table(dump / "utt2hash", {u: u for u in read_table(dump / "utt2emo")})
    other = shutil.copytree(dump, dump.parent / "other")
    emotions = read_table(dump / "utt2emo")
    calm = {u: {"neutral": "calm", "angry": "calm"}.get(e, e) for u, e in emotions.items()}
    write_table(other / "utt2emo", calm)
    write_lines(other / "emotions", ["sad", "calm", "happy"])
    return exp, dump, data


def test_the_dump_of_an_experiment_may_lie_elsewhere(toy):
    exp, dump, _ = toy
    root = shutil.copytree(dump.parent, dump.parents[1] / "scratch")
    for table in dump.glob("utt2*"):
        table.unlink()
    with pytest.raises(UserError):
        robustness(exp, ["clean"], build_model=Builder())
    assert "clean" in robustness(exp, ["clean"], build_model=Builder(), dump_root=root)["tests"]
    found = crosscorpus(exp, [root / "other"], build_model=Builder(), dump_root=root)
    assert "other" in found["tests"]


def test_other_corpora_are_classified_by_the_mean_of_the_folds_among_shared_emotions(toy):
    exp, dump, _ = toy
    record = crosscorpus(exp, [dump.parent / "other"], build_model=Builder())
    test = record["tests"]["other"]
    assert test["labels"] == ["happy", "sad"]
    lines = [line.split("\t") for line in (exp / "crosscorpus.other.tsv").read_text().splitlines()]
    wanted = {u for u, e in read_table(dump / "utt2emo").items() if e in ("happy", "sad")}
    assert {line[0] for line in lines[1:]} == wanted
    utt, level = next((line[0], LEVELS[line[1]]) for line in lines[1:])
    distance = np.abs(level - np.array([LEVELS[e] for e in LABELS])) / 32768 * 100
    mean = np.mean([np.exp(-s * distance) / np.exp(-s * distance).sum() for s in (1, 2, 3)], axis=0)
    shared = mean[[LABELS.index("happy"), LABELS.index("sad")]]
    row = next(line for line in lines if line[0] == utt)
    assert [float(row[3]), float(row[4])] == pytest.approx(
        (shared / shared.sum()).tolist(), abs=1e-5
    )
    assert (test["wa"], test["ua"], len(test["speakers"])) == (1.0, 1.0, 3)
    rows = cross_rows([record])
    assert rows[-1][2:5] == ["other", str(len(wanted)), "3"] and rows[-1][-1] == "50.0"


def test_what_another_process_adds_meanwhile_is_kept(toy):
    exp, dump, _ = toy
    others = [dump.parent / "other", shutil.copytree(dump.parent / "other", dump.parent / "third")]

    def build(config, device):
        crosscorpus(exp, others[1:], build_model=Builder())
        return Levels()

    expected = {dump.name, "other", "third"}
    assert crosscorpus(exp, others[:1], build_model=build)["tests"].keys() == expected
    again = crosscorpus(exp, others, build_model=None)  # all of them are there
    assert again["tests"].keys() == expected


def test_utterances_without_a_majority_are_not_tested(toy):
    exp, dump, _ = toy
    other = dump.parent / "other"
    table = exp / "crosscorpus.other.tsv"
    crosscorpus(exp, [other], build_model=Builder())
    tested = {line.split("\t")[0] for line in table.read_text().splitlines()}
    sad = next(utt for utt, e in read_table(other / "utt2emo").items() if e == "sad")
    write_table(other / "utt2undecided", {sad: "3"})
    crosscorpus(exp, [other], build_model=Builder())
    assert {line.split("\t")[0] for line in table.read_text().splitlines()} == tested - {sad}


def test_the_folds_temperatures_are_used(toy, monkeypatch):
    exp, dump, _ = toy
    cold = crosscorpus(exp, [dump.parent / "other"], build_model=Builder())
    before = (exp / "crosscorpus.other.tsv").read_text()
    monkeypatch.setattr("ser.training.experiment.Experiment.temperature", lambda *_: 5.0)
    (exp / "crosscorpus.json").unlink()
    assert (
        crosscorpus(exp, [dump.parent / "other"], build_model=Builder())["tests"] == cold["tests"]
    )
    assert (exp / "crosscorpus.other.tsv").read_text() != before


def test_on_its_own_corpus_a_system_has_its_leave_one_speaker_out_score(toy):
    exp, dump, data = toy
    path = exp / FOLDS[0] / "predictions.tsv"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    for row in rows[1:]:
        if row[1] == "angry":
            row[2:7] = ["happy", "0.1", "0.9", "0.0", "0.0"]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    scores = score_experiment(exp, dump, data)
    own = crosscorpus(exp, [dump], build_model=Builder())["tests"]["toy"]
    assert own["ua"] < 1
    for name in ("wa", "ua", "wa_ci", "ua_ci"):
        assert own[name] == pytest.approx(scores["summary"][name])


def test_a_pair_that_is_there_is_kept_until_a_fold_is_trained_again(toy):
    exp, dump, _ = toy
    builder = Builder()
    for calls in (1, 1):
        crosscorpus(exp, [dump.parent / "other"], build_model=builder)
        assert builder.calls == calls
    train_fold(exp / FOLDS[0], sharpness=9.0)
    crosscorpus(exp, [dump.parent / "other"], build_model=builder)
    assert builder.calls == 2


def test_fewer_than_two_shared_emotions_and_no_dump_are_one_sentence(toy):
    exp, dump, _ = toy
    write_lines(dump.parent / "other/emotions", ["calm", "sad"])
    with pytest.raises(UserError, match=r"\(calm, sad\) and those of .* share sad; two are"):
        crosscorpus(exp, [dump.parent / "other"])
    with pytest.raises(UserError, match="--on nowhere: there is no nowhere/emotions; expected"):
        crosscorpus(exp, ["nowhere"])


def test_degraded_test_sets_are_scored_against_the_clean_ones(toy):
    exp, dump, data = toy
    record = robustness(exp, ["gain:-6.0206"], build_model=Builder())
    scores = score_experiment(exp, dump, data)
    assert list(record["tests"]) == ["clean", "gain:-6.0206"]
    clean, halved = record["tests"].values()
    assert [e["hyp"] for e in clean["speakers"]] == [e["hyp"] for e in scores["speakers"]]
    # at half the level angry is heard as happy, happy as neutral, neutral as sad
    digits = dict(zip("0123", "1322", strict=True))
    for entry in halved["speakers"]:
        assert entry["hyp"] == "".join(digits[ref] for ref in entry["ref"])


def test_conditions_that_are_there_are_kept_and_a_stopped_run_goes_on(toy, monkeypatch):
    exp, _, _ = toy
    whole, calls, limit = elsewhere.Degrader.__call__, [], [33]  # of 15 utterances each

    def stop(self, condition, *args):
        calls.append(condition)
        if len(calls) == limit[0]:
            raise RuntimeError("stopped")
        return whole(self, condition, *args)

    monkeypatch.setattr(elsewhere.Degrader, "__call__", stop)
    with pytest.raises(RuntimeError, match="stopped"):
        robustness(exp, ["white:10", "clip:10"], build_model=Builder())
    limit[0] = 0
    calls.clear()
    record = robustness(exp, ["white:10", "clip:10"], build_model=Builder())
    assert set(calls) == {"clip:10"}
    assert list(record["tests"]) == ["clean", "white:10", "clip:10"]
    again = robustness(exp, ["white:10.0"], build_model=Builder())
    assert again == record  # nothing is lost that was not asked for


def test_the_change_of_ua_is_paired_over_speakers(toy):
    record = robustness(toy[0], ["gain:-6.0206"], build_model=Builder())
    (clean, halved), classes = robust_rows(record), len(LABELS)
    both = [from_decisions([t["speakers"]], classes, "strict") for t in record["tests"].values()]
    change = differences(paired(*both))["ua"]
    assert clean[3:] == ["", "", ""]
    assert halved[3:] == [signed(change.value), *difference(change)[1:]]
    assert change.value < -0.5


def test_an_experiment_that_is_not_scored_is_refused(toy):
    (toy[0] / "scores.json").unlink()
    with pytest.raises(UserError, match=r"scores.json: no such file; score first"):
        robustness(toy[0])


def test_an_unknown_condition_is_refused_before_anything_is_computed(toy):
    with pytest.raises(UserError, match="--conditions hum:3"):
        robustness(toy[0], ["white:10", "hum:3"])
    assert not (toy[0] / "robustness.json").exists()


@pytest.mark.parametrize(
    "test", [robustness, lambda directory: crosscorpus(directory, ["/none/x"])]
)
@pytest.mark.parametrize("name", ["/none", "none", "/"])
def test_an_experiment_that_is_not_there_is_named_wherever_it_is_sought(test, name):
    with pytest.raises(UserError, match=f"{name.rstrip('/')}/run.yaml: no such file; train first"):
        test(name)


def test_the_dump_of_a_moved_experiment_is_that_of_its_corpus(toy, tmp_path):
    exp, dump, _ = toy
    moved = shutil.copytree(exp, tmp_path / "kept/for/later")
    with pytest.raises(UserError, match=f"{tmp_path}/dump/gone: no such .* --dump-root"):
        write_run(moved, corpus="gone")
        robustness(moved)
    write_run(moved)
    assert elsewhere.own_dump(moved) == dump
    far = shutil.move(moved, tmp_path / "a/b/c/far")
    with pytest.raises(UserError, match=f"{tmp_path}/a/dump/toy: no such .* --dump-root"):
        robustness(far)
    assert elsewhere.own_dump(far, dump.parent) == dump
