"""Stage 6: RESULTS.md and figures from scores.json files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ser.errors import UserError
from ser.reporting.figures import draw_figures, learning_chart, learning_panels
from ser.reporting.inputs import ReportInput, final_layer_weights, read_histories
from ser.reporting.results import build_results, make_report, read_stated
from ser.reporting.rows import group_seeds
from ser.scoring.infer import infer_folds
from ser.scoring.records import read_all_scores
from ser.scoring.score import score_experiment
from ser.scoring.uncertainty import from_decisions, measure
from tests.support import ROOT
from tests.support.fake_experiment import (
    FOLDS,
    LABELS,
    FakeModel,
    make_experiment,
    write_history,
    write_run,
)
from tests.support.fake_scores import RATERS, VALENCE, make_scores


def put(root, scores, tag=None):
    directory = root / "exp" / scores["corpus"] / (tag or scores["tag"])
    directory.mkdir(parents=True)
    (directory / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return directory


def report(root):
    """The text of RESULTS.md, without drawing figures."""
    return build_results(read_all_scores(root / "exp"), root / "conf", root)[1]


def full_report(root, **options):
    return make_report(root / "exp", root / "RESULTS.md", conf_dir=root / "conf", **options)


def detail(text, number=1):
    """What is listed with a row of the results table."""
    return text.split(f"\n### {number}. ")[1].split("\n### ")[0]


def experiment(path, **changes):
    """What there is of an experiment in ``path``, with made-up scores."""
    return ReportInput(path, path, path, make_scores(**changes))


def cells(text, number=1):
    """The cells of a row of the results table, by column, interval and number apart."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    head = [c.strip() for c in lines[0].strip("|").split("|")]
    row = next(line for line in lines if line.startswith(f"| {number} "))
    assert len(head) <= 9
    found = dict(zip(head, (c.strip() for c in row.strip("|").split("|")), strict=True))
    for name in ("WA", "UA"):
        value, bounds = found.pop(f"{name} [95%]").split(" [")
        found |= {name: value, f"{name} 95%": bounds.rstrip("]")}
    return found


def test_a_row_holds_the_numbers_of_scores_json_in_percent(tmp_path):
    put(tmp_path, make_scores(correct=3))  # folds: 3/4 and 4/4 right
    text = report(tmp_path)
    row = cells(text)
    assert (row["WA"], row["UA"]) == ("87.5", "87.5")
    assert (row["System"], row["Corpus"], row["Protocol"]) == ("s1", "toy", "strict")
    assert (row["Folds"], row["Seeds"]) == ("2", "1")
    assert "- PER 25.0, UER 50.0." in detail(text)
    assert "- Epochs 3, parameters 1,234,567, " in detail(text)
    assert "trained by 0123456789ab " in detail(text)


def test_a_row_carries_its_command(tmp_path):
    put(tmp_path, make_scores())
    assert "\n./run.sh --corpus toy --config conf/train_s1.yaml --seed 1\n" in report(tmp_path)


def test_a_row_says_what_differs_from_its_configuration(tmp_path, capsys):
    command = "./run.sh --corpus toy --config conf/train_s1.yaml --seed 1 --tag wide --max-epoch 5"
    put(tmp_path, make_scores(tag="wide", command=command))
    assert cells(report(tmp_path))["System"] == "s1 `tag wide --max-epoch 5`"
    full_report(tmp_path)
    assert "s1 tag wide --max-epoch 5, toy, strict: WA " in capsys.readouterr().out


def test_a_synthetic_corpus_is_marked(tmp_path):
    put(tmp_path, make_scores(corpus="mini"))
    assert cells(report(tmp_path))["Corpus"] == "mini (synthetic)"


def test_seeds_of_one_experiment_become_one_row_of_mean_and_deviation(tmp_path):
    # WA 75.0 and 87.5: mean 81.25, deviation 12.5 / sqrt(2) = 8.84.
    put(tmp_path, make_scores(correct=2, seed=1))
    put(tmp_path, make_scores(correct=3, seed=2))
    text = report(tmp_path)
    row = cells(text)
    assert row["Seeds"] == "1, 2"
    assert row["WA"] == "81.2 ± 8.8"
    assert "\n| 2 |" not in text
    assert "--seed 1\n" in text and "--seed 2\n" in text


def test_seed_10_comes_after_seed_9(tmp_path):
    for seed in (10, 9):
        put(tmp_path, make_scores(seed=seed))
    assert cells(report(tmp_path))["Seeds"] == "9, 10"


