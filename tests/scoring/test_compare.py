"""Two experiments compared: what is computed, what is printed, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ser.errors import UserError
from ser.scoring.compare import Scored, System, compare, compare_systems, format_comparison
from ser.scoring.infer import infer_folds
from ser.scoring.predictions import FILE_NAME, Prediction
from ser.scoring.records import keep_records, read_scores
from ser.scoring.score import score_experiment
from tests.support import ROOT
from tests.support.fake_experiment import FOLDS, LABELS, FakeModel, make_experiment, write_run
from tests.support.fake_scores import make_scores


@pytest.fixture
def two(tmp_path):
    """Experiment A, right everywhere; a function that makes B with wrong decisions; the dump."""
    exp, dump, data = make_experiment(tmp_path)
    infer_folds(exp, dump, build_model=lambda config, device: FakeModel())
    score_experiment(exp, dump, data)

    def other(*wrong, name="other", seed=1):
        copy = exp.with_name(f"{name}_strict_seed{seed}")
        shutil.copytree(exp, copy, symlinks=True)
        write_run(copy, seed=seed, config=f"conf/train_{name}.yaml")
        for fold in FOLDS:
            path = copy / fold / FILE_NAME
            lines = path.read_text().splitlines()
            for i, line in enumerate(lines):
                utt, ref, _, *_ = line.split("\t")
                if utt in wrong:
                    hyp = LABELS[(LABELS.index(ref) + 1) % len(LABELS)]
                    probs = ["1.000000" if label == hyp else "0.000000" for label in LABELS]
                    lines[i] = "\t".join([utt, ref, hyp, *probs, "", utt])
            path.write_text("\n".join(lines) + "\n")
        score_experiment(copy, dump, data)
        return copy

    return exp, other, dump


def test_the_table_holds_both_scores_their_difference_and_both_tests(two, capsys):
    exp, other, dump = two
    # 3 of 15 wrong, one in the first fold (4/5) and two in the second (3/5): WA 80%.
    worse = other("Ses01F_000", "Ses01M_000", "Ses01M_001")
    capsys.readouterr()
    result = compare([exp, worse], dump)
    wa = result["scores"]["wa"]
    assert (wa["first"], wa["second"]) == (1.0, pytest.approx(0.8))
    assert wa["difference"]["value"] == pytest.approx(-0.2)
    assert wa["difference"]["low"] < -0.2 < wa["difference"]["high"]
    (test,) = result["mcnemar"]
    assert (test["only_first"], test["only_second"], test["p"]) == (3, 0, 0.25)
    out = capsys.readouterr().out
    assert "A: sys_strict_seed1 (protocol strict, seed 1)" in out
    row = next(line for line in out.splitlines() if line.startswith("WA, mean of folds"))
    assert row.split()[4:7] == ["100.0", "80.0", "-20.0"]
    assert "only A right 3, only B right 0, p = 0.250" in out


def test_the_comparison_says_what_differs_from_the_configuration(two, capsys):
    exp, other, dump = two
    longer = other()
    scores = json.loads((longer / "scores.json").read_text())
    scores["command"] += " --max-epoch 5"
    (longer / "scores.json").write_text(json.dumps(scores))
    capsys.readouterr()
    compare([exp, longer], dump)
    out = capsys.readouterr().out
    assert "B: other_strict_seed1 (protocol strict, seed 1, --max-epoch 5)" in out


def test_the_comparison_is_written_where_the_output_says(two, capsys):
    exp, other, dump = two
    result = compare([exp, other("Ses01F_000")], dump)
    path = exp.parent / "compare/sys_strict_seed1_vs_other_strict_seed1/compare.json"
    assert str(path) in capsys.readouterr().out
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))
    assert "McNemar" in path.with_name("compare.txt").read_text()
    compare([exp, exp.with_name("other_strict_seed1")], dump, exp.parent / "here")
    assert (exp.parent / "here/compare.json").is_file()


def test_per_class_changes_are_of_the_class_that_changed(two):
    exp, other, dump = two
    result = compare([exp, other("Ses01F_000")], dump)  # angry, one of four
    changes = {label: e["difference"]["value"] for label, e in result["recall"].items()}
    angry = changes.pop("angry")
    assert angry == pytest.approx(-1 / 4)
    assert set(changes.values()) == {0.0}


def test_seeds_of_a_system_are_taken_together_and_tested_in_pairs(two):
    exp, other, dump = two
    runs = [
        exp,
        other("Ses01F_000", name="b", seed=1),
        other(name="sys", seed=2),
        other("Ses01F_000", "Ses01M_001", name="b", seed=2),
    ]
    result = compare(runs, dump)
    assert [s["name"] for s in result["systems"]] == ["sys_strict", "b_strict"]
    assert [s["seeds"] for s in result["systems"]] == [[1, 2], [1, 2]]
    # Wrong in fold 1: 1 of 5 by both seeds; in fold 2: 1 of 5 by one of two.
    expected = 1 - (0.2 + 0.1 + 0) / 3
    assert result["scores"]["wa"]["second"] == pytest.approx(expected)
    assert [t["seeds"] for t in result["mcnemar"]] == [[1, 1], [2, 2]]
    assert [t["only_first"] for t in result["mcnemar"]] == [1, 2]


def records(root, *exp_dirs):
    """Those of experiments, as in results/."""
    keep_records([(e, read_scores(e / "scores.json")) for e in exp_dirs], root)
    return [root / "toy" / f"{read_scores(e / 'scores.json')['tag']}.json" for e in exp_dirs]


def test_records_alone_give_the_same_comparison_and_nothing_is_written(two, tmp_path, capsys):
    exp, other, dump = two
    worse = other("Ses01F_000", "Ses01M_000", "Ses01M_001", "Ses02F_004")
    kept = records(tmp_path / "results", exp, worse)
    capsys.readouterr()
    expected = compare([exp, worse], dump)
    shown = capsys.readouterr().out.partition("\nComparison: ")[0]
    before = sorted((tmp_path / "results").rglob("*"))
    assert compare(kept) == expected
    assert capsys.readouterr().out == shown
    assert sorted((tmp_path / "results").rglob("*")) == before


def test_records_of_other_tests_or_beside_experiments_are_refused(two, tmp_path):
    exp, other, _ = two
    first, second = records(tmp_path / "results", exp, other("Ses01F_000"))
    with pytest.raises(UserError, match="sys_strict_seed1.json is a record, .*other_strict_seed1 "):
        compare([first, exp.with_name("other_strict_seed1")])
    with pytest.raises(UserError, match="--dump-dir: missing; give dump/<corpus>"):
        compare([exp, exp.with_name("other_strict_seed1")])
    second.write_text(json.dumps(json.loads(second.read_text()) | {"test_sha256": "x"}))
    with pytest.raises(UserError, match="other_strict_seed1.json: tests other utterances than"):
        compare([first, second])


def test_more_than_two_systems_are_refused(two):
    exp, other, dump = two
    with pytest.raises(UserError, match=r"--exp-dir: 3 experiments of 3 systems \(sys.*; b.*; c"):
        compare([exp, other(name="b"), other(name="c")], dump)


def test_systems_without_a_common_seed_have_no_mcnemar_test():
    def system(*seeds):
        decided = {u: Prediction(u, "angry", "angry", (1.0, 0.0)) for u in "abcd"}
        fold = {u: "F" for u in decided}
        scores = [make_scores(seed=seed, labels=["angry", "happy"]) for seed in seeds]
        return System([Scored(Path("exp"), s, fold, decided) for s in scores])

    result = compare_systems(system(1, 2), system(3, 4), dict.fromkeys("abcd", "F"), 100)
    assert result["mcnemar"] == []
    assert "the systems have no seed in common" in format_comparison(result)
    assert result["scores"]["wa"]["difference"]["p"] is None  # one speaker


@pytest.mark.parametrize("swapped", [False, True])
def test_strict_and_crossed_folds_of_the_same_decisions_do_not_differ(swapped):
    # A: "a" of group 1 wrong, "b" and "c" of group 2 right; B: all right
    wrong, utt2spk = {"a"}, {"a": "A", "b": "A", "c": "A", "d": "B", "e": "B"}
    decided = {
        u: Prediction(u, "angry", "happy" if u in wrong else "angry", (1.0, 0.0)) for u in utt2spk
    }

    def system(protocol, fold):
        scores = make_scores(protocol=protocol, labels=["angry", "happy"])
        return System([Scored(Path("exp"), scores, fold, decided)])

    crossed = {"a": "A_g1", "b": "A_g2", "c": "A_g2", "d": "B_g1", "e": "B_g2"}
    systems = [system("strict", utt2spk), system("crossed2", crossed)]
    result = compare_systems(*(reversed(systems) if swapped else systems), utt2spk, 100)
    wa = result["scores"]["wa"]
    assert wa["first"] == wa["second"] == pytest.approx((2 / 3 + 1) / 2)
    assert "WA, mean of speakers" in format_comparison(result)


def test_systems_with_other_folds_can_be_compared_on_the_same_utterances():
    def system(folds, wrong):
        decided = {
            u: Prediction(u, "angry", "happy" if u in wrong else "angry", (1.0, 0.0))
            for utts in folds.values()
            for u in utts
        }
        fold = {u: name for name, utts in folds.items() for u in utts}
        scores = make_scores(protocol="session", labels=["angry", "happy"])
        return System([Scored(Path("exp"), scores, fold, decided)])

    speakers = {"F1": ["a", "b"], "M1": ["c", "d"], "F2": ["e", "f"]}
    sessions = {"S1": ["a", "b", "c", "d"], "S2": ["e", "f"]}
    utt2spk = {u: speaker for speaker, utts in speakers.items() for u in utts}
    result = compare_systems(system(speakers, "e"), system(sessions, "e"), utt2spk, 100)
    # The same decisions: 1, 1 and 1/2 over speakers, 1 and 1/2 over sessions.
    wa = result["scores"]["wa"]
    assert (wa["first"], wa["second"]) == (pytest.approx(5 / 6), pytest.approx(3 / 4))
    assert result["scores"]["wa_pooled"]["difference"]["value"] == 0
    assert result["speakers"] == 3


# What is refused


def rescore(exp, change):
    path = exp / "scores.json"
    scores = json.loads(path.read_text())
    change(scores)
    path.write_text(json.dumps(scores))


def test_other_corpora_and_other_emotions_are_named(two):
    exp, other, dump = two
    worse = other()
    rescore(worse, lambda scores: scores.update(corpus="emodb"))
    with pytest.raises(UserError, match=r"other_.*/scores.json: corpus emodb, but .* has toy"):
        compare([exp, worse], dump)
    rescore(worse, lambda scores: scores.update(corpus="toy", labels=[*LABELS[:3], "bored"]))
    rescore(worse, lambda s: s["per_class"].update(bored=s["per_class"].pop("neutral")))
    with pytest.raises(UserError, match=r"emotions angry happy sad bored, but .* neutral"):
        compare([exp, worse], dump)


def test_other_test_sets_are_refused_with_the_utterances_and_folds_that_lack(two, tmp_path):
    exp, other, dump = two
    worse = other()
    (worse / "Ses01M/.done").unlink()
    score_experiment(worse, dump, tmp_path / "data/toy")
    with pytest.raises(UserError, match=r"lacks 5 utterances .*: Ses01M_000, .*\(fold Ses01M\)"):
        compare([exp, worse], dump)


def test_predictions_that_miss_an_utterance_are_refused_with_file_and_row(two):
    exp, other, dump = two
    worse = other()
    path = worse / "Ses02F" / FILE_NAME
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match=r"Ses02F/predictions.tsv: 1 missing .*: Ses02F_004"):
        compare([exp, worse], dump)


def test_an_experiment_without_scores_sends_to_stage_5(two):
    exp, other, dump = two
    worse = other()
    (worse / "scores.json").unlink()
    with pytest.raises(UserError, match=r"scores.json: no such file; .*--stage 5"):
        compare([exp, worse], dump)
    with pytest.raises(UserError, match="is given twice"):
        compare([exp, exp], dump)
    with pytest.raises(UserError, match="a comparison is of two"):
        compare([exp], dump)


def test_what_is_partial_or_leaky_says_so_in_the_comparison(two, capsys):
    exp, other, dump = two
    worse = other("Ses01F_000")
    rescore(worse, lambda s: s.update(leaky=["folds share speakers"]))
    compare([exp, worse], dump)
    out = capsys.readouterr().out
    assert "other_strict_seed1: LEAKY, not comparable: folds share speakers" in out


def test_known_speakers_are_not_compared_with_strange_ones(two):
    exp, other, dump = two
    worse = other("Ses01F_000")
    rescore(worse, lambda s: s.update(protocol="kfold3"))
    for pair, first, second in (([exp, worse], "kfold3", "strict"), ([worse, exp], "strict", "kf")):
        with pytest.raises(UserError, match=rf"protocol {first} .*, {second}.*; their difference"):
            compare(pair, dump)


def test_two_systems_with_known_speakers_are_compared_over_utterances(two, capsys):
    exp, other, dump = two
    worse = other("Ses01F_000", "Ses01M_000", "Ses01M_001")
    for directory in (exp, worse):
        rescore(directory, lambda s: s.update(protocol="kfold3"))
    result = compare([exp, worse], dump)
    out = capsys.readouterr().out
    assert "other_strict_seed1: SPEAKER-DEPENDENT: the speakers tested are among those" in out
    assert "95% and p: bootstrap, paired over utterances of these speakers; p is not" in out
    # 1, 2 and 0 of 5 worse: error sqrt((0.2 + 0.3 + 0) / 5 / 9), t(12) = 2.1788.
    change = result["scores"]["wa"]["difference"]
    assert change["low"] == pytest.approx(-0.2 - 2.1788 * (0.5 / 45) ** 0.5, abs=0.01)


def test_the_command_line_ends_a_users_mistake_with_one_line_and_status_1(tmp_path):
    command = [sys.executable, "-m", "ser", "compare", "--exp-dir", "a", "--exp-dir", "b"]
    done = subprocess.run(
        [*command, "--dump-dir", "dump"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: a/scores.json: no such file; score first")
