"""The paper in one command: its page, its estimate, and run.sh --paper."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ser.config import load_config
from ser.errors import UserError
from ser.reporting.paper import compared, read_paper, write_page
from ser.training.sweep import load_sweep
from tests.support import ROOT
from tests.support.fake_scores import make_scores
from tests.support.stub_recipe import Recipe, calls, following
from tests.test_recipe import marked_processes

PAPER = ROOT / "conf/sweeps/paper.yaml"
SEEDS = [1, 2]


@pytest.fixture
def sweep():
    return load_sweep(PAPER, ROOT / "conf/mini_s1.yaml")


@pytest.fixture
def scored(tmp_path, sweep):
    """Scores of a point and seed: ``correct`` of the first speaker's four decisions are right."""

    def make(point, correct, protocol="paper", seed=1, **changes):
        (named,) = (p for p in sweep.points if p.name == point)
        tag = named.experiment(sweep.name, protocol, seed)
        scores = make_scores(correct, tag=tag, protocol=protocol, seed=seed, **changes)
        (tmp_path / "toy" / tag).mkdir(parents=True)
        (tmp_path / "toy" / tag / "scores.json").write_text(json.dumps(scores))

    return make


def cells(markdown, title, row):
    """The cells of a row in the table below a heading."""
    table = markdown.partition(f"## {title}")[2].partition("\n## ")[0]
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


# --- the page ----------------------------------------------------------------------------------


def test_the_page_has_stated_and_own_numbers_side_by_side_and_says_what_was_not_run(
    tmp_path, sweep, scored
):
    # two folds of 4: 3 and 4 right are a mean of 87.5, 2 and 4 right one of 75
    scored("lambda0.1", 3)
    scored("lambda0", 2)
    page = write_page(sweep, tmp_path, "toy", SEEDS)
    text = page.with_suffix(".md").read_text()
    stated, wa, ua, *strict = cells(text, "Systems (Table 2)", "S1, multi-task")
    assert stated == "76.0 / 76.9"
    assert wa.startswith("87.5 [") and ua.startswith("87.5 [")
    assert strict == ["not run"] * 2
    single = cells(text, "Systems (Table 2)", "S2, single task")
    assert single[0] == "72.4 / 73.9" and single[1].startswith("75.0 [")
    lacking = cells(text, "The weight of the phoneme head (Table 3)", "0.01")
    assert lacking == ["75.7 / 76.7", *["not run"] * 4]
    assert cells(text, "Systems (Table 2)", "S17, Liu et al., 2020")[0] == "70.34 / 70.78"
    html = page.read_text()
    for shown in ("76.0 / 76.9", "87.5 [", "not run", "Lambda against WA, protocol paper"):
        assert shown in html
    assert "lambda 0.01: stated 75.7 %, ours not run" in html
    assert "lambda 0.1: stated 76 %, ours 87.5 %" in html
    assert "http" not in html.replace("http-equiv", "")  # loads nothing


def test_one_training_stands_in_every_table_that_it_belongs_to(tmp_path, sweep, scored):
    scored("lambda0.1", 3)
    text = write_page(sweep, tmp_path, "toy", SEEDS).with_suffix(".md").read_text()
    own = [
        cells(text, "Systems (Table 2)", "S1, multi-task"),
        cells(text, "The weight of the phoneme head (Table 3)", "0.1"),
        cells(text, "Fine-tuning strategies", "everything is fine-tuned"),
    ]
    assert own[0] == own[1] == own[2]
    assert len(sweep.points) == 7


def test_nothing_run_at_all_is_a_page_as_well(tmp_path, sweep):
    text = write_page(sweep, tmp_path, "toy", SEEDS).with_suffix(".md").read_text()
    assert cells(text, "Paired tests, protocol strict", "S1 minus S2 (lambda 0.1 minus 0)") == [
        "not run",
        *[""] * 5,
    ]


