"""run.sh beyond a single experiment: sweeps, comparisons, leaks; with a stub in place of Python."""

from pathlib import Path

import pytest

from tests.support.stub_recipe import STUB, Recipe, calls, following

# Two points of different units; seeds 1 and 2 unless --seed says otherwise.
SWEEP = """seeds: 1 2
points:
  char: {token_type: char}
  bpe: {token_type: bpe, bpe_size: 50}
"""


@pytest.fixture
def recipe(tmp_path):
    made = Recipe(tmp_path)
    (made.dir / "lambda.yaml").write_text(SWEEP)
    return made


def experiments(args):
    """(tag, seed, configuration) of each experiment in the list that is passed on."""
    (file,) = following(args, "--experiments")
    return [line.split("\t")[:3] for line in Path(file).read_text().splitlines()]


def test_a_sweep_is_trained_and_scored_as_one_set(recipe):
    done = recipe.run("--sweep", "lambda.yaml", "--nj", "1", "--stage", "4")
    assert done.returncode == 0, done.stderr
    (train,), (score,), (report,) = (calls(recipe, n) for n in ("train", "score", "report"))
    points = f"{recipe.exp}/mini/lambda_points"
    assert experiments(train) == [
        [f"lambda_{point}_strict_seed{seed}", str(seed), f"{points}/{point}.yaml"]
        for point in ("char", "bpe")
        for seed in (1, 2)
    ]
    assert experiments(score) == experiments(train)
    assert following(report, "--sweep") == [f"{recipe.dir}/lambda.yaml"]


def test_units_and_features_are_made_once_for_each_kind_that_the_points_need(recipe):
    recipe.run("--sweep", "lambda.yaml", "--stage", "2", "--stop-stage", "3")
    made = [following(args, "--token-type") for args in calls(recipe, "lang")]
    assert made == [["char"], ["bpe"]]
    assert len(calls(recipe, "dump")) == 2


def test_a_sweep_of_which_a_part_is_trained_is_scored_and_reported(recipe):
    trained = f"{recipe.exp}/mini/lambda_bpe_strict_seed1"
    refused = recipe.run("--sweep", "lambda.yaml", "--stage", "5")
    assert (refused.returncode, calls(recipe, "score")) == (2, [])
    assert "--stage 5: there is no experiment" in refused.stderr
    recipe.trained(Path(trained).name)
    done = recipe.run("--sweep", "lambda.yaml", "--stage", "5")
    assert done.returncode == 0, done.stderr
    assert len(experiments(calls(recipe, "score")[0])) == 4
    assert [*Path(f"{recipe.exp}/mini").glob("lambda_*_seed?")] == [Path(trained)]


