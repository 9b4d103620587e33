"""Render the templates in templates/: HTML pages, RESULTS.md, tables of sweeps."""

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from ser.console import percent
from ser.reporting.charts import clean
from ser.reporting.rows import system_name
from ser.scoring.text import (
    calibration_rows,
    concordance,
    interval,
    marked,
    partial_notes,
    raters_line,
)


def render(template: str, **context: Any) -> str:
    """Render a template; in HTML everything that is not markup is escaped."""
    style = Markup(css("charts.css") + css("style.css"))
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    return _environment().get_template(template).render(style=style, digest=digest, **context)


def macro(template: str, name: str, *args: Any) -> Markup:
    """Call the macro ``name`` of a template, which returns part of a page."""
    return getattr(_environment().get_template(template).module, name)(*args).strip()


def css(name: str) -> str:
    """Read a style sheet among the templates."""
    return Path(__file__).with_name("templates").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ser.reporting"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda v: clean(v) if isinstance(v, str) and not isinstance(v, Markup) else v,
    )
    environment.filters |= {
        "percent": percent,
        "concordance": concordance,
        "interval": interval,
        "system": system_name,
        "marked": marked,
        "partial_notes": partial_notes,
        "raters_line": raters_line,
        "calibration_rows": calibration_rows,
        "capfirst": lambda text: text[:1].upper() + text[1:],
        "cell": lambda text: str(text).replace("|", "\\|").replace("\n", " "),
    }
    return environment
