"""Tables of label heads, and the file and scores of what the heads say."""

import numpy as np
import pytest

from ser.data.labels import Targets, label_path, read_labels, read_targets, training_values
from ser.errors import UserError
from ser.scoring.auxiliary import (
    COLUMNS,
    LabelDecision,
    read_label_decisions,
    score_labels,
    score_values,
    write_label_decisions,
)
from ser.scoring.text import auxiliary_lines

ROWS = [
    LabelDecision("u1", "gender", "f", "f", 0.75),
    LabelDecision("u1", "speaker", "", "s2", 0.5),
    LabelDecision("u2", "gender", "m", "f", 0.625),
    LabelDecision("u2", "speaker", "", "s1", 0.25),
    LabelDecision("u3", "gender", "m", "m", 1.0),
    LabelDecision("u3", "speaker", "", "s1", 0.25),
    LabelDecision("u4", "gender", "", "m", 0.5),
    LabelDecision("u4", "speaker", "", "s1", 0.25),
]
UTTS, HEADS = ["u1", "u2", "u3", "u4"], ("gender", "speaker")
SCORES = {head: score_labels([row for row in ROWS if row.head == head]) for head in HEADS}


def test_a_table_is_a_name_in_the_dump_or_a_path(tmp_path):
    assert label_path("utt2age", tmp_path) == tmp_path / "utt2age"
    assert str(label_path("my/utt2age", tmp_path)) == "my/utt2age"


def test_classes_are_the_values_of_training_utterances_in_c_order():
    labels = {"a": "b", "b": "Z", "c": "ä", "d": "10", "e": "9", "x": "test"}
    assert training_values("h", "utt2h", labels, "F1", "abcdef") == ["10", "9", "Z", "b", "ä"]


@pytest.mark.parametrize(
    ("labels", "found"),
    [({}, "no value for the 2"), ({"u1": "f"}, "only the value f for the 2"),
     ({"u1": "f", "u2": "f", "u9": "m"}, "only the value f")],
)  # fmt: skip
def test_fewer_than_two_values_in_training_are_refused(labels, found):
    with pytest.raises(
        UserError,
        match=rf"aux_conf.gender.table: utt2gender has {found}.* fold F1 .*u1.*two values or more",
    ):
        training_values("gender", "utt2gender", labels, "F1", ["u1", "u2"])


def test_a_missing_table_lists_those_there_are_and_how_to_add_it(tmp_path):
    (tmp_path / "utt2spk").write_text("u1 s1\n")
    with pytest.raises(
        UserError,
        match=r"aux_conf.age.table: .*/utt2age: no such file; .* has utt2spk\. .*--stage 3",
    ):
        read_labels("age", "utt2age", tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("dialect", r"dialect: no such file; .* has utt2spk\. Tables are called utt2<name>"),
        ("utt2my table", "rename yours, or give its path"),
        ("utt2dur", "If you mean that of data/<corpus>/all, give its path"),
        (
            "./utt2age",
            r"utt2age: no such file; give the path of one of `<utterance> <value>` lines",
        ),
        ("/", "/: a folder; give the path of a file"),
    ],
)
def test_a_table_that_stage_3_would_not_copy_gets_other_advice(tmp_path, table, message):
    (tmp_path / "utt2spk").write_text("u1 s1\n")
    with pytest.raises(UserError, match=f"aux_conf.age.table: .*{message}"):
        read_labels("age", table, tmp_path)


def test_a_gender_that_is_not_known_is_no_class(tmp_path):
    for name in ("utt2gender", "utt2age"):
        (tmp_path / name).write_text("u1 f\nu2 u\nu3 m\n")
    assert read_labels("gender", "utt2gender", tmp_path) == {"u1": "f", "u3": "m"}
    assert read_labels("age", "utt2age", tmp_path)["u2"] == "u"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1 old\nu2\n", r"utt2age:2: u2 has no value.*mend that line"),
        ("u1 old\nu1 young\n", r"utt2age:2: u1 stands here a second time.*mend that line"),
        ("u1 old\n\n", r"utt2age:2: no key.*mend that line"),
        ("u1 very old\n", r"utt2age: u1 has the value 'very old'; expected one word"),
    ],
)
def test_a_malformed_table_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "utt2age").write_text(text)
    with pytest.raises(UserError, match=f"aux_conf.age.table: .*{message}"):
        read_labels("age", "utt2age", tmp_path)