def test_tests_are_paired_over_the_seeds_that_both_have(tmp_path, sweep, scored):
    # seed 2 of lambda 0 has no partner; of seed 1 the means are 75 and 87.5
    scored("lambda0", 2)
    scored("lambda0", 0, seed=2)
    scored("lambda0.1", 3)
    text = write_page(sweep, tmp_path, "toy", SEEDS).with_suffix(".md").read_text()
    found = cells(text, "Paired tests, protocol paper", "S1 minus S2 (lambda 0.1 minus 0)")
    assert found[0] == "+12.5"
    # the third of four emotions is what the first speaker gains
    recall = cells(text, "What lambda 0.1 changes for each emotion", "sad")
    assert recall[0] == "" and recall[1].startswith("+50.0 [")
    assert cells(text, "What lambda 0.1 changes for each emotion", "happy")[0] == "+8.5"


def test_systems_that_were_tested_on_other_utterances_are_not_compared(tmp_path, sweep, scored):
    scored("lambda0", 2)
    scored("lambda0.1", 3, test_sha256="other")
    rows = read_paper(sweep, tmp_path / "toy", "toy", SEEDS).rows["paper"]
    assert compared(rows["lambda0"], rows["lambda0.1"]) is None
    text = write_page(sweep, tmp_path, "toy", SEEDS).with_suffix(".md").read_text()
    name = "S1 minus S2 (lambda 0.1 minus 0)"
    assert cells(text, "Paired tests, protocol paper", name)[0] == "not the same folds yet"


def test_partial_experiments_are_marked(tmp_path, sweep, scored):
    folds = {"expected": ["Ses01F", "Ses01M", "Ses02F"], "scored": ["Ses01F", "Ses01M"]}
    scored("frozen", 3, folds=folds | {"missing": {"Ses02F": "not trained"}})
    text = write_page(sweep, tmp_path, "toy", SEEDS).with_suffix(".md").read_text()
    assert cells(text, "Fine-tuning strategies", "encoder frozen")[1].endswith("]*")
    assert "*: PARTIAL: only 2 of 3 folds are scored" in text
    assert "(paper_frozen_paper_seed1)" in text


def test_a_seed_of_fewer_folds_is_left_out_of_the_mean(tmp_path, sweep, scored, monkeypatch):
    monkeypatch.setattr(
        "ser.reporting.sweeps.read_scores", lambda path: json.loads(path.read_text())
    )
    scored("frozen", 3)
    fewer = {"expected": ["Ses01F", "Ses01M"], "scored": ["Ses01F"], "missing": {"Ses01M": "-"}}
    scored("frozen", 4, seed=2, folds=fewer)
    row = read_paper(sweep, tmp_path / "toy", "toy", SEEDS).rows["paper"]["frozen"]
    assert [scores["seed"] for _, scores in row.runs] == [1]


def test_what_the_paper_states_is_the_same_in_every_file(sweep):
    stated = {value: sweep.stated[point] for value, point in sweep.published["table3"].items()}
    assert load_sweep(ROOT / "conf/sweeps/lambda.yaml", sweep.base).stated == stated
    for name, value in (("s1_mtl_phoneme", "0.1"), ("s2_single_task", "0")):
        own = load_config(ROOT / f"conf/train_{name}.yaml")["stated"]
        assert {score: own[score] for score in ("wa", "ua")} == stated[value]


# --- run.sh ------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path):
    return Recipe(tmp_path)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--sweep", "lambda.yaml"], "--sweep does not go with --paper"),
        (["--compare", "a", "b"], "--compare does not go with --paper"),
        (["--leakage"], "--paper does not go with --leakage"),
        (["--tag", "mine"], "--tag does not go with --paper"),
        (["--protocol", "session"], "which runs the protocols paper and strict"),
        (["--select", "best-on-test"], "which runs the protocols paper and strict"),
    ],
)
def test_what_does_not_go_with_the_paper_is_a_usage_error(recipe, args, message):
    status, _, said = recipe.settle("--paper", *args)
    assert status == 2
    assert message in said


@pytest.mark.parametrize("config", ["mini_s2", "train_s3_char", "train_s4_cgru_attention"])
def test_a_system_without_a_phoneme_head_is_refused(config):
    with pytest.raises(UserError, match=f"--config .*{config}.yaml: no aux_conf.pr, which .*paper"):
        load_sweep(PAPER, ROOT / f"conf/{config}.yaml")