def test_seeds_of_the_command_line_replace_those_of_the_sweep(recipe):
    recipe.run("--sweep", "lambda.yaml", "--seed", "7", "--stage", "4", "--stop-stage", "4")
    assert [seed for _, seed, _ in experiments(calls(recipe, "train")[0])] == ["7", "7"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--sweep", "no.yaml"], "--sweep no.yaml: no such file; there are: conf/sweeps/"),
        (["--sweep", "lambda.yaml", "--tag", "x"], "--tag does not go with --sweep"),
        (["--select", "best"], "--select best: expected protocol (or the leaky best-on-test)"),
        (["--leakage", "--tag=x"], "--tag does not go with --leakage, which sets it"),
        (["--leakage", "true", "--tag=x"], "--tag does not go with --leakage, which sets it"),
        (["--leakage=true", "--tag=x"], "--tag does not go with --leakage, which sets it"),
        (["--leakage", "--k", "5"], "--k does not go with --leakage, which sets it"),
        (["--plan", "--status"], "--status does not go with --plan"),
        (["--plan", "--compare", "a", "b"], "--compare does not go with --plan"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(recipe, args, message):
    status, _, said = recipe.settle(*args)
    assert status == 2
    assert message in said


def test_a_plan_prepares_the_data_and_leaves_no_experiment(recipe):
    done = recipe.run(
        "--plan", "--seed", "1 2", "--max-epoch", "3", "--nj", "1", "--folds", "Ses01F"
    )
    assert done.returncode == 0, done.stderr
    assert [name for name, _ in recipe.calls] == ["data", "lang", "dump", "plan"]
    (plan,) = calls(recipe, "plan")
    tags = [f"{recipe.exp}/mini/mini_s1_strict_seed{seed}" for seed in (1, 2)]
    assert following(plan, "--exp-dir") == tags
    assert following(plan, "--seed") == ["1 2"] and following(plan, "--protocol") == ["strict"]
    assert following(plan, "--config") == ["conf/mini_s1.yaml"]
    assert {"--max-epoch=3", "--nj=1", "--folds=Ses01F"} <= {*plan}
    assert not recipe.exp.exists()


def test_a_plan_of_a_sweep_is_of_all_its_points(recipe):
    done = recipe.run("--plan", "--sweep", "lambda.yaml", "--", "--batch_size", "8")
    assert done.returncode == 0, done.stderr
    (plan,) = calls(recipe, "plan")
    assert len(experiments(plan)) == 4 and plan[-3:] == ["--", "--batch_size", "8"]
    assert not calls(recipe, "train")


def test_a_plan_can_leave_out_stages_that_are_done(recipe):
    done = recipe.run("--plan", "--stage", "4")
    assert done.returncode == 0, done.stderr
    assert [name for name, _ in recipe.calls] == ["plan"]


def test_test_on_takes_corpora_and_runs_no_stage(recipe):
    done = recipe.run("--test-on", "mini", "iemocap", "--corpus", "emodb", "--tag", "s1")
    assert done.returncode == 0, done.stderr
    ((name, args),) = recipe.calls
    assert name == "crosscorpus"
    assert args[0] == f"{recipe.exp}/emodb/s1"
    assert [Path(arg.removeprefix("--on=")).name for arg in args[1:3]] == ["mini", "iemocap"]
    assert args[3] == f"--dump-root={recipe.dir / 'dump dir'}"


def test_compare_takes_tags_of_the_corpus_and_runs_no_stage(recipe):
    done = recipe.run("--compare", "s1", "s2", "--corpus", "emodb")
    assert done.returncode == 0, done.stderr
    ((name, args),) = recipe.calls
    assert name == "compare"
    assert args[2:] == [f"--exp-dir={recipe.exp}/emodb/s1", f"--exp-dir={recipe.exp}/emodb/s2"]


def test_the_leaky_selection_has_a_tag_of_its_own_and_reaches_the_training(recipe):
    only = ["--stage", "4", "--stop-stage", "4"]
    recipe.run("--protocol", "paper", "--select", "best-on-test", "--nj", "1", *only)
    (train,) = calls(recipe, "train")
    assert following(train, "--select") == ["best-on-test"]
    assert following(train, "--exp-dir") == [f"{recipe.exp}/mini/mini_s1_paper_best-on-test_seed1"]


def test_leakage_trains_under_every_protocol_and_a_failing_one_is_left_out_of_the_table(recipe):
    fails = 'echo "table of $name"\n[[ $name != train || $all != *"--protocol=prefix"* ]] || exit 1'
    recipe.python.write_text(STUB.replace('echo "table of $name"', fails, 1))
    done = recipe.run("--leakage", "--seed=3", "--nj", "1", "--stage", "4", "--stop-stage", "4")
    trained = [following(args, "--exp-dir")[0] for args in calls(recipe, "train")]
    tags = ["strict", "paper", "session", "prefix", "paper_best-on-test"]
    assert trained == [f"{recipe.exp}/mini/mini_s1_{tag}_seed3" for tag in tags]
    assert "mini_s1_strict_seed3/scores.json: no such file" in done.stderr
    assert "mini_s1_prefix" not in done.stderr.split("scores.json")[-1]
