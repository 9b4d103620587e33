"""Stages 4 and 5 for real with label heads of several tables beside the CTC head."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from ser.data.tables import read_lines, read_table, write_table
from ser.errors import UserError
from ser.predict.classifier import SpeechEmotion
from ser.predict.formats import as_csv, as_json, as_text, csv_header
from ser.release.pack import pack_experiment
from ser.scoring.auxiliary import read_label_decisions
from ser.scoring.infer import infer_folds
from ser.scoring.score import score_experiment
from ser.training.experiment import open_experiment
from tests.support.training import (
    SYSTEM,
    read_json,
    train,
    write_system,
)

HEADS = {
    "gender": {"type": "label", "weight": 0.5},
    "pr": {"type": "ctc", "weight": 0.1},
    "speaker": {
        "type": "label",
        "table": "utt2spk",
        "weight": 0.1,
        "gradient_reversal": 1.0,
    },
    "take": {"type": "label", "weight": 0.0},  # utt2take, which is invented here
    "v": {"type": "value", "weight": 0.3, "range": [0, 9]},  # and utt2v
}
ODD = "Ses01F_angry0"  # a test utterance of fold Ses01F without a take


@pytest.fixture(scope="module")
def corpus(corpus) -> Path:
    dump = corpus / "dump/tones"
    takes = {utt_id: f"take{utt_id[-1]}" for utt_id in read_table(dump / "utt2emo")}
    del takes[ODD], takes["Ses02F_angry0"]  # and a training utterance
    write_table(dump / "utt2take", takes)
    write_table(dump / "utt2v", {utt_id: 2 + 3 * int(take[-1]) for utt_id, take in takes.items()})
    write_system(corpus / "heads.yaml", aux_conf=HEADS)
    return corpus


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory) -> Path:
    exp_dir = tmp_path_factory.mktemp("exp") / "tones/heads"
    train(corpus, exp_dir, config=corpus / "heads.yaml", max_epoch=2)
    return exp_dir


@pytest.fixture(scope="module")
def scores(corpus, trained) -> dict:
    infer_folds(trained, corpus / "dump/tones", folds=["Ses01F"])
    return score_experiment(trained, corpus / "dump/tones", corpus / "data/tones")


def test_the_classes_of_a_fold_are_kept_with_its_model(corpus, trained):
    config = yaml.safe_load((trained / "Ses01F/config.yaml").read_text())
    values = {head: known["values"] for head, known in config["aux_labels"].items()}
    assert values == {
        "gender": ["f", "m"],
        "speaker": ["Ses02F", "Ses02M"],  # Ses01F is tested, Ses01M validates
        "take": ["take0", "take1"],
        "v": [pytest.approx(2 + 3 * 8 / 15), pytest.approx(3 * (8 / 15 * 7 / 15) ** 0.5)],
    }


def test_the_history_has_the_loss_and_accuracy_of_each_head(trained):
    for entry in read_json(trained / "Ses01F/history.json"):
        train_stats, valid = entry["train"], entry["valid"]
        expected = train_stats["loss_er"] + 0.5 * train_stats["loss_gender"]
        expected += 0.1 * train_stats["loss_pr"] + 0.1 * train_stats["loss_speaker"]
        expected += 0.3 * train_stats["loss_v"]
        assert -1 <= train_stats["ccc_v"] <= 1 and "refhyp_v" not in train_stats
        assert train_stats["loss"] == pytest.approx(expected, rel=1e-3)
        # 16 training utterances, one of them without a take
        assert train_stats["skipped_take"] == pytest.approx(1 / 16)
        right = train_stats["accuracy_take"] * 15
        assert right == pytest.approx(round(right), abs=1e-4)
        assert train_stats["correct_take"] * 16 == pytest.approx(right, abs=1e-4)
        assert valid["skipped_speaker"] == 1
        assert valid["loss_speaker"] == 0
        assert "accuracy_speaker" not in valid


def test_the_number_of_parameters_is_noted(trained):
    found = read_json(trained / "Ses01F/run.json")["parameters"]
    heads = {"emotion": 4, "gender": 2, "pr": 25, "speaker": 2, "take": 2, "v": 1}
    in_heads = sum((32 + 1) * size for size in heads.values())
    assert found["total"] > found["trained"] > in_heads  # masked_spec_embed is not trained
    assert read_json(trained / "Ses01F/parameters.json") == found


@pytest.mark.slow
def test_frozen_parameters_count_as_trained_only_if_they_are_released(corpus, tmp_path):
    found = {}
    for release in (0, 1, 2):
        frontend = {**SYSTEM["frontend_conf"], "freeze": "all", "unfreeze_after": release}
        changes = {"frontend_conf": frontend, "aux_conf": {}, "max_epoch": 2}
        config = write_system(tmp_path / f"{release}.yaml", **changes)
        train(corpus, tmp_path / str(release), config=config)
        found[release] = read_json(tmp_path / str(release) / "Ses01F/run.json")["parameters"]
    # the emotion head and the two weights of the fusion; released after epoch 1 of 2 all else
    assert found[0]["trained"] == found[2]["trained"] == 4 * 33 + 2
    assert found[1]["trained"] > 1000
    assert found[0]["total"] == found[1]["total"]


def test_utterances_without_a_value_are_counted_before_training(corpus, tmp_path, capsys):
    train(corpus, tmp_path / "exp", config=corpus / "heads.yaml", check_only=True)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(said) == 1 and "utt2v: no value for 2 utterances, the first Ses01F_angry0" in said[0]


def test_every_test_utterance_gets_a_decision_of_each_label_head(corpus, trained, scores):
    utts = read_lines(corpus / "dump/tones/folds/strict/Ses01F/test")
    heads = ("gender", "speaker", "take", "v")
    rows = read_label_decisions(trained / "Ses01F/auxiliary.tsv", utts, heads)
    assert [(row.utt_id, row.head) for row in rows] == [(u, h) for u in utts for h in heads]
    for row in rows:
        take = row.utt_id[-1]
        expected = {"gender": "f", "speaker": "", "take": f"take{take}"}
        expected["v"] = str(2.0 + 3 * int(take))
        unknown = row.utt_id == ODD and row.head in ("take", "v")
        assert row.ref == ("" if unknown else expected[row.head])
        assert row.p_hyp is None if row.head == "v" else 0.5 <= row.p_hyp <= 1  # the best of two


def test_a_head_of_values_is_scored_and_packed(corpus, trained, scores):
    found = scores["auxiliary"]["v"]
    assert (found["n"], found["unknown"], list(found["per_speaker"])) == (7, 1, ["Ses01F"])
    rows = read_label_decisions(
        trained / "Ses01F/auxiliary.tsv",
        read_lines(corpus / "dump/tones/folds/strict/Ses01F/test"),
        HEADS.keys() - {"pr"},
    )
    pairs = [(float(r.ref), float(r.hyp)) for r in rows if r.head == "v" and r.ref]
    assert found["rmse"] == pytest.approx(np.mean([(x - y) ** 2 for x, y in pairs]) ** 0.5)
    packed, _ = pack_experiment(trained, ["Ses01F"])
    wav = next(iter(read_table(corpus / "data/tones/all/wav.scp").values()))
    out = [
        SpeechEmotion.from_pretrained(source, folds=["Ses01F"])(wav) for source in (packed, trained)
    ]
    assert out[0].values == out[1].values and 2 < out[0].values["v"] < 5.5
    assert f"  v {out[0].values['v']:.2f}" in as_text("a", out[0])
    assert json.loads(as_json("a", out[0]))["segments"][0]["values"].keys() == {"v"}
    assert csv_header(["x"], ["v"]).endswith(",p_x,v,warnings\n")
    assert f",{out[0].values['v']:.6f}," in as_csv("a", out[0]).splitlines()[1]


def test_label_heads_are_scored_and_the_units_are_still_those_of_the_ctc_head(trained, scores):
    lines = (trained / "Ses01F/auxiliary.tsv").read_text().splitlines()[1:]
    cells = [line.split("\t") for line in lines]
    right = [hyp == "f" for _, head, _, hyp, _ in cells if head == "gender"]
    assert scores["auxiliary"]["gender"] == {"accuracy": sum(right) / 8, "n": 8, "unknown": 0}
    assert scores["auxiliary"]["speaker"] == {"accuracy": None, "n": 0, "unknown": 8}
    assert (scores["auxiliary"]["take"]["n"], scores["auxiliary"]["take"]["unknown"]) == (7, 1)
    assert read_json(trained / "scores.json")["auxiliary"] == scores["auxiliary"]
    table = (trained / "scores.txt").read_text()
    assert "auxiliary head speaker: accuracy - % of 0 utterances; 8 whose" in table
    assert scores["units"]["reference_units"] > 0


def test_the_ctc_head_fills_the_units_although_it_stands_second(corpus, trained, scores):
    assert open_experiment(trained, corpus / "dump/tones").units_head("Ses01F") == "pr"
    assert (trained / "Ses01F/decisions.jsonl").is_file()


def test_lost_decisions_of_label_heads_are_asked_for(corpus, trained, scores, tmp_path):
    shutil.copytree(trained, tmp_path / "exp", symlinks=True)
    (tmp_path / "exp/Ses01F/auxiliary.tsv").unlink()
    with pytest.raises(UserError, match=r"auxiliary.tsv: no such file; infer this fold again"):
        score_experiment(tmp_path / "exp", corpus / "dump/tones", corpus / "data/tones")


@pytest.fixture
def changed(corpus, tmp_path) -> Path:
    """The corpus, whose utt2take may be spoilt."""
    shutil.copytree(corpus / "dump", tmp_path / "corpus/dump")
    shutil.copy(corpus / "heads.yaml", tmp_path / "corpus/heads.yaml")
    return tmp_path / "corpus"


def test_a_table_that_changed_since_training_is_refused_like_other_changed_data(changed, trained):
    with open(changed / "dump/tones/utt2take", "a") as stream:
        stream.write(f"{ODD} take0\n")
    with pytest.raises(UserError, match=r"data.labels.take.sha256: .*\n.*--overwrite true"):
        train(changed, trained, config=changed / "heads.yaml", max_epoch=2)
    with pytest.raises(UserError, match=r"trained on other data .*another table of an auxiliary"):
        open_experiment(trained, changed / "dump/tones")
    (changed / "dump/tones/utt2take").unlink()
    with pytest.raises(UserError, match="trained on other data "):
        open_experiment(trained, changed / "dump/tones")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, r"aux_conf.take.table: .*utt2take: no such file; .*utt2gender"),
        ("Ses01F_sad0 a b\n", r"aux_conf.take.table: .*'a b'; expected one word"),
        ("Ses01F_sad0\n", r"aux_conf.take.table: .*utt2take:1: .*no value"),
        ("Ses01F_sad0 a\nSes01M_sad0 b\n", r"aux_conf.take.table: utt2take has no value .*Ses01F"),
        ("Ses02F_sad0 a\nSes02M_sad0 a\n", r"aux_conf.take.table: utt2take has only the value a"),
    ],
)
def test_an_unfit_table_is_refused_before_anything_is_written(changed, tmp_path, table, message):
    path = changed / "dump/tones/utt2take"
    path.unlink() if table is None else path.write_text(table)
    with pytest.raises(UserError, match=message):
        train(changed, tmp_path / "exp", config=changed / "heads.yaml")
    assert not (tmp_path / "exp").exists()


def test_a_ctc_head_without_any_transcript_is_refused_and_a_label_head_is_not(changed, tmp_path):
    dump = changed / "dump/tones"
    write_table(dump / "text", dict.fromkeys(read_table(dump / "utt2emo"), ""))
    with pytest.raises(UserError, match=r"aux_conf.pr: .*dump/tones/text holds none; .*--text FIL"):
        train(changed, tmp_path / "exp", config=changed / "heads.yaml", check_only=True)
    assert not (tmp_path / "exp").exists()
    write_system(changed / "heads.yaml", aux_conf={"gender": HEADS["gender"]})
    train(changed, tmp_path / "exp", config=changed / "heads.yaml", max_epoch=1)
    infer_folds(tmp_path / "exp", dump, folds=["Ses01F"])
    assert open_experiment(tmp_path / "exp", dump).units_head("Ses01F") is None
    assert (tmp_path / "exp/Ses01F/auxiliary.tsv").is_file()


def test_a_table_may_lie_anywhere(corpus, tmp_path):
    takes = read_table(corpus / "dump/tones/utt2take")
    write_table(tmp_path / "takes", takes)
    take = {"type": "label", "weight": 0.1, "table": str(tmp_path / "takes")}
    config = write_system(tmp_path / "system.yaml", aux_conf={"t": take}, max_epoch=1)
    train(corpus, tmp_path / "exp", config=config)
    infer_folds(tmp_path / "exp", corpus / "dump/tones", folds=["Ses01F"])
    rows = (tmp_path / "exp/Ses01F/auxiliary.tsv").read_text().splitlines()[1:]
    assert len(rows) == 8
