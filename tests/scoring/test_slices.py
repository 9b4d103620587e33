"""Slices of the test set, calibration and the error list."""

import json

import pytest

from ser.data.tables import read_table, write_table
from ser.errors import UserError
from ser.reporting.figures import reliability_chart
from ser.scoring.calibration import calibration
from ser.scoring.infer import infer_folds
from ser.scoring.predictions import Prediction, read_predictions, write_errors, write_predictions
from ser.scoring.score import score_experiment
from ser.scoring.slices import find_slices, score_slices
from ser.training.experiment import open_experiment
from tests.support.fake_experiment import FOLDS, LABELS, FakeModel, make_experiment

AH = ["angry", "happy"]


def decided(*rows):
    """Predictions over angry and happy from (id, ref, hyp, confidence)."""
    return [
        Prediction(u, ref, hyp, (sure, 1 - sure) if hyp == "angry" else (1 - sure, sure))
        for u, ref, hyp, sure in rows
    ]


@pytest.fixture
def toy(tmp_path):
    exp, dump, data = make_experiment(tmp_path)
    infer_folds(exp, dump, build_model=lambda config, device: FakeModel())
    return exp, dump, data


def slices_of(toy, names=None):
    """find_slices over the toy corpus, its utterances renamed by ``names`` if given."""
    exp, dump, data = toy
    experiment = open_experiment(exp, dump)
    folds = {
        fold: [Prediction(u, ref, ref, ()) for u, ref in experiment.references(fold).items()]
        for fold in FOLDS
    }
    return find_slices(experiment, folds, data)


# Slices


def test_gender_and_session_are_those_of_the_speaker(toy):
    slices = slices_of(toy)
    assert {value: len(utts) for value, utts in slices["gender"].items()} == {"men": 5, "women": 10}
    assert slices["session"]["Ses02"] == [f"Ses02F_{i:03d}" for i in range(5)]


def test_durations_are_cut_at_the_thirds_of_the_corpus(toy):
    exp, dump, data = toy
    utts = list(read_table(dump / "utt2num_samples"))
    write_table(dump / "utt2num_samples", {u: 16000 * (1 + i) for i, u in enumerate(utts)})
    slices = slices_of(toy)["duration"]  # 1 to 15 s: thirds at 5.67 and 10.33
    assert {name: len(utts) for name, utts in slices.items()} == {
        "up to 5.7 s": 5,
        "5.7 to 10.3 s": 5,
        "over 10.3 s": 5,
    }


def test_a_corpus_without_any_words_has_no_slices_by_text(toy):
    exp, dump, data = toy
    (data / "lang").mkdir()
    write_table(data / "lang/text.words", dict.fromkeys(read_table(dump / "utt2spk"), ""))
    assert "text" not in slices_of(toy) and "gender" in slices_of(toy)


def test_genders_that_nobody_knows_are_no_slice_and_some_are_one_of_their_own(toy):
    _, dump, _ = toy
    genders = read_table(dump / "utt2gender")
    mixed = {u: "u" if g == "m" else g for u, g in genders.items()}
    write_table(dump / "utt2gender", mixed)
    assert {value: len(utts) for value, utts in slices_of(toy)["gender"].items()} == {
        "unknown": 5,
        "women": 10,
    }
    write_table(dump / "utt2gender", dict.fromkeys(genders, "u"))
    assert "gender" not in slices_of(toy)


def test_a_text_is_seen_only_if_the_folds_own_training_has_it(toy):
    exp, dump, data = toy
    words = {u: f"WORDS {u}" for u in read_table(dump / "utt2spk")}
    words["Ses01F_001"] = words["Ses02F_001"] = "THE SAME"  # in two folds: each trains on the other
    words["Ses01F_002"] = words["Ses01F_003"] = "TWICE"  # in one fold: no model trains on it
    words["Ses01M_000"] = words["Ses02F_000"] = ""
    (data / "lang").mkdir()
    write_table(data / "lang/text.words", words)
    slices = slices_of(toy)["text"]
    assert slices["also in training"] == ["Ses01F_001", "Ses02F_001"]
    assert slices["no words"] == ["Ses01M_000", "Ses02F_000"]
    assert len(slices["not in training"]) == 11


