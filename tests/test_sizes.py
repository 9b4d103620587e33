"""What can be read as a whole: no function in ser/ over 60 lines, no file over 450."""

import ast
from pathlib import Path

import pytest

from tests.support import ROOT

MOST_LINES = {"function": 60, "file": 450}
FILES = sorted((ROOT / "ser").rglob("*.py"))


def too_long(path: Path) -> list[str]:
    """The functions of a file, and the file itself, that have too many lines."""
    text = path.read_text(encoding="utf-8")
    found = []
    if (lines := text.count("\n")) > MOST_LINES["file"]:
        found.append(f"{path}: {lines} lines")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > MOST_LINES["function"]:
                found.append(f"{path}:{node.lineno}: {node.name} has {lines} lines")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    assert not too_long(path)
