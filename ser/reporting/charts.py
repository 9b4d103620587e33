"""Common parts of all figures: sizes, colours, and output as PNG file or inline SVG.

A chart is as wide as the narrowest phone's column, so that its text is never scaled down; sizes
are CSS pixels. On a page its colours are the variables of style.css, light or dark. Colour never
carries information alone, but with shape, position or text, and ``<title>`` and ``<desc>``
describe the chart to those who cannot see it.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from ser.files import atomic_write

WIDTH = 336  # px
INCH = 72  # px in Matplotlib's SVG
DPI = 200  # of PNG files
# Blue and vermilion after Okabe and Ito are distinguishable for colour-blind readers and in grey.
INK, QUIET, LINE, PAPER = "#1b1f24", "#59636e", "#d4d9df", "#fefefe"
BLUE, RED, FAINT, SHADE = "#0072b2", "#c2410c", "#9db9cd", "#08519c"
OVER, TURNED = "#010101", "#ffffff"  # text on light and on dark cells
VARIABLES = {
    INK: "ink", QUIET: "quiet", LINE: "line", PAPER: "paper", BLUE: "blue", RED: "red",
    FAINT: "faint", SHADE: "shade", OVER: "over", TURNED: "turned",
}  # fmt: skip
SMALL, NORMAL = 9.5, 10.5  # px
STYLE = {
    "font.size": NORMAL,
    "axes.labelsize": NORMAL,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 1,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "legend.frameon": False,
    "legend.fontsize": NORMAL,
    "svg.fonttype": "none",
    "image.composite_image": False,
}
_SVG, _HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
# Characters that browsers do not show or, worse, that change the direction of what follows.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


@dataclass
class Chart:
    """A figure with its title and a description in words."""

    title: str
    figure: Figure
    axes: list[Axes]
    desc: str = ""
    tips: dict[str, str] = field(default_factory=dict)

    @property
    def is_wide(self) -> bool:
        """Whether it is wider than a phone's screen, where it scrolls."""
        return self.figure.get_figwidth() * INCH > WIDTH + 1

    def mark(self, artist: Artist, name: str, value: Any, tip: str) -> None:
        """Give ``artist`` the attribute ``data-<name>`` and a tooltip with its exact value."""
        key = f"data-{name}={clean(value)}"
        artist.set_gid(key)
        self.tips[key] = tip

    def mark_grid(self, axis: Axis) -> None:
        """Give the grid lines of ``axis`` the attribute ``data-grid`` and their values."""
        for tick, value in zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=False):
            self.mark(tick.gridline, "grid", f"{value:g}", f"{value:g}")

    def save_png(self, path: Path, heading: str) -> Path:
        """Write the figure below ``heading`` to ``path``; equal figures give equal files."""
        width, height = self.figure.get_size_inches()
        lines = fill(clean(heading), round(width * 11))
        with styled():
            self.figure.set_size_inches(width, height + (1 + lines.count("\n")) * 16 / INCH)
            self.figure.suptitle(lines, fontsize=NORMAL)
            with atomic_write(path, "wb") as stream:
                # without the version of Matplotlib
                self.figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
        return path

    def save_svg(self, path: Path) -> Path:
        """Write the figure to ``path``, text as outlines; equal figures give equal files."""
        with (
            styled({"svg.hashsalt": self.title, "svg.fonttype": "path"}),
            atomic_write(path, "wb") as stream,
        ):
            self.figure.savefig(
                stream, format="svg", facecolor=PAPER, metadata={"Date": None, "Creator": None}
            )
        return path

    def svg(self, class_: str = "chart") -> Markup:
        """Return an ``<svg>`` element for a page whose style sheet has the colours."""
        stream = io.BytesIO()
        with styled({"svg.hashsalt": self.title}):
            self.figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        root = ElementTree.fromstring(stream.getvalue())
        key = f"c{zlib.crc32(self.title.encode() + stream.getvalue()):08x}"
        self._restyle(root, key)
        width, height = (round(v * INCH) for v in self.figure.get_size_inches())
        root.attrib = {
            "viewBox": root.get("viewBox"), "width": str(width), "height": str(height),
            "role": "img", "aria-labelledby": f"{key}t {key}d", "class": class_,
        }  # fmt: skip
        for name in ("desc", "title"):
            child = ElementTree.Element(name, id=f"{key}{name[0]}")
            child.text = clean(getattr(self, name))
            root.insert(0, child)
        return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))

    def _restyle(self, root: ElementTree.Element, key: str) -> None:
        """Remove styles, which the page's policy forbids, and ids that other charts may use."""
        for defs in root.findall(f"{_SVG}defs"):
            for style in defs.findall(f"{_SVG}style"):
                defs.remove(style)
        for metadata in root.findall(f"{_SVG}metadata"):
            root.remove(metadata)
        used = set(re.findall(r"(?:url\(|href=\")#(\w+)", ElementTree.tostring(root, "unicode")))
        used |= {e.get(_HREF, "")[1:] for e in root.iter()}
        for element in root.iter():
            element.tag = element.tag.removeprefix(_SVG)
            element.text = (element.text or "").strip(" \n")
            element.tail = ""
            style = dict(
                (word.strip() for word in part.split(":", 1))
                for part in element.attrib.pop("style", "").split(";")
                if ":" in part
            )
            style.pop("font-family", None)
            name, href = element.attrib.pop("id", ""), element.attrib.pop(_HREF, None)
            for attribute, value in style.items():
                variable = VARIABLES.get(value)
                element.set(attribute, f"var(--{variable})" if variable else value)
            if "clip-path" in element.attrib:
                element.set("clip-path", element.get("clip-path").replace("#", f"#{key}"))
            if href:
                data = "".join(href.split())
                element.set("href", f"#{key}{data[1:]}" if data.startswith("#") else data)
            if name in used:
                element.set("id", key + name)
            elif name.startswith("data-"):
                element.set(*name.split("=", 1))
                tip = ElementTree.Element("title")
                tip.text = clean(self.tips[name])
                element.insert(0, tip)


def new_chart(
    title: str, height: float, width: float = WIDTH, rows: int = 1, columns: int = 1, **layout: Any
) -> Chart:
    """Make a chart of ``rows`` by ``columns`` empty axes; ``layout`` is for ``Figure.subplots``."""
    with styled():
        figure = Figure(figsize=(width / INCH, height / INCH), layout="constrained")
        figure.get_layout_engine().set(w_pad=2 / INCH, h_pad=2 / INCH)
        axes = figure.subplots(rows, columns, squeeze=False, **layout)
    return Chart(title, figure, list(axes.flat))


def clean(text: Any) -> str:
    """Make invisible characters of ``text`` visible."""
    return _INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", str(text))


def shorten(name: str, most: int = 14) -> str:
    """Cut ``name`` to ``most`` characters."""
    name = clean(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


@contextmanager
def styled(more: dict[str, Any] | None = None) -> Iterator[None]:
    """Use Matplotlib's settings for making and writing charts."""
    with matplotlib.rc_context({**STYLE, **(more or {})}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has it
        yield