def test_validation_utterances_do_not_count_as_training(toy):
    exp, dump, data = toy
    words = {u: f"WORDS {u}" for u in read_table(dump / "utt2spk")}
    words["Ses01F_001"] = words["Ses01M_001"] = "THE SAME"
    for fold, partner in (("Ses01F", "Ses01M"), ("Ses01M", "Ses01F")):
        path = dump / "folds/strict" / fold / "train"
        kept = [u for u in path.read_text().split() if not u.startswith(partner)]
        path.write_text("".join(f"{u}\n" for u in kept))
    (data / "lang").mkdir()
    write_table(data / "lang/text.words", words)
    assert "also in training" not in slices_of(toy)["text"]


def test_without_transcripts_or_styles_there_are_no_such_slices(toy):
    assert set(slices_of(toy)) == {"gender", "duration", "session"}


def test_improvised_and_scripted_are_told_by_the_id(tmp_path):
    exp, dump, data = make_experiment(tmp_path)
    names = {}
    for path in sorted(dump.rglob("*")):
        if path.is_file() and path.suffix != ".ark":
            text = path.read_text()
            for fold in FOLDS:
                for i in range(5):
                    style = "impro01" if i < 2 else "script01_1"
                    names[f"{fold}_{i:03d}"] = f"{fold}_{style}_{i:03d}"
                    text = text.replace(f"{fold}_{i:03d}", names[f"{fold}_{i:03d}"])
            path.write_text(text)
    slices = slices_of((exp, dump, data))["style"]
    assert {value: len(utts) for value, utts in slices.items()} == {"improvised": 6, "scripted": 9}


def test_a_slice_is_scored_on_its_utterances_pooled():
    rows = decided(
        ("a", "angry", "angry", 0.9),
        ("b", "angry", "happy", 0.8),
        ("c", "happy", "happy", 0.7),
        ("d", "angry", "angry", 0.6),
    )
    scores = score_slices({"gender": {"women": ["a", "b", "c"], "men": ["d"]}}, rows, AH)
    women, men = scores["gender"]["women"], scores["gender"]["men"]
    assert women == {"n": 3, "wa": 2 / 3, "ua": (1 / 2 + 1) / 2, "absent": []}
    assert men == {"n": 1, "wa": 1.0, "ua": 1.0, "absent": ["happy"]}


def test_a_table_that_lacks_an_utterance_is_named(toy):
    exp, dump, data = toy
    genders = read_table(dump / "utt2gender")
    del genders["Ses01M_003"]
    write_table(dump / "utt2gender", genders)
    with pytest.raises(UserError, match=r"utt2gender: 1 scored .* in it: Ses01M_003; .*--stage 3"):
        slices_of(toy)


def test_slices_and_calibration_reach_the_table_and_scores_json(toy):
    exp, dump, data = toy
    scores = score_experiment(exp, dump, data)
    table = (exp / "scores.txt").read_text()
    assert "gender: women" in table and "session: Ses02" in table
    assert "calibration error (ECE, 10 bins)" in table
    stored = json.loads((exp / "scores.json").read_text())
    assert stored["slices"]["gender"]["men"]["n"] == 5
    assert stored["calibration"] == scores["calibration"]


# Calibration


def test_calibration_error_is_the_weighted_distance_of_accuracy_and_confidence():
    # Bin 0.9 to 1: confidence 0.95, 1 of 2 right; bin 0.6 to 0.7: 0.65, 1 of 1 right.
    rows = decided(
        ("a", "angry", "angry", 0.94), ("b", "angry", "happy", 0.96), ("c", "happy", "happy", 0.65)
    )
    found = calibration(rows, AH)
    assert found["ece"] == pytest.approx(2 / 3 * 0.45 + 1 / 3 * 0.35)
    assert found["confidence"] == pytest.approx((0.94 + 0.96 + 0.65) / 3)
    assert found["accuracy"] == pytest.approx(2 / 3)
    full = {round(b["low"], 1): b for b in found["bins"] if b["n"]}
    assert full[0.9] == {
        "low": 0.9,
        "high": 1.0,
        "n": 2,
        "confidence": pytest.approx(0.95),
        "accuracy": 0.5,
    }
    assert sum(b["n"] for b in found["bins"]) == 3


