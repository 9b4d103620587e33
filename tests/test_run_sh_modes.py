"""run.sh beyond a single experiment: sweeps, comparisons, leaks; with a stub in place of Python."""

import pytest
from test_run_sh import STUB, Recipe

# Two points of different units; seeds 1 and 2 unless --seed says otherwise.
SWEEP_STUB = STUB.replace(
    "if [[ $name == config_value ]]",
    """if [[ $name == sweep && "$*" != *--report* ]]; then
  all="$*"
  seeds=${all#*--seed=}
  protocol=${all#*--protocol }
  for point in char bpe; do
    for seed in ${seeds:-1 2}; do
      printf '%s\\t' "lambda_${point}_${protocol%% *}_seed$seed" "$seed"
      printf '%s\\t' "points/$point.yaml" "$point" 50
      echo raw
    done
  done
  exit 0
fi
if [[ $name == config_value ]]""",
)


@pytest.fixture
def recipe(tmp_path):
    made = Recipe(tmp_path)
    made.python.write_text(SWEEP_STUB)
    (made.dir / "lambda.yaml").write_text("grid: {}\n")
    return made


def calls(recipe, name):
    return [args for called, args in recipe.calls if called == name]


def following(args, option):
    """The values that stand after ``option``, up to the next one."""
    rest = args[args.index(option) + 1 :]
    return rest[: next((i for i, arg in enumerate(rest) if arg.startswith("--")), len(rest))]


def test_a_sweep_is_trained_and_scored_as_one_set(recipe):
    done = recipe.run("--sweep", "lambda.yaml", "--nj", "1")
    assert done.returncode == 0, done.stderr
    (train,) = calls(recipe, "train")
    tags = [f"lambda_{p}_strict_seed{s}" for p in ("char", "bpe") for s in (1, 2)]
    directories = [f"{recipe.exp}/mini/{tag}" for tag in tags]
    assert following(train, "--exp-dir") == directories
    assert following(train, "--seed") == ["1", "2", "1", "2"]
    assert following(train, "--config") == ["points/char.yaml"] * 2 + ["points/bpe.yaml"] * 2
    (score,) = calls(recipe, "score")
    assert following(score, "--exp-dir") == directories
    (report,) = calls(recipe, "sweep")
    assert "--report" in report
    assert following(report, "--sweep") == [f"{recipe.dir}/lambda.yaml"]


def test_units_and_features_are_made_once_for_each_kind_that_the_points_need(recipe):
    recipe.run("--sweep", "lambda.yaml", "--stage", "2", "--stop-stage", "3")
    made = [arg for args in calls(recipe, "prepare_lang") for arg in args if "token-type" in arg]
    assert made == ["--token-type=char", "--token-type=bpe"]
    assert len(calls(recipe, "prepare_dump")) == 2


def test_seeds_of_the_command_line_replace_those_of_the_sweep(recipe):
    recipe.run("--sweep", "lambda.yaml", "--seed", "7", "--stage", "4", "--stop-stage", "4")
    assert following(calls(recipe, "train")[0], "--seed") == ["7", "7"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--sweep", "no.yaml"], "--sweep no.yaml: no such file; there are: conf/sweeps/"),
        (["--sweep", "lambda.yaml", "--tag", "x"], "--tag does not go with --sweep"),
        (["--select", "best"], "--select best: expected protocol (or the leaky best-on-test)"),
        (["--leakage", "--tag=x"], "--tag does not go with --leakage, which sets it"),
        (["--leakage", "--k", "5"], "--k does not go with --leakage, which sets it"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(recipe, args, message):
    done = recipe.run(*args)
    assert done.returncode == 2
    assert message in done.stderr
    assert not recipe.calls


def test_compare_takes_tags_of_the_corpus_and_runs_no_stage(recipe):
    done = recipe.run("--compare", "s1", "s2", "--corpus", "emodb")
    assert done.returncode == 0, done.stderr
    ((name, args),) = recipe.calls
    assert name == "compare"
    assert args[2:] == [f"--exp-dir={recipe.exp}/emodb/s1", f"--exp-dir={recipe.exp}/emodb/s2"]


def test_the_leaky_selection_has_a_tag_of_its_own_and_reaches_the_training(recipe):
    recipe.run("--protocol", "paper", "--select", "best-on-test", "--stage", "4")
    (train,) = calls(recipe, "train")[:1]
    assert following(train, "--select") == ["best-on-test"]
    assert following(train, "--exp-dir") == [f"{recipe.exp}/mini/mini_s1_paper_best-on-test_seed1"]


@pytest.mark.parametrize("flag", [["--leakage", "true"], ["--leakage"], ["--leakage=true"]])
def test_leakage_runs_every_protocol_and_shows_what_there_is(recipe, flag):
    done = recipe.run("--seed", "3", "--nj", "1", "--stage", "4", *flag)
    assert done.returncode == 0, done.stderr
    trained = [following(args, "--exp-dir")[0] for args in calls(recipe, "train")]
    tags = ["strict", "paper", "session", "prefix", "paper_best-on-test"]
    assert trained == [f"{recipe.exp}/mini/mini_s1_{tag}_seed3" for tag in tags]
    ((_, args),) = [call for call in recipe.calls if call[0] == "leakage"]
    assert following(args, "--exp-dir") == trained


def test_a_protocol_that_fails_is_left_out_of_the_leakage_table(recipe):
    fails = (
        """[[ $name != train || "$*" != *--protocol\\ prefix* ]] || exit 1\nif [[ $name == sweep"""
    )
    recipe.python.write_text(SWEEP_STUB.replace("if [[ $name == sweep", fails, 1))
    done = recipe.run("--leakage", "--nj", "1", "--stage", "4")
    assert done.returncode == 0, done.stderr
    ((_, args),) = [call for call in recipe.calls if call[0] == "leakage"]
    assert len(following(args, "--exp-dir")) == 4
