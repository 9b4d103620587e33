"""HTML and SVG that are safe by construction: text is escaped unless it is markup already."""

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

VOID = ("meta", "br", "link", "hr")
# What browsers show as nothing or, worse, as a change of direction of what follows.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
_HERE = Path(__file__).parent
CHART_STYLE = (_HERE / "charts.css").read_text(encoding="utf-8")  # without the colours


class Markup(str):
    """Text that goes into the page as it is; any other string is escaped."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """``<name attributes>children</name>``.

    Children are text (escaped), ``Markup``, numbers, lists of such, or None (left out). In the
    names of attributes ``_`` stands for ``-`` and a ``_`` at the end for nothing; values None and
    False leave an attribute out, True gives it no value, numbers are rounded to two decimals.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{_attribute(value)}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if name in VOID else f"{start}{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Markup:
    """Children of ``tag`` one after the other."""
    return Markup("".join(map(_child, children)))


def escape(text: Any) -> str:
    """``text`` for the inside of an element or an attribute, invisible characters shown."""
    return html.escape(_INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", str(text)), quote=True)


def number(value: float) -> str:
    """Two decimals at most: a hundredth of a pixel is not seen."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def table(
    head: Sequence[Any], rows: Iterable[Sequence[Any]], caption: str | None = None, text: int = 1
) -> Markup:
    """A table that scrolls by itself where the screen is too narrow for it.

    Args:
        head: names of the columns; all empty for a table of facts.
        rows: cells; the first of a row is its name.
        caption: what the table is about, above it.
        text: how many columns, from the left, are text; the others are set as numbers.
    """
    kind = [None if i < text else "num" for i in range(len(head))]
    cells = [tag("th", cell, scope="col", class_=kind[i]) for i, cell in enumerate(head)]
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            [tag("td", cell, class_=kind[i]) for i, cell in enumerate(row[1:], start=1)],
        )
        for row in rows
    ]
    parts = [caption and tag("caption", caption), any(head) and tag("thead", tag("tr", cells))]
    return tag(
        "div",
        tag("table", parts, tag("tbody", body)),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption or head[0] or "facts",
    )


def data_uri(kind: str, content: bytes) -> str:
    """``content`` of the media type ``kind`` as a URI that needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def page(title: str, body: Iterable[Any], language: str = "en") -> Markup:
    """A whole document that may load nothing: no script, no address, only what is in it.

    The policy allows the one style sheet by its digest, and images and sound as data.
    """
    style = f"{CHART_STYLE}\n{(_HERE / 'style.css').read_text(encoding='utf-8')}"
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(style)),
    ]
    document = tag("html", tag("head", head), tag("body", body), lang=language)
    return Markup(f"<!DOCTYPE html>\n{document}\n")


def _attribute(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else escape(value)


def _child(child: Any) -> str:
    if child is None or child is False:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return escape(child)
    if isinstance(child, int | float):
        return number(child)
    return join(child)