def test_a_bin_holds_its_upper_edge():
    found = calibration(decided(("a", "angry", "angry", 0.7), ("b", "angry", "angry", 1.0)), AH)
    assert [round(b["high"], 1) for b in found["bins"] if b["n"]] == [0.7, 1.0]


def test_decisions_as_often_right_as_they_are_sure_have_no_calibration_error():
    rows = decided(*((str(i), "angry", "angry" if i < 8 else "happy", 0.8) for i in range(10)))
    assert calibration(rows, AH)["ece"] == pytest.approx(0.0)


def test_the_reliability_plot_shows_accuracy_by_bin_and_how_many_there_are():
    rows = decided(
        ("a", "angry", "angry", 0.94), ("b", "angry", "happy", 0.96), ("c", "happy", "happy", 0.65)
    )
    scores = {
        "calibration": calibration(rows, AH),
        "folds": {"expected": ["F"], "missing": {}},
        **{"partial": False, "system": "s", "corpus": "c", "protocol": "p", "leaky": []},
    }
    accuracy, count = reliability_chart(scores, "Reliability").axes
    assert [bar.get_height() for bar in accuracy.patches if bar.get_height()] == [100.0, 50.0]
    assert [bar.get_height() for bar in count.patches if bar.get_height()] == [1, 2]


# Errors


def test_the_error_list_begins_with_the_surest_mistake(tmp_path):
    rows = decided(
        ("a", "angry", "happy", 0.6),
        ("b", "happy", "happy", 0.99),
        ("c", "happy", "angry", 0.9),
        ("d", "angry", "happy", 0.9),
    )
    wavs = {u: f"/corpus/{u}.wav" for u in "abcd"}
    write_errors(tmp_path / "errors.tsv", AH, rows, wavs, {u: u.upper() for u in "abcd"})
    assert (tmp_path / "errors.tsv").read_text() == (
        "utt_id\tref\thyp\tconfidence\tp_ref\twav\torig_id\n"
        "c\thappy\tangry\t0.900\t0.100\t/corpus/c.wav\tC\n"
        "d\tangry\thappy\t0.900\t0.100\t/corpus/d.wav\tD\n"
        "a\tangry\thappy\t0.600\t0.400\t/corpus/a.wav\tA\n"
    )


def test_the_error_list_names_the_corpuss_own_audio_where_it_is_known(toy):
    exp, dump, data = toy
    path = exp / "Ses01F/predictions.tsv"
    lines = path.read_text().splitlines()
    utt, ref = lines[1].split("\t")[:2]
    lines[1] = "\t".join([utt, ref, LABELS[1], "0.2", "0.8", "0", "0", "", utt])
    path.write_text("\n".join(lines) + "\n")
    score_experiment(exp, dump, data)
    assert f"{utt}\tangry\thappy\t0.800\t0.200\t{dump}/wav.ark:" in (exp / "errors.tsv").read_text()
    originals = {u: f"/corpus/{u}.wav" for u in read_table(dump / "utt2spk")}
    write_table(data / "all/wav.scp", originals)
    score_experiment(exp, dump, data)
    assert f"0.200\t/corpus/{utt}.wav\t{utt}\n" in (exp / "errors.tsv").read_text()


def test_a_decision_for_another_than_the_most_probable_emotion_is_refused(tmp_path):
    path = tmp_path / "predictions.tsv"
    write_predictions(path, AH, [Prediction("u0", "angry", "angry", (0.3, 0.7))])
    expected = r":? 1 decisions that are not the most .*: line 2 u0 \(angry, not happy\)"
    with pytest.raises(UserError, match=expected):
        read_predictions(path, AH, {"u0": "angry"})


def test_a_fold_scored_with_other_labels_is_refused(toy):
    exp, dump, data = toy
    path = exp / "Ses02F/predictions.tsv"
    path.write_text(path.read_text().replace("p_happy", "p_bored"))
    with pytest.raises(
        UserError, match=r"Ses02F/predictions.tsv:1: expected the columns .*p_happy"
    ):
        score_experiment(exp, dump, data)