def test_decisions_survive_writing_and_reading(tmp_path):
    write_label_decisions(tmp_path / "a.tsv", ROWS)
    assert read_label_decisions(tmp_path / "a.tsv", UTTS, HEADS) == ROWS
    assert (tmp_path / "a.tsv").read_text().startswith("utt_id\thead\tref\thyp\tp_hyp\nu1\tgender")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "1 rows are missing .* the first of u4 and speaker"),
        (lambda lines: [*lines, "u9\tgender\tf\tf\t1.0"], "other test utterances .* u9 and gender"),
        (lambda lines: [*lines, lines[-1]], ":10: u4 and speaker stand here a second time"),
        (lambda lines: [*lines, "u9\tgender"], ":10: not enough values"),
        (lambda lines: ["utt_id ref", *lines[1:]], f":1: expected the columns {COLUMNS[0]}"),
        (lambda lines: [*lines[:-1], "u4\tspeaker\t\ts1\tx"], ":9: could not convert"),
    ],
)
def test_what_is_not_the_decisions_of_this_fold_is_refused(tmp_path, change, message):
    path = tmp_path / "auxiliary.tsv"
    write_label_decisions(path, ROWS)
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(UserError, match=rf"auxiliary.tsv.*{message}.*remove predictions.tsv"):
        read_label_decisions(path, UTTS, HEADS)


def test_lost_decisions_are_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"no such file; infer this fold again: .*--stage 5"):
        read_label_decisions(tmp_path / "auxiliary.tsv", UTTS, HEADS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1 3\nu2 high\n", r"utt2v:2: u2 has 'high'; expected a number from 1 to 5: correct it"),
        ("u1 3\nu2 nan\n", "utt2v:2: u2 has 'nan'; expected a number"),
        ("u1 5.5\nu2 2\n", "utt2v:1: u1 has '5.5'; expected a number from 1 to 5"),
        ("u1 3\nu2\n", "utt2v:2: u2 has no value"),
        ("u1 3\nu2 3 4\n", "utt2v: u2 has the value '3 4'; expected one word"),
    ],
)
def test_what_is_no_value_in_range_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "utt2v").write_text(text)
    with pytest.raises(UserError, match=f"aux_conf.v.table: .*{message}"):
        read_targets("v", Targets("utt2v", (1, 5)), tmp_path)


def test_values_may_lack_utterances_and_give_mean_and_deviation_of_those_in_training(tmp_path):
    (tmp_path / "utt2v").write_text("u1 -3\nu2 1e0\nu4 9\n")
    values = read_targets("v", Targets("utt2v", ()), tmp_path)
    assert values == {"u1": -3, "u2": 1, "u4": 9}
    assert training_values("v", "utt2v", values, "F1", ["u1", "u2", "u3"]) == [-1, 2]


def test_values_are_scored_over_all_utterances_and_by_speaker(tmp_path):
    ref, hyp = ["1", "2", "3", "2", "4", ""], ["2", "2", "5", "2", "4", "1"]
    pairs = zip(ref, hyp, strict=True)
    rows = [LabelDecision(f"u{i}", "v", r, h) for i, (r, h) in enumerate(pairs)]
    write_label_decisions(tmp_path / "a.tsv", rows)
    assert read_label_decisions(tmp_path / "a.tsv", [r.utt_id for r in rows], ["v"]) == rows
    utt2spk = dict(zip([r.utt_id for r in rows], "aaabbc", strict=True))
    found = score_values(rows, utt2spk)
    x, y = np.array(ref[:5], float), np.array(hyp[:5], float)
    cov = np.cov(x, y, bias=True)[0, 1]
    expected = 2 * cov / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert found["ccc"] == pytest.approx(expected)
    assert found["per_speaker"] == {"a": pytest.approx(6 / 11), "b": pytest.approx(1)}
    assert (found["n"], found["unknown"], found["rmse"]) == (5, 1, 1)
    low, high = found["ccc_ci"]
    assert -1 <= low < expected < high <= 1
    assert score_values(rows, utt2spk, known=True)["ccc_ci"] is None
    assert score_values(rows[:3], utt2spk)["ccc_ci"] is None  # of one speaker
    nothing = score_values(rows[5:], utt2spk)
    assert (nothing["ccc"], nothing["rmse"], nothing["per_speaker"]) == (None, None, {})
    assert auxiliary_lines({"v": found})[0].startswith(f"auxiliary head v: CCC {expected:.3f} [")
    assert auxiliary_lines({"v": nothing}) == [
        "auxiliary head v: CCC - [-], RMSE -, 0 utterances (); 1 whose value is not known are "
        "left out"
    ]


def test_accuracy_is_over_known_values_only():
    assert SCORES == {
        "gender": {"accuracy": 2 / 3, "n": 3, "unknown": 1},
        "speaker": {"accuracy": None, "n": 0, "unknown": 4},
    }


def test_the_table_has_a_line_for_each_head():
    assert auxiliary_lines(SCORES) == [
        "auxiliary head gender: accuracy 66.7 % of 3 utterances; 1 whose value is not known "
        "are left out",
        "auxiliary head speaker: accuracy - % of 0 utterances; 4 whose value is not known "
        "are left out",
    ]
