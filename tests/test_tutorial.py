"""docs/tutorial.md word for word: its sh blocks run in order, and print what it says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import ROOT

TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```(\w*)\n(.*?)^```$", re.M | re.S)
# What a clone does not hold: at its top, and anywhere.
MADE = {".git", ".venv", ".venv.lock", "data", "dump", "exp"}
OF_PYTHON = shutil.ignore_patterns("__pycache__", ".*_cache", "*.egg-info")


class Block(NamedTuple):
    """A fenced block: its language, its text, and whether a comment says why it is not run."""

    language: str
    text: str
    excused: bool


def blocks(text: str) -> list[Block]:
    return [Block(m[2], m[3], bool(m[1])) for m in BLOCK.finditer(text)]


def steps(text: str) -> list[tuple[str, str]]:
    """(commands, the sample of their output that follows, or nothing), in order."""
    found: list[tuple[str, str]] = []
    for before, block in zip([None, *blocks(text)], blocks(text), strict=False):
        if block.language == "sh":
            found.append((block.text, ""))
        elif block.language == "" and before is not None and before.language == "sh":
            found[-1] = (found[-1][0], block.text)
    return found


def normalised(line: str) -> str:
    """A line of output without its numbers and widths: other machines round differently."""
    return re.sub(r"\s+", " ", re.sub(r"[-+]?\d+(?:[.:]\d+)*", "#", line)).strip()


def missing(sample: str, output: str) -> list[str]:
    """The lines of ``sample`` that ``output`` does not have, in this order; [...] is anything."""
    lines = iter([normalised(line) for line in output.splitlines()])
    lost = []
    for wanted in sample.splitlines():
        pieces = [re.escape(normalised(piece)) for piece in wanted.split("[...]")]
        pattern = re.compile(".*".join(pieces))
        if any(pieces) and not any(pattern.fullmatch(line) for line in lines):
            lost.append(wanted)
    return lost


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The recipe as a clone has it, installed."""
    root = tmp_path_factory.mktemp("tutorial") / "ser"
    shutil.copytree(
        ROOT,
        root,
        ignore=lambda at, names: OF_PYTHON(at, names) | (MADE if Path(at) == ROOT else set()),
        symlinks=True,
    )
    (root / ".venv").symlink_to(sys.prefix)
    return root


def test_every_sh_block_runs_and_prints_what_the_tutorial_shows(clone):
    # where .venv is another's, .venv/bin/ser would run that tree
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(clone)}
    assert len(steps(TUTORIAL)) >= 8
    for commands, sample in steps(TUTORIAL):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=clone,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}"
        lost = missing(sample, done.stdout)
        assert not lost, f"{commands}\nprinted no\n{lost[0]}\nwhere expected in\n{done.stdout}"


def test_what_is_not_run_says_why_and_what_is_shown_was_run():
    found = blocks(TUTORIAL)
    for before, block in zip([None, *found], found, strict=False):
        assert block.language in ("sh", "console", "")
        if block.language == "console":
            assert block.excused, f"no <!-- not run: ... --> above\n{block.text}"
        elif block.language == "":
            assert before is not None and before.language in ("sh", "console")


def test_every_link_leads_somewhere():
    headings = re.findall(r"^#+ (.*)$", TUTORIAL, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
    links = re.findall(r"\]\(([^)]+)\)", TUTORIAL)
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif not link.startswith("http"):
            assert (ROOT / "docs" / link.partition("#")[0]).exists(), link


def test_samples_are_compared_without_numbers_and_in_order():
    output = "a  12.5  b\nnothing\nc 1:30 -5.0%\n"
    assert missing("a 7.0 b\n[...]\nc 0:02 +1.5%\n", output) == []
    assert missing("c 1:30 -5.0%\na 12.5 b\n", output) == ["a 12.5 b"]
    assert missing("a 7.0 c\n", output) == ["a 7.0 c"]
    assert missing("no[...]\nc [...]%\n", output) == []
    assert missing("no[...]x\n", output) == ["no[...]x"]


def test_blocks_and_their_samples_are_found():
    text = "```sh\none\n```\n\n```\nsays 1\n```\n<!-- not run: why -->\n```console\n$ two\n```\n"
    assert blocks(text)[-1] == Block("console", "$ two\n", True)
    assert steps(text) == [("one\n", "says 1\n")]
