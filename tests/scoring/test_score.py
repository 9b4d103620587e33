"""Stage 5, second half: formulae against examples worked by hand, and what must not be hidden."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

from ser import provenance
from ser.data.tables import read_table, write_table
from ser.errors import UserError
from ser.lang.units import tag_stripper, unit_error_rate
from ser.provenance import git_commit, public_path, run_command, settings_digest
from ser.scoring.infer import infer_folds
from ser.scoring.metrics import accuracy, confusion_matrix, mean_sd, recalls, unweighted_accuracy
from ser.scoring.predictions import Prediction, header, read_predictions, write_predictions
from ser.scoring.score import (
    add_intervals,
    decisions_by_speaker,
    owners,
    score_experiment,
    score_folds,
    score_units,
)
from ser.scoring.text import differing, format_scores, partial_notes
from ser.scoring.uncertainty import METHOD_KNOWN
from ser.training.experiment import open_experiment
from tests.support.fake_experiment import FOLDS, LABELS, make_experiment, write_run
from tests.support.fake_experiment import FakeModel as Model
from tests.support.fake_scores import make_scores

AH = ["angry", "happy"]


def rows(refs, hyps, labels=AH, prefix="u"):
    """Predictions from strings such as "aah": the first letters of the emotions."""
    names = {label[0]: label for label in labels}
    return [
        Prediction(f"{prefix}{i}", names[r], names[h], tuple(float(n[0] == h) for n in labels))
        for i, (r, h) in enumerate(zip(refs, hyps, strict=True))
    ]


# Two folds worked by hand.
# F1: references a a a h, decisions a a h h: accuracy 3/4; recalls 2/3 and 1/1, mean 5/6.
# F2: references a h,     decisions h h:     accuracy 1/2; recalls 0/1 and 1/1, mean 1/2.
TWO = {"F1": rows("aaah", "aahh", prefix="F1_"), "F2": rows("ah", "hh", prefix="F2_")}


def test_the_confusion_matrix_has_references_in_rows_and_decisions_in_columns():
    counts = confusion_matrix(["angry", "angry", "happy"], ["angry", "happy", "happy"], AH)
    assert counts.tolist() == [[1, 1], [0, 1]]


def test_accuracy_of_a_fold_is_eq_8():
    assert accuracy(np.array([[2, 1], [0, 1]])) == pytest.approx(3 / 4)


def test_recall_of_a_class_is_its_diagonal_over_its_row():
    assert recalls(np.array([[2, 1], [0, 1]])) == pytest.approx([2 / 3, 1.0])


def test_wa_is_the_mean_of_the_folds_accuracies_eq_9():
    assert score_folds(TWO, AH)["summary"]["wa"] == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_ua_is_the_mean_of_the_folds_mean_recalls_eq_10():
    assert score_folds(TWO, AH)["summary"]["ua"] == pytest.approx((5 / 6 + 1 / 2) / 2)


def test_folds_of_one_speaker_are_scored_together_where_scores_are_means_over_speakers():
    # F1 and F2 are one speaker's: 4 of 6 right, recalls 2/4 and 2/2; F3 another's: 1 of 2, 1 and 0
    folds = {**TWO, "F3": rows("ah", "aa")}
    owner = {"F1": "A", "F2": "A", "F3": "B"}
    summary = score_folds(folds, AH, owner)["summary"]
    assert summary["wa"] == pytest.approx((4 / 6 + 1 / 2) / 2)
    assert summary["ua"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert summary["wa_pooled"] == pytest.approx(5 / 8)
    speakers = [{"fold": "A_g1", "speaker": "A"}, {"fold": "A_g2", "speaker": "A"}]
    assert owners(speakers, "crossed2") == {"A_g1": "A", "A_g2": "A"}
    assert owners(speakers, "strict") is None


def test_pooled_scores_count_all_folds_as_one_test_set():
    summary = score_folds(TWO, AH)["summary"]
    assert summary["wa_pooled"] == pytest.approx(4 / 6)  # 3 and 1 of 6 are right
    assert summary["ua_pooled"] == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert summary["n"] == 6


def test_the_deviation_over_folds_divides_by_n_minus_1():
    # 3/4 and 1/2 lie 1/8 from their mean: sqrt(2/64 / 1) = sqrt(1/32).
    assert score_folds(TWO, AH)["summary"]["wa_sd"] == pytest.approx((1 / 32) ** 0.5)
    assert mean_sd([0.4]) == (0.4, None)


def test_per_class_recall_and_the_normalised_matrix_are_pooled():
    scores = score_folds(TWO, AH)
    assert {name: of["n"] for name, of in scores["per_class"].items()} == {"angry": 4, "happy": 2}
    assert [of["recall"] for of in scores["per_class"].values()] == [0.5, 1.0]
    assert scores["confusion"]["counts"] == [[2, 2], [0, 2]]
    assert scores["confusion"]["row_normalised"] == [[0.5, 0.5], [0.0, 1.0]]


def test_a_class_that_nobody_expressed_is_left_out_of_ua_and_listed():
    labels = [*AH, "sad"]
    scores = score_folds({"F1": rows("aah", "ash", labels), "F2": rows("as", "as", labels)}, labels)
    # F1 has no sad: (1/2 + 1/1) / 2, although one decision was sad.
    assert scores["per_fold"]["F1"]["ua"] == pytest.approx(0.75)
    assert scores["per_fold"]["F1"]["absent"] == ["sad"]
    assert scores["per_fold"]["F2"]["absent"] == ["happy"]


def test_a_class_absent_from_all_folds_has_no_recall():
    labels = [*AH, "sad"]
    scores = score_folds({"F1": rows("ah", "ah", labels)}, labels)
    assert scores["per_class"]["sad"] == {"n": 0, "precision": None, "recall": None, "f1": None}
    assert scores["macro"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert scores["confusion"]["row_normalised"][2] == [None, None, None]


def test_precision_and_f1_are_pooled_and_macro_is_their_mean():
    # Pooled matrix: angry 2 right, 2 taken for happy; happy 2 right.
    # angry: of 2 decisions 2 right; 2 * 2 / (4 + 2). happy: of 4 decisions 2 right; 4 / (2 + 4).
    scores = score_folds(TWO, AH)
    assert [of["precision"] for of in scores["per_class"].values()] == [1.0, 0.5]
    assert [of["f1"] for of in scores["per_class"].values()] == pytest.approx([2 / 3, 2 / 3])
    assert scores["macro"] == pytest.approx({"precision": 3 / 4, "recall": 3 / 4, "f1": 2 / 3})


def test_a_class_never_decided_for_has_no_precision_and_counts_as_0_in_means():
    # 2 angry, 1 happy, all taken for angry: precision 2/3, F1 2 * 2 / (2 + 3).
    scores = score_folds({"F1": rows("aah", "aaa")}, AH)
    angry, happy = scores["per_class"].values()
    assert (angry["precision"], angry["f1"]) == pytest.approx((2 / 3, 4 / 5))
    assert (happy["precision"], happy["recall"], happy["f1"]) == (None, 0.0, 0.0)
    assert scores["macro"] == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5})


def test_precision_recall_and_f1_agree_with_scikit_learn_where_they_are_undefined_too():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with librosa")
    rng = random.Random(11)
    labels = [*LABELS, "never decided for", "never said", "neither"]
    refs = [rng.choice(labels[:5]) for _ in range(200)]
    hyps = [rng.choice([*labels[:4], labels[5]]) for _ in range(200)]
    found = score_folds({"F": list(map(prediction, refs, hyps))}, labels)
    expected = metrics.precision_recall_fscore_support(
        refs, hyps, labels=labels, zero_division=np.nan
    )
    macro = metrics.precision_recall_fscore_support(
        refs, hyps, labels=labels, zero_division=np.nan, average="macro"
    )
    # as it is called without further options, labels being those that occur
    by_default = metrics.precision_score(refs, hyps, average="macro", zero_division=0)
    macro = (by_default, *macro[1:])
    for name, of, mean in zip(("precision", "recall", "f1"), expected, macro, strict=False):
        mine = [np.nan if v[name] is None else v[name] for v in found["per_class"].values()]
        assert mine == pytest.approx(of.tolist(), nan_ok=True)
        assert found["macro"][name] == pytest.approx(mean)


def prediction(ref, hyp):
    return Prediction("", ref, hyp, ())


def test_wa_ua_and_matrix_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with librosa")
    rng = random.Random(7)
    refs = LABELS + [rng.choice(LABELS) for _ in range(200)]
    hyps = LABELS + [rng.choice(LABELS) for _ in range(200)]
    counts = confusion_matrix(refs, hyps, LABELS)
    assert counts.tolist() == metrics.confusion_matrix(refs, hyps, labels=LABELS).tolist()
    assert accuracy(counts) == pytest.approx(metrics.accuracy_score(refs, hyps))
    assert unweighted_accuracy(counts) == pytest.approx(metrics.balanced_accuracy_score(refs, hyps))


def test_uer_counts_the_tag_and_per_does_not():
    # Against V0 S0 V0, the decoded V0 S1 has one wrong tag and one deletion.
    folds = {"F1": [Prediction("u", "angry", "angry", (1.0, 0.0), ("V0", "S1"))]}
    units = score_units(folds, {"u": ["V0", "S0", "V0"]}, tag_stripper("tagged_class"))
    assert units["uer"] == pytest.approx(2 / 3)
    assert units["per"] == pytest.approx(1 / 3)


def test_the_utterance_of_median_error_is_shown_with_its_units_aligned_without_tags():
    # rates 0, 1/2 and 1; utterance "none" has no words and is not among them
    hyps = {"good": ("V0", "S0"), "half": ("S1", "V1"), "bad": (), "none": ("S0",)}
    folds = {"F1": [Prediction(u, "angry", "angry", (1.0, 0.0), h) for u, h in hyps.items()]}
    references = {"good": ["V0", "S0"], "half": ["S0", "N0"], "bad": ["V0"], "none": []}
    sample = score_units(folds, references, tag_stripper("tagged_class"))["sample"]
    assert sample == {"utt_id": "half", "rate": 0.5, "pairs": [["S0", "S1"], ["N0", "V1"]]}


def test_a_deletion_and_an_insertion_leave_a_gap_on_their_side():
    hyp = ("N1", "V0", "S0")
    folds = {"F1": [Prediction("u", "angry", "angry", (1.0, 0.0), hyp)]}
    units = score_units(folds, {"u": ["V0", "S0", "L0"]}, tag_stripper("tagged_class"))
    pairs = [[None, "N1"], ["V0", "V0"], ["S0", "S0"], ["L0", None]]
    assert units["sample"]["pairs"] == pairs


def test_without_words_anywhere_no_utterance_is_shown():
    folds = {"F1": [Prediction("u", "angry", "angry", (1.0, 0.0), ("V0",))]}
    assert score_units(folds, {"u": []}, tag_stripper("class"))["sample"] is None


def test_unit_errors_are_summed_before_dividing():
    # 1 of 1 wrong and 0 of 3: 1/4, not the mean of the utterances' rates, 1/2.
    rate = unit_error_rate(
        {"a": ["V0"], "b": ["V0", "S0", "V0"]}, {"a": ["N0"], "b": ["V0", "S0", "V0"]}
    )
    assert rate.rate == pytest.approx(1 / 4)


def test_insertions_count_and_a_rate_may_exceed_one():
    assert unit_error_rate({"a": ["V0"]}, {"a": ["S0", "V0", "S0", "N0"]}).rate == 3.0


def test_utterances_without_words_are_left_out_of_unit_errors_and_counted():
    rate = unit_error_rate({"a": [], "b": ["V0"]}, {"a": ["S0", "S0"], "b": ["V0"]})
    assert (rate.edits, rate.units, rate.utterances, rate.empty) == (0, 1, 1, 1)


def test_without_any_reference_unit_there_is_no_rate():
    assert unit_error_rate({"a": []}, {"a": ["S0"]}).rate is None


@pytest.mark.parametrize(
    ("token_type", "unit", "bare"),
    [
        ("tagged_class", "Vs3", "Vs"),
        ("tagged_class", "S0", "S"),
        ("tagged_phone", "AH0_2", "AH0"),
        ("class", "Vs", "Vs"),
        ("phone", "AH0", "AH0"),
    ],
)
def test_only_the_emotion_tag_is_taken_off_a_unit(token_type, unit, bare):
    assert tag_stripper(token_type)(unit) == bare


@pytest.mark.parametrize("token_type", ["char", "bpe"])
def test_characters_and_pieces_have_no_phoneme_error_rate(token_type):
    folds = {"F1": [Prediction("u", "angry", "angry", (1.0, 0.0), ("a",))]}
    units = score_units(folds, {"u": ["a", "b"]}, tag_stripper(token_type))
    assert units["per"] is None
    assert units["uer"] == 0.5


# Predictions files


@pytest.fixture
def table(tmp_path):
    """A sound predictions.tsv of three rows, and a function that spoils it."""
    path = tmp_path / "predictions.tsv"
    write_predictions(path, AH, rows("aah", "aha"))
    expected = {"u0": "angry", "u1": "angry", "u2": "happy"}

    def spoil(change):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(change(lines)) + "\n")

    return path, expected, spoil


def test_predictions_survive_writing_and_reading(tmp_path):
    written = [
        Prediction("u0", "angry", "happy", (0.25, 0.75), ("V0", "S0")),
        Prediction("u1", "happy", "happy", (0.0, 1.0), ()),
    ]
    write_predictions(tmp_path / "p.tsv", AH, written, {"u0": "01/u0", "u1": "01/u1"})
    assert (tmp_path / "p.tsv").read_text() == (
        "utt_id\tref\thyp\tp_angry\tp_happy\tunits\torig_id\n"
        "u0\tangry\thappy\t0.250000\t0.750000\tV0 S0\t01/u0\n"
        "u1\thappy\thappy\t0.000000\t1.000000\t\t01/u1\n"
    )
    assert read_predictions(tmp_path / "p.tsv", AH, {"u1": "happy", "u0": "angry"}) == written[::-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:2] + x[3:], r"1 missing utterances: u1"),
        (lambda x: x + [x[1]], r"1 repeated utterances: line 5 u0 \(first in line 2\)"),
        (lambda x: x + [x[1].replace("u0", "u9")], r"outside this fold's test list: line 5 u9"),
        (lambda x: [x[0], x[1].replace("\tangry\ta", "\tangry\tbored\ta", 1), *x[2:]], "malformed"),
        (
            lambda x: [x[0], x[1].replace("angry\tangry", "angry\tbored"), *x[2:]],
            r"1 unknown emotions: line 2 u0 \(hyp 'bored'\)",
        ),
        (
            lambda x: [x[0], x[1].replace("angry\tangry", "happy\tangry"), *x[2:]],
            r"wrong references: line 2 u0 \(happy, the corpus says angry\)",
        ),
        (lambda x: [x[0], x[1].replace("1.000000", "nan"), *x[2:]], r"not numbers.*line 2 u0"),
        (lambda x: [x[0], x[1].replace("1.000000", "x"), *x[2:]], r"not numbers.*line 2 u0"),
        (
            lambda x: [x[0], x[1].replace("1.000000", "0.900000"), *x[2:]],
            r"do not sum to 1: line 2 u0 \(sum 0.900000\)",
        ),
        (lambda x: [x[0].replace("p_happy", "p_sad"), *x[1:]], r":1: expected the columns"),
        (lambda x: [], r":1: expected the columns"),
    ],
)
def test_spoilt_predictions_name_the_file_and_the_rows(table, change, message):
    path, expected, spoil = table
    spoil(change)
    with pytest.raises(UserError, match=message) as caught:
        read_predictions(path, AH, expected)
    assert str(caught.value).startswith(str(path))
    assert "--stage 5" in str(caught.value)


def test_many_faults_are_counted_and_a_few_named(tmp_path):
    write_predictions(tmp_path / "p.tsv", AH, [])
    with pytest.raises(UserError, match=r"9 missing utterances: u0, u1, u2, u3, u4 and 4 more"):
        read_predictions(tmp_path / "p.tsv", AH, {f"u{i}": "angry" for i in range(9)})


def test_the_header_names_every_probability():
    assert header(AH) == ["utt_id", "ref", "hyp", "p_angry", "p_happy", "units", "orig_id"]


# Experiments


@pytest.fixture
def toy(tmp_path):
    exp, dump, data = make_experiment(tmp_path)
    infer_folds(exp, dump, build_model=lambda config, device: Model())
    return exp, dump, data


def test_scores_are_written_as_json_and_as_a_table(toy, capsys):
    exp, dump, data = toy
    scores = score_experiment(exp, dump, data)
    assert json.loads((exp / "scores.json").read_text()) == json.loads(json.dumps(scores))
    assert (exp / "scores.txt").read_text() in capsys.readouterr().out
    assert scores["summary"]["wa"] == 1.0
    assert scores["folds"] == {"expected": FOLDS, "scored": FOLDS, "missing": {}}
    assert scores["partial"] is False
    assert "PARTIAL" not in (exp / "scores.txt").read_text()
    assert scores["per_fold"]["Ses01F"]["epochs"] == 2
    assert scores["per_fold"]["Ses01F"]["train_seconds"] == 1.5


def test_scores_say_what_they_come_from(toy):
    exp, dump, data = toy
    scores = score_experiment(exp, dump, data)
    assert scores["command"] == (
        "./run.sh --corpus toy --config conf/train_sys.yaml --protocol strict --seed 1"
    )
    assert scores["system"] == "sys"
    assert set(scores["versions"]) == {
        "python",
        "espnet",
        "torch",
        "transformers",
        "numpy",
        "scipy",
    }
    assert scores["hardware"] and scores["commit"] and scores["date"].endswith("+00:00")
    assert scores["schema"] == 2


def test_scores_hold_every_decision_by_fold_and_speaker(toy):
    exp, dump, data = toy
    scores = score_experiment(exp, dump, data)
    assert scores["speakers"][1] == {
        "fold": "Ses01M",
        "speaker": "Ses01M",
        "ref": "12301",  # happy sad neutral angry happy
        "hyp": "12301",
    }
    assert scores["interval"]["speakers"] == 3
    assert scores["train_seconds"] == 4.5


def test_the_test_sets_digest_changes_with_a_reference_and_not_with_a_decision(toy):
    exp, dump, data = toy
    before = score_experiment(exp, dump, data)["test_sha256"]
    path = exp / "Ses01F/predictions.tsv"
    path.write_text(path.read_text().replace("angry\tangry", "angry\thappy"))
    lines = path.read_text().splitlines()
    for i, line in enumerate(lines[1:], start=1):
        cells = line.split("\t")
        cells[3:7] = ["1" if label == cells[2] else "0" for label in LABELS]
        lines[i] = "\t".join(cells)
    path.write_text("\n".join(lines) + "\n")
    wrong = score_experiment(exp, dump, data)
    assert wrong["summary"]["wa"] < 1
    assert wrong["test_sha256"] == before
    (dump / "utt2spk").write_text((dump / "utt2spk").read_text().replace(" Ses01F", " someone"))
    assert score_experiment(exp, dump, data)["test_sha256"] != before


def test_decisions_are_those_of_the_corpus_own_ids_whatever_the_prefix(toy):
    exp, dump, data = toy
    before = score_experiment(exp, dump, data)
    own = read_table(dump / "utt2orig")
    assert before["test_sha256"] == provenance.digest(
        f"{fold} {utt} {fold} {read_table(dump / 'utt2emo')[utt]}"
        for fold in FOLDS
        for utt in sorted(u for u in own if u.startswith(fold))
    )
    write_table(dump / "utt2orig", {u: f"{u[:-3]}{999 - int(u[-3:])}" for u in own})
    after = score_experiment(exp, dump, data)
    assert after["test_sha256"] != before["test_sha256"]
    assert [s["hyp"] for s in after["speakers"]] == [s["hyp"][::-1] for s in before["speakers"]]


def test_an_eleventh_class_is_a_letter_in_the_decisions():
    labels = [f"emotion{i}" for i in range(11)]
    rows = {"F": [Prediction("u", "emotion10", "emotion9", ())]}
    (entry,) = decisions_by_speaker(rows, {"u": "spk"}, labels)
    assert (entry["ref"], entry["hyp"]) == ("a", "9")


def test_precision_and_f1_are_in_the_table_with_their_means(toy):
    exp, dump, data = toy
    lines = (exp / "Ses01F/predictions.tsv").read_text().splitlines()
    lines[1] = "\t".join(["Ses01F_000", "angry", "sad", "0", "0", "1", "0", "", "Ses01F_000"])
    (exp / "Ses01F/predictions.tsv").write_text("\n".join(lines) + "\n")
    score_experiment(exp, dump, data)
    table = (exp / "scores.txt").read_text().splitlines()
    start = next(i for i, line in enumerate(table) if line.startswith("confusion matrix"))
    # Angry, happy and sad 4 times, neutral 3; one of the angry ones is taken for sad.
    assert table[start + 1].split() == [*LABELS, "precision", "%", "recall", "%", "F1", "%"]
    assert table[start + 2].split() == ["angry", "3", "0", "1", "0", "100.0", "75.0", "85.7"]
    assert table[start + 4].split() == ["sad", "0", "0", "4", "0", "80.0", "100.0", "88.9"]
    assert table[start + 6].split() == ["macro", "95.0", "93.8", "93.7"]


def test_ua_has_no_interval_where_all_decisions_are_for_one_class():
    """Its value is then 1 of C classes, whoever is drawn; WA is the share of that class."""
    counts = {"S1": (3, 1, 1, 1), "S2": (2, 2, 1, 1), "S3": (1, 3, 1, 1), "S4": (2, 1, 3, 1)}
    folds = {
        speaker: [
            Prediction(f"{speaker}_{label}{k}", label, "angry", (0.7, 0.1, 0.1, 0.1))
            for label, n in zip(LABELS, of, strict=True)
            for k in range(20 * n)
        ]
        for speaker, of in counts.items()
    }
    utt2spk = {p.utt_id: speaker for speaker, rows in folds.items() for p in rows}
    scores = make_scores(units=None) | score_folds(folds, LABELS)
    scores["speakers"] = decisions_by_speaker(folds, utt2spk, LABELS)
    scores = add_intervals(scores)
    assert scores["summary"]["ua_ci"] is None
    low, high = scores["summary"]["wa_ci"]
    lines = format_scores(scores).splitlines()
    (start,) = (line.split() for line in lines if line.startswith("95% from"))
    assert start == ["95%", "from", f"{100 * low:.1f}", "-"]


def test_the_size_of_the_model_is_that_of_the_largest_fold_if_all_folds_say(toy):
    exp, dump, data = toy
    for fold, total in zip(FOLDS, (100, 120, 110), strict=True):
        assert score_experiment(exp, dump, data)["parameters"] is None  # noted by some or none
        path = exp / fold / "run.json"
        run = json.loads(path.read_text())
        run["parameters"] = {"total": total, "trained": total - 90}
        path.write_text(json.dumps(run))
    assert score_experiment(exp, dump, data)["parameters"] == {"total": 120, "trained": 30}


def test_what_was_trained_on_its_test_speakers_says_so_and_claims_nothing_for_others():
    scores = make_scores(protocol="kfold2", units=None)
    assert scores["summary"]["wa_ci"][0] > 0.5  # two speakers drawn would give 0 to 1
    assert scores["interval"]["method"] == METHOD_KNOWN
    table = format_scores(scores)
    assert "toy, protocol kfold2\nSPEAKER-DEPENDENT: the speakers tested are among those" in table
    assert "other speakers" not in table
    assert "95%: where WA and UA of other utterances of these 2 speakers would lie" in table
    assert "SPEAKER" not in format_scores(make_scores(units=None))


def test_what_marks_a_run_as_leaky_reaches_its_scores_and_its_table(toy):
    exp, dump, data = toy
    write_run(exp, leaky=["the best epoch was chosen on the test speaker"])
    assert score_experiment(exp, dump, data)["leaky"]
    table = (exp / "scores.txt").read_text()
    assert "LEAKY, not comparable: the best epoch was chosen on the test speaker" in table


def test_the_table_holds_the_interval_of_wa_and_ua(toy):
    exp, dump, data = toy
    lines = (exp / "Ses01F/predictions.tsv").read_text().splitlines()
    lines[1] = "\t".join(["Ses01F_000", "angry", "sad", "0", "0", "1", "0", "", "Ses01F_000"])
    (exp / "Ses01F/predictions.tsv").write_text("\n".join(lines) + "\n")
    low, high = score_experiment(exp, dump, data)["summary"]["wa_ci"]
    table = (exp / "scores.txt").read_text()
    assert 0 < low < 14 / 15 < high == 1.0
    assert re.search(rf"^95% from +{100 * low:.1f} ", table, re.MULTILINE)
    assert "other speakers like these 3" in table


def test_utterances_without_words_are_reported_with_the_error_rates(toy):
    exp, dump, data = toy
    units = score_experiment(exp, dump, data)["units"]
    assert (units["utterances"], units["empty"]) == (12, 3)  # the first of five in each fold
    assert "3 without words are left out" in (exp / "scores.txt").read_text()


def test_the_table_ends_with_the_decoded_units_of_an_utterance_below_its_reference(toy):
    exp, dump, data = toy
    sample = score_experiment(exp, dump, data)["units"]["sample"]
    title, *rows = (exp / "scores.txt").read_text().splitlines()[-3:]
    assert title.startswith(f"{sample['utt_id']}, the utterance of median error rate (")
    for side, row in enumerate(rows):
        units = [pair[side] or "***" for pair in sample["pairs"]]
        assert row.split() == [("reference", "decoded")[side], *units]


def test_a_missing_fold_is_named_and_makes_the_table_partial(toy):
    exp, dump, data = toy
    (exp / "Ses01M/.done").unlink()
    scores = score_experiment(exp, dump, data)
    assert scores["partial"] is True
    assert scores["folds"]["missing"] == {"Ses01M": "training not finished"}
    expected = "PARTIAL: only 2 of 3 folds are scored; missing: Ses01M (training not finished)"
    assert expected in (exp / "scores.txt").read_text()


def test_a_fold_without_directory_was_not_trained(toy):
    exp, dump, data = toy
    (exp / "Ses02F").rename(exp / "elsewhere")
    scores = score_experiment(exp, dump, data)
    assert scores["folds"]["missing"] == {"Ses02F": "not trained"}


def test_predictions_of_an_older_model_are_not_scored(toy):
    exp, dump, data = toy
    (exp / "Ses02F/config.yaml").write_text("{lr: 2}\n")
    scores = score_experiment(exp, dump, data)
    assert scores["folds"]["missing"] == {"Ses02F": "trained, not inferred"}


def test_a_partial_corpus_stays_in_the_results(toy):
    exp, dump, data = toy
    for directory in (dump, data / "all"):
        (directory / "partial").write_text("Session3: 2 dialogs absent\n")
    scores = score_experiment(exp, dump, data)
    assert scores["partial"] is True
    assert scores["corpus_partial"] == ["Session3: 2 dialogs absent"]
    assert partial_notes(scores) == ["the corpus is not complete: Session3: 2 dialogs absent"]
    assert "PARTIAL: the corpus is not complete" in (exp / "scores.txt").read_text()


def test_without_a_finished_fold_the_error_sends_to_stage_4(toy):
    exp, dump, data = toy
    for fold in FOLDS:
        (exp / fold / ".done").unlink()
    with pytest.raises(UserError, match=r"none of its 3 folds .*--stage 4"):
        score_experiment(exp, dump, data)


def test_bad_predictions_leave_the_older_scores_alone(toy):
    exp, dump, data = toy
    score_experiment(exp, dump, data)
    before = (exp / "scores.json").read_bytes()
    path = exp / "Ses01F/predictions.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"Ses01F/predictions.tsv: 1 missing utterances"):
        score_experiment(exp, dump, data)
    assert (exp / "scores.json").read_bytes() == before


def test_a_system_without_ctc_head_has_no_unit_errors(tmp_path):
    exp, dump, data = make_experiment(tmp_path)

    def build(config, device):
        model = Model()
        model.aux_units = {}
        return model

    infer_folds(exp, dump, build_model=build)
    assert score_experiment(exp, dump, data)["units"] is None
    assert "PER" not in (exp / "scores.txt").read_text()


def test_reference_units_come_from_the_table_of_the_token_type(toy):
    exp, dump, data = toy
    write_run(exp, token_type="char")
    with pytest.raises(UserError, match=r"text_char: no such file.*stages 2 and 3"):
        score_experiment(exp, dump, data)
    (dump / "text_char").write_text("Ses01F_000 a\n")
    with pytest.raises(UserError, match=r"text_char: 14 utterances are not in it \(Ses01F_001\)"):
        score_experiment(exp, dump, data)


@pytest.mark.parametrize("content", ["{corpus: toy}", "[1, 2]", "a: [", ""])
def test_a_run_yaml_that_is_no_description_is_named(toy, content):
    exp, dump, _ = toy
    (exp / "run.yaml").write_text(content)
    with pytest.raises(UserError, match=r"run.yaml: .*--stage 4"):
        open_experiment(exp, dump)


def test_a_protocol_without_folds_sends_to_stage_3(toy):
    exp, dump, _ = toy
    write_run(exp, protocol="paper")
    with pytest.raises(UserError, match=r"folds/paper/folds: .*--stage 3 .*--protocol paper"):
        open_experiment(exp, dump)


# Provenance


def test_the_command_repeats_the_run_and_hides_foreign_paths():
    run = {
        "corpus": "emodb",
        "config": "conf/train_s1.yaml",
        "protocol": "strict",
        "seed": 3,
        "ssl": "/somewhere/private/whisper base",
        "max_epoch": 5,
        "extra_args": ["--optim_conf", "lr=0.1"],
    }
    assert run_command(run) == (
        "./run.sh --corpus emodb --config conf/train_s1.yaml --protocol strict --seed 3 "
        "--max-epoch 5 --ssl 'PATH/TO/whisper base' -- --optim_conf lr=0.1"
    )


def test_scores_of_a_sweep_name_its_files_without_the_machines_paths(toy):
    exp, dump, data = toy
    here = str(Path.cwd() / "conf/sweeps/a.yaml")
    sweep = {"name": "a", "about": "", "point": "1", "number": 1, "points": 1}
    write_run(exp, sweep={**sweep, "file": here, "config": "/elsewhere/b.yaml"})
    named = score_experiment(exp, dump, data)["sweep"]
    assert named == {**sweep, "file": "conf/sweeps/a.yaml", "config": "PATH/TO/b.yaml"}


def test_the_command_has_tag_and_folds_where_they_are_not_the_usual_ones():
    run = {"corpus": "emodb", "config": "conf/train_s1.yaml", "protocol": "strict", "seed": 3}
    usual = "./run.sh --corpus emodb --config conf/train_s1.yaml --protocol strict --seed 3"
    assert run_command(run, tag="s1_strict_seed3") == usual
    assert run_command(run, tag="wide", folds=["03", "08"]) == f"{usual} --tag wide --folds '03 08'"
    sweep = run | {"sweep": {"file": "conf/sweeps/a.yaml", "config": "conf/train_s1.yaml"}}
    assert "--tag" not in run_command(sweep, tag="a_1_strict_seed3")


@pytest.mark.parametrize(
    ("command", "tag", "expected"),
    [
        ("--corpus toy --config conf/train_s1.yaml --seed 1", "s1_strict_seed1", ""),
        ("--corpus toy --seed 1 --max-epoch 5", "s1_strict_seed1", "--max-epoch 5"),
        ("--corpus toy --tag wide --folds 03 --seed 1", "wide", "tag wide"),
        ("--seed 1 -- --optim_conf lr=0.1", "s1_strict_seed1", "-- --optim_conf lr=0.1"),
        ("--seed '1", "s1_strict_seed1", "./run.sh --seed '1"),  # by another program
    ],
)
def test_what_differs_from_the_configuration_is_its_tag_and_its_options(command, tag, expected):
    scores = make_scores(tag=tag, command=f"./run.sh {command}")
    assert differing(scores) == expected


def test_the_command_names_the_corpus_folder_and_what_was_unusual_about_reading_it(tmp_path):
    run = {"corpus": "emodb", "config": "conf/a.yaml", "protocol": "strict", "seed": 1}
    default = ["angry", "happy", "sad", "neutral"]
    usual = {"corpus_dir": "/private/emodb4", "emotions": default, "allow_partial": False}
    end = "--config conf/a.yaml --protocol strict --seed 1"
    assert run_command(run, usual) == f"./run.sh --corpus emodb --corpus-dir PATH/TO/emodb4 {end}"
    unusual = {**usual, "emotions": ["angry", "sad"], "allow_partial": True}
    assert f"--emotions angry,sad --allow-partial true {end}" in run_command(run, unusual)
    made = {"corpus_dir": str(tmp_path / "corpus"), "emotions": default}
    assert run_command(run, made, tmp_path) == f"./run.sh --corpus emodb {end}"


def test_paths_inside_the_working_directory_become_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert public_path(tmp_path / "conf/a.yaml") == "conf/a.yaml"
    assert public_path("../models/base") == "PATH/TO/base"
    assert public_path("facebook/wav2vec2-base") == "facebook/wav2vec2-base"


def test_settings_differ_only_where_more_than_the_seed_differs():
    base = {"seed": 1, "lr": 0.1}
    assert settings_digest(base) == settings_digest({"lr": 0.1, "seed": 2})
    assert settings_digest(base) != settings_digest({"seed": 1, "lr": 0.2})


def test_the_commit_is_dirty_when_code_changed_but_not_when_results_did(tmp_path):
    import subprocess

    def git(*args):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", tmp_path, *identity, *args], check=True, capture_output=True)

    assert git_commit(tmp_path) == "unknown"
    git("init")
    for directory in ("ser", "results/toy"):
        (tmp_path / directory).mkdir(parents=True)
    for name in ("code.py", "RESULTS.md", "results/toy/tag.json"):
        (tmp_path / name).write_text("1\n")
    git("add", ".")
    git("commit", "-m", "first")
    assert len(git_commit(tmp_path / ".")) == 12
    (tmp_path / "RESULTS.md").write_text("2\n")
    (tmp_path / "results/toy/tag.json").write_text("2\n")
    assert not git_commit(tmp_path / "ser").endswith("-dirty")
    (tmp_path / "code.py").write_text("2\n")
    assert git_commit(tmp_path / "ser").endswith("-dirty")