@pytest.mark.parametrize(
    "change",
    [
        {"settings_sha256": "another learning rate"},
        {"labels": LABELS[::-1]},
        {"corpus_partial": ["a dialog is absent"], "partial": True},
        {"protocol": "paper"},
        {"folds": {"expected": FOLDS, "scored": FOLDS[:1], "missing": {"Ses01M": "not trained"}}},
        {"tag": "s1_wide_seed2"},
        make_scores(seed=1),  # a copy of the first, which is no second seed
    ],
)
def test_runs_that_differ_in_more_than_the_seed_stay_apart(change):
    runs = [(Path("a"), make_scores(seed=1)), (Path("b"), make_scores(seed=2) | change)]
    assert len(group_seeds(runs)) == 2


def test_a_row_of_several_seeds_has_the_interval_of_their_mean(tmp_path):
    # Folds of seed 1: 1/2 and 1, of seed 2: 3/4 and 1; the interval is around 81.25, and that of
    # each seed alone around another number.
    put(tmp_path, make_scores(correct=2, seed=1))
    put(tmp_path, make_scores(correct=3, seed=2))
    row = group_seeds(read_all_scores(tmp_path / "exp"))[0]
    low, high = row.intervals["wa"][0]
    assert (low, high) == (0.0, 1.0)  # two speakers: t(1) = 12.7
    assert cells(report(tmp_path))["WA 95%"] == "0.0 to 100.0"
    measured = measure(
        from_decisions([s["speakers"] for _, s in row.runs], 4, row.first["protocol"])
    )
    assert measured["wa"].item() == 0.8125


def test_the_spread_over_folds_and_over_seeds_stand_apart(tmp_path):
    put(tmp_path, make_scores(correct=2, seed=1))
    put(tmp_path, make_scores(correct=3, seed=2))
    # Folds, mean over seeds: 0.625 and 1; deviation 0.375 / sqrt(2). Seeds: 0.75 and 0.875.
    expected = "- Standard deviation over folds WA 26.5, UA 26.5; over seeds WA 8.8, UA 8.8."
    assert expected in report(tmp_path)


def test_slices_and_calibration_are_listed_with_each_row(tmp_path):
    put(tmp_path, make_scores(correct=3))
    text = report(tmp_path)
    assert "- By gender, pooled WA / UA: women 75.0 / 75.0 (4); men 100.0 / 100.0 (4)." in text
    # All 70% sure, 7 of 8 right.
    found = make_scores(correct=3)["calibration"]
    said = " As trained: ECE 17.5, NLL {nll:.3f}, Brier {brier:.3f}, AURC".format(**found)
    assert f"- Calibration: ECE 17.5 (10 bins), mean confidence 70.0.{said}" in text
    assert " Temperature scaled: ECE" in text


def test_leaky_rows_stand_in_a_table_of_their_own(tmp_path):
    put(tmp_path, make_scores(seed=1))
    leaky = {"leaky": ["folds by dialog prefix share speakers"], "protocol": "prefix"}
    put(tmp_path, make_scores(seed=1, tag="s1_prefix_seed1", **leaky))
    text = report(tmp_path)
    main, rest = text.split("## LEAKY: not comparable")
    assert "| prefix" not in main and "| strict |" in main
    assert "| prefix (**LEAKY**) |" in rest.split("## Runs")[0]
    assert "- **LEAKY**: folds by dialog prefix share speakers." in rest


def test_speaker_dependent_rows_stand_in_a_table_of_their_own(tmp_path):
    put(tmp_path, make_scores())
    put(tmp_path, make_scores(tag="s1_kfold2_seed1", protocol="kfold2"))
    text = report(tmp_path)
    main, rest = text.split("## Speaker-dependent: not comparable with the above")
    assert "kfold2" not in main and "| strict |" in main
    table, details = rest.split("## Runs")
    assert "| kfold2 (**speaker-dependent**) |" in table and "| strict |" not in table
    assert "**95%** (and p) is for other utterances" in table
    assert "s1 on toy, kfold2 (speaker-dependent)\n" in details


