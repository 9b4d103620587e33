"""Markdown from docstrings and help texts, for local/reference.py."""

import re
from collections.abc import Iterable

Row = tuple[str, ...]


def table(head: Row, rows: Iterable[Row]) -> str:
    """Make a Markdown table; cells must be escaped already."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def prose(text: str) -> str:
    """Convert docstring or help text to Markdown: ``x`` becomes code, < and * are escaped."""
    pieces = re.split(r"(`+[^`]+`+)", text)
    for i, piece in enumerate(pieces):
        code_span = piece.startswith("`") and piece.endswith("`") and len(piece) > 1
        pieces[i] = code(piece.strip("`")) if code_span else re.sub(r"([<*])", r"\\\1", piece)
    return "".join(pieces)


def cell(text: str) -> str:
    """``prose`` on one line, for a table."""
    return prose(" ".join(text.split())).replace("|", "\\|").replace("\\\\|", "\\|")


def code(text: str) -> str:
    """A code span that is safe in a table."""
    return f"`{text}`".replace("|", "\\|")


def layout(text: str, indented: str = "text") -> str:
    """Convert ``text`` to Markdown, with indented lines as code blocks."""
    parts: list[str] = []
    block: list[str] = []

    def end() -> None:
        while block and not block[-1]:
            block.pop()
        if block:
            shortest = min(len(line) - len(line.lstrip()) for line in block if line)
            lines = "\n".join(line[shortest:] for line in block)
            parts.extend(["", f"```{indented}\n{lines}\n```", ""])
        block.clear()

    for line in text.strip("\n").splitlines():
        if line.startswith(" ") or (block and not line):
            block.append(line)
        else:
            end()
            parts.append(prose(line))
    end()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).strip() + "\n"
