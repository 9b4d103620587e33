"""What every command line shares: how an error ends a program."""

import os
import subprocess
import sys
import types

import pytest

from ser import console as cli
from ser.errors import UserError
from tests.support import ROOT


def outcome(body: str) -> tuple[int, list[str]]:
    """(status, stdout and stderr together by line) of a program whose main does ``body``."""
    program = (
        f"from ser.console import run\nfrom ser.errors import UserError\n\ndef main():\n{body}\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", program + "\nrun(main)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("raise UserError('x.wav: empty')", "error: x.wav: empty"),
        ("open('/no/such')", "error: /no/such: No such file or directory"),
        (
            "import no_such.part",
            "error: this needs the package no_such, which is not installed here; "
            "ser-mtl[predict] has what ser predict needs, make install in a clone everything",
        ),
    ],
)
def test_an_error_is_one_line_below_what_was_printed_before_it(statement, line):
    assert outcome(f"    print('a table')\n    {statement}") == (1, ["a table", line])


def test_a_full_disk_asks_for_what_every_command_can_do():
    status, (line,) = outcome("    open('/dev/full', 'w', buffering=1).write('x\\n')")
    assert status == 1
    cure = "free some space, or write to another disk, and run the same command again"
    assert line.endswith(f"No space left on device; {cure}")


@pytest.mark.parametrize("statement", ["raise KeyError('x')", "import ser.no_such"])
def test_a_defect_keeps_its_traceback(statement):
    status, lines = outcome(f"    {statement}")
    assert status == 1
    assert lines[0].startswith("Traceback")


def test_an_error_reaches_stderr_in_one_piece(monkeypatch):
    """Else what is on its way to the log could come between its lines and their end."""
    pieces = []
    stream = types.SimpleNamespace(write=pieces.append, flush=lambda: None)
    monkeypatch.setattr(sys, "stderr", stream)

    def fail():
        raise UserError("no such file:\n  a.wav")

    with pytest.raises(SystemExit):
        cli.run(fail)
    assert [piece for piece in pieces if piece] == ["error: no such file:\n  a.wav\n"]
