"""``ser``: one entry point, quick to start, complete in its help and in the shell."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ser.cli.completion import SHELLS, completion

from ser.cli import main
from ser.errors import UserError
from tests.support import ROOT

SUMMARIES = {name: text for name, (_, text) in main.COMMANDS.items()}


def call(*args: str, script: str = "", **options) -> subprocess.CompletedProcess:
    code = script or "import sys; from ser.cli.main import main; sys.argv[0] = 'ser'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=ROOT, **options
    )


@pytest.fixture(scope="module")
def parsers():
    return {name: main.command_parser(name) for name in main.COMMANDS}


def test_help_lists_all_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        main._main(["--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    for name, text in SUMMARIES.items():
        assert f"  {name} " in out and text in out


def test_without_a_command_the_help_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stop:
        main._main([])
    assert stop.value.code == 2
    assert "predict" in capsys.readouterr().err


def test_an_unknown_command_is_a_usage_error_that_names_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        main._main(["predcit", "a.wav"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "predcit" in err and "predict" in err and "Traceback" not in err


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_says_what_it_does_with_examples(name, parsers):
    text = parsers[name].format_help()
    assert text.startswith(f"usage: ser {name}")
    assert "examples:" in text and f"  ser {name} " in text
    for action in parsers[name]._actions:
        assert action.help, f"{name}: {action.dest} has no help"
    assert callable(importlib.import_module(main.COMMANDS[name][0]).run)


def test_starting_imports_neither_torch_nor_what_it_drags_in():
    script = (
        "import sys\nfrom ser.cli import main\n"
        "for name in main.COMMANDS:\n    main.command_parser(name)\n"
        "slow = {'torch', 'espnet2', 'transformers', 'numpy', 'scipy', 'soundfile', 'gradio'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    assert call(script=script).stdout == "[]\n"


def test_options_may_stand_between_files():
    args = main.command_parser("predict").parse_intermixed_args(
        ["a.wav", "--format", "json", "b.wav"]
    )
    assert args.files == ["a.wav", "b.wav"]


def test_names_may_begin_with_a_dash_after_two_of_them(tmp_path, monkeypatch, capsys):
    parser = main.command_parser("predict")
    args = main._parse(parser, ["a.wav", "--format", "json", "--", "-b.wav", "-", "--format"])
    assert args.files == ["a.wav", "./-b.wav", "-", "./--format"]
    (tmp_path / "-b.wav").touch()
    monkeypatch.chdir(tmp_path)
    for argv in (["a.wav", "-b.wav"], ["-b.wav"]):
        with pytest.raises(SystemExit) as stop:
            main._parse(parser, argv)
        assert stop.value.code == 2
        assert "-b.wav: a file whose name begins with a dash is given as ./-b.wav" in (
            capsys.readouterr().err
        )


def test_a_mistake_of_the_user_is_one_line_and_status_1(tmp_path):
    done = call("predict", "a.wav", "--output", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --output ") and done.stderr.count("\n") == 1


def test_it_runs_as_a_module_too():
    done = subprocess.run(
        [sys.executable, "-m", "ser", "completion", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0 and done.stdout.startswith("usage: ser completion")


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    program = (
        "import sys\nfrom ser.cli import main\n"
        "main.COMMANDS['print'] = ('printing', 'prints')\n"
        "main.main()"
    )
    (tmp_path / "printing.py").write_text(
        '"""Print."""\n\ndef add_arguments(parser):\n    pass\n\n'
        "def run(args):\n    for line in range(100000):\n        print(line)\n"
    )
    command = f'{sys.executable} -c "$0" print | head -n 1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command, program],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{tmp_path}"},
    )
    assert (done.stdout, done.stderr) == ("0\n141\n", "")


# --- completion --------------------------------------------------------------------------------


def complete(line: str, script: str, cwd: Path) -> list[str]:
    """What bash offers for the last word of ``line``."""
    words = line.split(" ")
    listed = " ".join(f"'{word}'" for word in words)
    code = f"{script}\nCOMP_WORDS=({listed})\nCOMP_CWORD={len(words) - 1}\n_ser\n" + (
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_options_and_choices(parsers, tmp_path):
    script = completion("bash", SUMMARIES, parsers)
    assert complete("ser pre", script, tmp_path) == ["predict"]
    assert set(complete("ser ", script, tmp_path)) == set(SUMMARIES)
    assert complete("ser predict a.wav --f", script, tmp_path) == ["--folds", "--format"]
    assert complete("ser predict --format ", script, tmp_path) == [
        "text",
        "json",
        "csv",
        "textgrid",
    ]
    assert complete("ser predict --format t", script, tmp_path) == ["text", "textgrid"]
    assert complete("ser completion ", script, tmp_path)[-3:] == ["bash", "zsh", "fish"]
    # nothing of its own for a file's name: "-o default" then completes files
    assert complete("ser predict rec", script, tmp_path) == []
    assert "complete -o default -F _ser ser" in script


def test_every_option_is_in_every_script(parsers):
    for shell in SHELLS:
        script = completion(shell, SUMMARIES, parsers)
        for parser in parsers.values():
            for action in parser._actions:
                for option in action.option_strings:
                    assert option.lstrip("-") in script
    with pytest.raises(UserError, match="'csh'; choose one of bash, zsh, fish"):
        completion("csh", SUMMARIES, parsers)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_itself_takes_the_script(shell, parsers):
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    check = [program, "--no-execute"] if shell == "fish" else [program, "-n"]
    script = completion(shell, SUMMARIES, parsers)
    done = subprocess.run(check, input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