def test_points_of_a_sweep_stand_in_its_own_table_in_their_order(tmp_path):
    for point, number, correct in (("1", 3, 1), ("0.1", 2, 3)):
        origin = {"name": "lambda", "about": "The weight", "point": point, "number": number}
        origin |= {"points": 3, "stated": {"wa": 76.0, "ua": 76.9} if point == "0.1" else None}
        scores = make_scores(correct=correct, tag=f"lambda_{point}_strict_seed1", sweep=origin)
        put(tmp_path, scores)
    put(tmp_path, make_scores())
    (tmp_path / "exp/toy/lambda_strict.png").touch()
    text = report(tmp_path)
    main, sweeps = text.split("## Sweeps\n")
    assert "lambda" not in main
    assert main.count("\n| 1 |") == 1 and "\n| 2 |" not in main
    section = sweeps.split("## Runs")[0]
    assert "### lambda on toy, strict" in section
    assert "Of 3 points, 2 have been run." in section
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == ["| 0.1", "| 1"]
    assert [row[2] for row in rows] == ["87.5", "62.5"]
    assert rows[0][-1].strip(" |") == "76.0 / 76.9"
    assert "![WA and UA of the points](exp/toy/lambda_strict.png)" in section
    assert "0:00:40 of training in all" in section


def test_the_interval_of_a_speaker_dependent_row_is_for_utterances(tmp_path):
    # 3 of 4 and 4 of 4, one speaker in each fold. Variance of an utterance of the first 3/16; of
    # the mean of means (3/16 / 4 + 0) / 4, times 8 / 6 for 8 utterances of 2 speakers; t(6) 2.4469.
    put(tmp_path, make_scores(protocol="kfold2"))
    row = group_seeds(read_all_scores(tmp_path / "exp"))[0]
    low, high = row.intervals["wa"][0]
    assert low == pytest.approx(0.875 - 2.4469 * (3 / 256 * 8 / 6) ** 0.5, abs=0.01)
    assert high == 1.0


def test_a_row_shows_parameters_and_the_time_of_training(tmp_path):
    put(tmp_path, make_scores(seed=1, train_seconds=3600.0))
    put(tmp_path, make_scores(seed=2, train_seconds=3847.0))
    # 3723.5 s on average
    assert "parameters 1,234,567, training 1:02:04." in detail(report(tmp_path))


def test_parameters_that_are_not_trained_are_told_apart_and_unknown_ones_are_a_dash(tmp_path):
    put(tmp_path, make_scores(parameters={"total": 20_600_000, "trained": 1200}))
    assert "parameters 20,600,000 (1,200), " in detail(report(tmp_path))
    put(tmp_path, make_scores(corpus="elsewhere", parameters=None, train_seconds=None))
    assert "parameters -, training -." in detail(report(tmp_path))


def test_precision_recall_and_f1_of_each_class_are_listed_with_each_row(tmp_path):
    put(tmp_path, make_scores(correct=3))  # one of two neutral ones is taken for angry
    text = report(tmp_path)
    recall = "- Recall, pooled: angry 100.0, happy 100.0, sad 100.0, neutral 50.0; macro 87.5.\n"
    precision = (
        "- Precision, pooled: angry 66.7, happy 100.0, sad 100.0, neutral 100.0; macro 91.7."
    )
    assert recall in text and precision in text
    assert "- F1, pooled: angry 80.0, happy 100.0, sad 100.0, neutral 66.7; macro 86.7.\n" in text


def test_auxiliary_heads_and_raters_are_listed_with_each_row(tmp_path):
    gender = {"accuracy": 0.875, "n": 8, "unknown": 0}
    put(tmp_path, make_scores(auxiliary={"gender": gender, "valence": VALENCE}, raters=RATERS))
    text = report(tmp_path)
    assert "- Auxiliary head gender: accuracy 87.5 (8).\n" in text
    assert "- Auxiliary head valence: CCC 0.500 [0.250 to 0.750] (8).\n" in text
    assert "- Raters: KL 0.500, JSD 0.125 nats; 75.0 % decided as a rater did; 8 utter" in text


def test_a_row_says_what_trained_and_what_scored_it(tmp_path):
    put(tmp_path, make_scores())
    line = next(x for x in report(tmp_path).splitlines() if x.startswith("- Seed 1: "))
    assert "trained by 0123456789ab on a processor, 2 cores; 20 s of training" in line
    assert "scored 2024-05-06T07:08:09+00:00 by ba9876543210; torch 2.13.0" in line
    assert "configuration c, data d." in line


def test_a_partial_row_is_marked_and_says_what_is_missing(tmp_path):
    missing = {"Ses02F": "not trained", "Ses02M": "training not finished"}
    folds = {"expected": ["Ses01F", "Ses01M", *missing], "scored": ["Ses01F", "Ses01M"]}
    put(tmp_path, make_scores(partial=True, folds=folds | {"missing": missing}))
    text = report(tmp_path)
    assert cells(text)["Folds"] == "2 of 4 (**partial**)"
    assert "**Partial**: only 2 of 4 folds are scored; missing: Ses02F (not trained); Ses" in text