def test_all_trainings_of_a_protocol_are_one_set_of_jobs(recipe):
    done = recipe.run("--paper", "--nj", "1")
    assert done.returncode == 0, done.stderr
    lists = [f"{recipe.exp}/mini/paper_{protocol}.tsv" for protocol in ("paper", "strict")]
    for name in ("train", "score"):
        assert [following(args, "--experiments") for args in calls(recipe, name)] == [
            [file] for file in lists
        ]
    for file, protocol in zip(lists, ("paper", "strict"), strict=True):
        tags = [line.split("\t")[0] for line in Path(file).read_text().splitlines()]
        assert tags and all(f"_{protocol}_seed" in tag for tag in tags)
    protocols = [following(args, "--protocol") for args in calls(recipe, "train")]
    assert protocols == [["paper"], ["strict"]]
    order = [name for name, _ in recipe.calls if name in ("dump", "plan", "train")]
    assert order == [*["dump"] * 2, "plan", "train", "train"]  # the plan comes between
    assert [following(args, "--sweep") != [] for args in calls(recipe, "report")] == [True] * 2


def test_a_plan_trains_nothing(recipe):
    done = recipe.run("--paper", "--plan", "--max-epoch", "3")
    assert done.returncode == 0, done.stderr
    assert not calls(recipe, "train") and not calls(recipe, "score")
    (plan,) = calls(recipe, "plan")
    assert following(plan, "--protocol") == ["paper", "strict"]
    assert "--max-epoch=3" in plan


def test_the_status_is_that_of_both_protocols_and_runs_nothing(recipe):
    done = recipe.run("--paper", "--status")
    assert done.returncode == 0, done.stderr
    ((name, args),) = recipe.calls
    assert name == "paper"


def test_the_page_can_be_written_before_anything_is_trained(recipe):
    done = recipe.run("--paper", "--stage", "6")
    assert done.returncode == 0, done.stderr
    assert [name for name, _ in recipe.calls] == ["report", "report"]  # tables and page
    assert (recipe.exp / "mini/paper/log/stage6.log").exists()


# --- for real ----------------------------------------------------------------------------------


def command(root, *options):
    directories = [f"--{kind}-dir={root / kind}" for kind in ("data", "dump", "exp")]
    own = ["--paper", "--python", sys.executable, *directories, "--seed", "1", "--nj", "1"]
    least = ["--folds", "Ses01F", "--max-epoch", "1"], ["--", "--num_iters_per_epoch", "4"]
    return [str(ROOT / "run.sh"), *own, *least[0], *options, *least[1]]


def run(root, *options):
    done = subprocess.run(command(root, *options), capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_paper_is_run_on_mini_killed_and_gone_on_with_and_nothing_is_trained_twice(tmp_path):
    process = subprocess.Popen(
        command(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "STARTED_BY": str(tmp_path)},
    )
    exp = tmp_path / "exp/mini"
    while not list(exp.glob("*/Ses01F/.done")):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    while started := marked_processes(f"STARTED_BY={tmp_path}"):
        for pid in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
    kept = {path: path.stat().st_mtime_ns for path in exp.glob("*/Ses01F/.done")}
    assert 0 < len(kept) < 7

    page = run(tmp_path, "--stage", "6") and exp / "paper/paper.md"  # partial results
    assert "not run" in page.read_text()
    output = run(tmp_path, "--stage", "3")
    assert output.count("[fold] Ses01F: already trained") >= len(kept)
    # a fold may have been killed between its last epoch and its marker
    assert re.search("14 experiments, 14 folds; [1-7] are trained", output)
    assert "an estimate from 20 batches on this machine" in output  # the first run's
    assert "epochs trained so far" in output
    done = {path: path.stat().st_mtime_ns for path in exp.glob("*/Ses01F/.done")}
    assert len(done) == 14
    assert {path: done[path] for path in kept} == kept
    html = (exp / "paper/paper.html").read_text()
    assert "76.0 / 76.9" in html and "ours not run" not in html
    assert len(set(cells(page.read_text(), "Systems (Table 2)", "S1, multi-task"))) > 1

    again = run(tmp_path, "--stage", "4", "--stop-stage", "4")
    assert again.count("[fold] Ses01F: already trained") == 14
    assert {path: path.stat().st_mtime_ns for path in done} == done
    shown = run(tmp_path, "--status")
    assert shown.count("Ses01F  scored") == 14
