"""``ser``: one entry point, quick to start, complete in its help and in the shell."""

import os
import re
import subprocess
import sys

import pytest
import typer

from ser.cli import app
from ser.cli.options import rewrite
from ser.cli.recipe import app as recipe_app
from ser.cli.stages import score
from ser.errors import UserError
from ser.stage import MARKER
from tests.support import ROOT

NAMES = [*app.COMMANDS, *app.INTERNAL]
PUBLIC = [*app.COMMANDS]


def call(*args: str, **env) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ser", *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | env,
    )


def test_help_lists_the_commands_for_people():
    done = call("--help")
    assert done.returncode == 0
    listed = [line.split()[0] for line in done.stdout.split("Commands:\n")[1].splitlines()]
    assert listed == PUBLIC


def test_without_a_command_the_help_is_a_usage_error():
    done = call()
    assert done.returncode == 2
    assert "predict" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [(["predcit", "a.wav"], "predict"), (["train", "--protcol=paper"], "--protocol")],
)
def test_a_misspelt_name_is_a_usage_error_with_the_nearest_one(arguments, suggestion):
    done = call(*arguments)
    assert done.returncode == 2
    assert suggestion in done.stderr.split("Error:")[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_command_is_the_same_alone_as_among_all(name):
    command = name.replace("_", "-")
    both = [typer.main.get_command(app.make_app(only)) for only in ("", name)]
    texts = [group.commands[command].get_short_help_str() for group in both]
    assert texts[0] and texts[0] == texts[1]


def test_starting_imports_neither_torch_nor_what_it_drags_in():
    script = (
        "import sys\nfrom ser.cli import app, recipe\napp.make_app()\n"
        "slow = {'torch', 'espnet2', 'transformers', 'numpy', 'scipy', 'soundfile', 'gradio'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["--status"], ["--status"]),
        (["--status", "true", "--plan=false"], ["--status"]),
        (["--allow_partial=true"], ["--allow_partial"]),
        (["--compare", "a", "b", "--nj", "1"], ["--compare", "a", "--compare", "b", "--nj", "1"]),
        (["--", "--status", "true"], ["--", "--status", "true"]),
    ],
)
def test_options_may_be_written_as_in_kaldi(written, read):
    assert rewrite(typer.main.get_command(recipe_app), written) == read


def test_options_may_stand_between_files_and_names_begin_with_a_dash_after_two_of_them():
    command = typer.main.get_command(app.make_app("predict")).commands["predict"]
    words = ["a.wav", "--format", "json", "b.wav", "--", "-c.wav", "-"]
    found = command.make_context("predict", rewrite(command, words)).params
    assert found["files"] == ["a.wav", "b.wav", "-c.wav", "-"]
    assert found["form"] == "json"


def test_a_mistake_of_the_user_is_one_line_and_status_1(tmp_path):
    done = call("predict", "a.wav", "--output", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --output ") and done.stderr.count("\n") == 1


def test_a_reader_that_has_enough_is_no_error():
    program = (
        "import typer\nfrom ser.cli.options import call\napp = typer.Typer()\n"
        "@app.command()\ndef lines():\n    for line in range(100000):\n        print(line)\n"
        "call(app, [], 'lines')"
    )
    command = f'{sys.executable} -c "$0" | head -n 1'
    done = subprocess.run(
        ["bash", "-c", command, program], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize(
    ("line", "offered"), [("ser pre", ["predict"]), ("ser predict --fo", ["--folds", "--format"])]
)
def test_bash_completes_commands_and_options(line, offered):
    done = call(_SER_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(line.count(" ")))
    assert done.stdout.split() == offered


def test_every_command_that_a_run_calls_is_there():
    text = "".join(path.read_text() for path in (ROOT / "ser/cli").glob("*.py"))
    called = set(re.findall(r"\*SER, \"([a-z]+)\"", text))
    assert {"paper", "plan", "status"} <= called <= {name.replace("_", "-") for name in NAMES}


def test_an_experiment_that_cannot_be_scored_keeps_no_other_from_it(tmp_path, monkeypatch):
    done = []

    def infer_folds(exp_dir, **options):
        if exp_dir.name == "diverged":
            raise UserError("diverged: no numbers")

    monkeypatch.setattr("ser.scoring.infer.infer_folds", infer_folds)
    monkeypatch.setattr(
        "ser.scoring.score.score_experiment", lambda exp, *_, **__: done.append(exp)
    )
    directories = [tmp_path / name for name in ("diverged", "fine")]
    for directory in directories:
        (directory / "Ses01F").mkdir(parents=True)
        (directory / "Ses01F" / MARKER).touch()
    with pytest.raises(UserError, match="no numbers\n  1 of 2 experiments failed, see above"):
        score(tmp_path, tmp_path, directories)
    assert done == directories[1:]