def test_a_partial_corpus_is_marked(tmp_path):
    put(tmp_path, make_scores(partial=True, corpus_partial=["Session3: 2 dialogs absent"]))
    text = report(tmp_path)
    assert cells(text)["Corpus"] == "toy (**partial**)"
    assert "the corpus is not complete: Session3: 2 dialogs absent" in text


def test_the_papers_numbers_stand_in_their_own_column_for_their_corpus_only(tmp_path):
    stated = {"corpus": "iemocap", "wa": 76.0, "ua": 76.9, "source": "Li et al. 2024, Table 3"}
    put(tmp_path, make_scores(stated=stated))
    put(tmp_path, make_scores(stated=stated, corpus="iemocap"))
    text = report(tmp_path)
    assert cells(text, 1)["Stated by the paper (WA / UA)"] == "76.0 / 76.9"  # iemocap sorts first
    assert cells(text, 2)["Stated by the paper (WA / UA)"] == ""


LEAKY_STATED = {"corpus": "toy", "protocol": "prefix", "wa": 78.15, "ua": None, "source": "Cai"}


def test_what_a_paper_found_with_known_speakers_never_stands_beside_a_sound_row(tmp_path):
    column = "Stated by the paper (WA / UA)"
    put(tmp_path, make_scores(stated=LEAKY_STATED))
    leaky = {"leaky": ["train and test share speakers"], "protocol": "prefix"}
    put(tmp_path, make_scores(stated=LEAKY_STATED, tag="s1_prefix_seed1", **leaky))
    kfold = {"protocol": "kfold2", "tag": "s1_kfold2_seed1"}
    put(tmp_path, make_scores(stated=LEAKY_STATED | {"protocol": "paper"}, **kfold))
    text = report(tmp_path)
    by_protocol = {cells(text, n)["Protocol"]: cells(text, n)[column] for n in (1, 2, 3)}
    assert by_protocol == {
        "strict": "",
        "kfold2 (**speaker-dependent**)": "",
        "prefix (**LEAKY**)": "78.15 / - (**LEAKY**)",
    }


def test_a_leaky_number_of_a_paper_is_marked_where_it_was_not_run(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/train_s3.yaml").write_text(json.dumps({"stated": LEAKY_STATED}))
    put(tmp_path, make_scores())
    section = report(tmp_path).split("## Not run here")[1]
    assert "those that are marked were found with the test speakers in training" in section
    assert "| s3 | toy | 78.15 / - (**LEAKY**) | Cai |" in section
    assert "--protocol prefix`" in section


CONF = """\
max_epoch: 100
stated: {corpus: iemocap, wa: 76.0, ua: 76.9, source: "Li et al. 2024, Table 3"}
"""


def test_a_configuration_whose_stated_experiment_has_no_scores_is_listed_as_not_run(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/train_s1.yaml").write_text(CONF)
    (tmp_path / "conf/mini.yaml").write_text("max_epoch: 3\n")
    put(tmp_path, make_scores())  # the same system, on another corpus
    text = report(tmp_path)
    section = text[text.index("## Not run here") :]
    assert "| s1 | iemocap | 76.0 / 76.9 | Li et al. 2024, Table 3 |" in section
    assert (
        "`./run.sh --corpus iemocap --corpus-dir PATH/TO/IEMOCAP --config conf/train_s1.yaml "
        "--protocol paper`"
    ) in section
    assert "mini" not in section


def test_a_stated_experiment_that_was_run_is_not_listed(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/train_s1.yaml").write_text(CONF)
    put(tmp_path, make_scores(corpus="iemocap"))
    assert "Not run here" not in report(tmp_path)


def test_a_stated_entry_without_numbers_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("stated: {corpus: iemocap}\n")
    with pytest.raises(UserError, match=r"a.yaml: stated: wa, ua not found"):
        read_stated(tmp_path)


def test_the_same_scores_give_the_same_bytes_whatever_the_order_on_disk(tmp_path):
    texts = []
    for name, seeds in (("a", (1, 2, 3)), ("b", (3, 1, 2))):
        for seed in seeds:
            put(tmp_path / name, make_scores(correct=seed, seed=seed))
        texts.append(report(tmp_path / name))
    assert texts[0] == texts[1]


def test_no_path_of_the_machine_reaches_the_results(tmp_path):
    put(tmp_path, make_scores())
    text = report(tmp_path)
    assert str(tmp_path) not in text
    assert "[exp/toy/s1_strict_seed1/figures](exp/toy/s1_strict_seed1/figures)" in text


def test_without_any_scores_the_error_sends_to_stage_5(tmp_path):
    (tmp_path / "exp/toy/tag").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no <corpus>/<tag>/scores.json in it; .*--stage 5"):
        report(tmp_path)
    put(tmp_path, make_scores())
    with pytest.raises(UserError, match=r"toy/tag/scores.json: not scored; .*--stage 5"):
        full_report(tmp_path, exp_dir=tmp_path / "exp/toy/tag")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{half", "not JSON"),
        ("[]", "schema None, this version reads 2"),
        ('{"schema": 99}', "schema 99"),
        ('{"schema": 2, "tag": "x"}', "system not found in it, corpus not found in it, .* more"),
    ],
)
def test_scores_that_cannot_be_read_are_named_and_nothing_is_written(tmp_path, content, message):
    put(tmp_path, make_scores())
    bad = put(tmp_path, make_scores(seed=2)) / "scores.json"
    bad.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        full_report(tmp_path)
    assert str(bad) in str(caught.value)
    assert not (tmp_path / "RESULTS.md").exists()


def test_an_old_file_of_another_experiment_is_left_out_and_named(tmp_path, capsys):
    good = put(tmp_path, make_scores())
    bad = put(tmp_path, make_scores(seed=2))
    (bad / "scores.json").write_text('{"schema": 1}')
    full_report(tmp_path, exp_dir=good)
    said = capsys.readouterr().out
    assert f"warning: left out of the table: {bad}/scores.json: schema 1" in said
    assert good.name in (tmp_path / "RESULTS.md").read_text()
    assert bad.name not in (tmp_path / "RESULTS.md").read_text()
    with pytest.raises(UserError, match="schema 1"):
        full_report(tmp_path, exp_dir=bad)


def test_the_command_line_prints_where_everything_is(tmp_path):
    put(tmp_path, make_scores())
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ser",
            "report",
            "--exp-root",
            "exp",
            "--results",
            "RESULTS.md",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Results: RESULTS.md (1 row)" in done.stdout
    assert "s1, toy, strict: WA 87.5  UA 87.5  (95%: 0.0 to 100.0, 0.0 to 100.0)" in done.stdout
    names = "confusion_matrix.png, reliability.png, risk_coverage.png"
    assert f"Figures: exp/toy/s1_strict_seed1/figures/ ({names})" in done.stdout


def test_the_command_line_ends_a_users_mistake_with_one_line_and_status_1(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ser", "report", "--exp-root", "nowhere"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere: no <corpus>/<tag>/scores.json in it")
    assert "Traceback" not in done.stderr


def test_the_whole_of_stages_5_and_6_on_a_toy_experiment(tmp_path):
    exp, dump, data = make_experiment(tmp_path)
    write_run(exp, stated={"corpus": "toy", "wa": 50.0, "ua": 51.0})
    for fold in FOLDS:
        write_history(exp / fold)
    infer_folds(exp, dump, build_model=lambda config, device: FakeModel())
    score_experiment(exp, dump, data)
    text = full_report(tmp_path)
    assert (tmp_path / "RESULTS.md").read_text(encoding="utf-8") == text
    row = cells(text)
    assert (row["WA"], row["UA"], row["Stated by the paper (WA / UA)"]) == (
        "100.0",
        "100.0",
        "50.0 / 51.0",
    )
    assert sorted(p.name for p in (exp / "figures").glob("*.png")) == [
        "confusion_matrix.png",
        "layer_weights.png",
        "learning_curves.png",
        "reliability.png",
        "risk_coverage.png",
    ]


# Figures


def test_figures_are_png_files_and_equal_for_equal_input(tmp_path):
    for fold in ("Ses01F", "Ses01M"):
        (tmp_path / fold).mkdir()
        write_history(tmp_path / fold, epochs=3)
    written = draw_figures(experiment(tmp_path))
    first = [path.read_bytes() for path in written]
    assert len(first) == 5 and all(data.startswith(b"\x89PNG") for data in first)
    shutil.rmtree(tmp_path / "figures")
    assert [path.read_bytes() for path in draw_figures(experiment(tmp_path))] == first


def test_figures_are_drawn_again_only_where_one_is_missing_or_would_be_another(tmp_path):
    def drawn(**changes):
        """The names of those that are written."""
        paths = draw_figures(experiment(tmp_path, **changes))
        new = [path.name for path in paths if path.stat().st_mtime_ns != 10**9]
        for path in paths:
            os.utime(path, ns=(10**9, 10**9))
        return new

    names = ["confusion_matrix.png", "reliability.png", "risk_coverage.png"]
    assert drawn() == names
    assert drawn() == []
    (tmp_path / "figures/reliability.png").unlink()
    assert drawn() == names
    assert drawn(protocol="kfold2") == names
    (tmp_path / "Ses01F").mkdir()
    write_history(tmp_path / "Ses01F", epochs=3)
    assert set(names) < set(drawn(protocol="kfold2"))


def test_a_figure_without_data_is_not_drawn_and_an_older_one_goes(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/learning_curves.png").write_bytes(b"old")
    written = draw_figures(experiment(tmp_path))
    names = ["confusion_matrix.png", "reliability.png", "risk_coverage.png"]
    assert [path.name for path in written] == names
    assert not (tmp_path / "figures/learning_curves.png").exists()


def test_a_figure_of_known_speakers_says_so(tmp_path):
    heading = experiment(tmp_path, protocol="kfold2").heading
    assert heading == "s1 on toy (kfold2, speaker-dependent, 2 folds)"


def curves(histories):
    return learning_chart(histories, learning_panels(histories), "curves")


def test_learning_curves_show_the_mean_over_folds_in_percent(tmp_path):
    for fold, offset in (("Ses01F", 0.0), ("Ses01M", 0.1)):
        (tmp_path / fold).mkdir()
        write_history(tmp_path / fold, epochs=2, offset=offset)
    wa = curves(read_histories(tmp_path, ["Ses01F", "Ses01M"])).axes[1]
    mean = next(line for line in wa.lines if line.get_label() == "train")
    # 0.3 + 0.5 * epoch / 2, less 0 or 0.1: means 50 and 75 percent
    assert list(mean.get_ydata()) == pytest.approx([50, 75])
    assert len(wa.lines) == 2 * (2 + 1)  # train and valid: two folds and their mean


def test_learning_curves_of_a_protocol_without_validation_show_training_only(tmp_path):
    (tmp_path / "Ses01F").mkdir()
    write_history(tmp_path / "Ses01F", valid=False)
    chart = curves(read_histories(tmp_path, ["Ses01F"]))
    assert [line.get_label() for line in chart.axes[0].lines] == ["train"]


def test_learning_curves_show_the_phases_apart(tmp_path):
    for place in (tmp_path / "Ses01F/heads", tmp_path / "Ses01F"):
        place.mkdir(parents=True, exist_ok=True)
        write_history(place, epochs=3)
    axes = curves(read_histories(tmp_path, ["Ses01F"])).axes[0]
    assert [list(line.get_xdata()) for line in axes.lines[:2]] == [[-2, -1, 0], [1, 2, 3]]
    assert [text.get_text() for text in axes.texts] == ["heads"]
    (shaded,) = axes.patches
    assert (shaded.get_x(), shaded.get_width()) == (-2.5, 3)


def test_fusion_weights_are_those_of_the_last_epoch(tmp_path):
    (tmp_path / "Ses01F").mkdir()
    write_history(tmp_path / "Ses01F", epochs=4)
    history = read_histories(tmp_path, ["Ses01F"])["Ses01F"]
    assert final_layer_weights(history) == pytest.approx([0.3, 0.2, 0.5])


@pytest.mark.parametrize(
    ("low_level", "names"),
    [(True, ["low-level", "layer 1", "layer 2"]), (False, ["layer 1", "layer 2", "layer 3"])],
)
def test_the_first_fusion_weight_is_the_low_level_features_where_they_take_part(
    tmp_path, low_level, names
):
    (tmp_path / "Ses01F").mkdir()
    write_history(tmp_path / "Ses01F", epochs=4)
    config = {"frontend_conf": {"low_level": low_level}}
    (tmp_path / "Ses01F/config.yaml").write_text(json.dumps(config))
    assert experiment(tmp_path).layer_names() == names


@pytest.mark.parametrize("content", ["{", "[1]", '[{"no epoch": 1}]'])
def test_a_history_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "Ses01F").mkdir()
    (tmp_path / "Ses01F/history.json").write_text(content)
    with pytest.raises(UserError, match=r"Ses01F/history.json: not a list of epochs"):
        draw_figures(experiment(tmp_path))
