"""What ``ser demo`` shows of a recording: its emotion, the probabilities, and what happens when."""

from collections.abc import Sequence

from ser.console import percent
from ser.predict.classifier import Prediction
from ser.predict.formats import FORMATS, UNITS_SHOWN, clock, csv_header
from ser.predict.windows import merge
from ser.reporting.page.charts import probabilities_chart
from ser.reporting.page.markup import CHART_STYLE, Markup, data_uri, table, tag
from ser.reporting.page.tracks import timeline

# What style.css is for the report, in the colours of Gradio's theme, light and dark.
STYLE = """
.answer {
  --ink: var(--body-text-color); --quiet: #59636e; --line: var(--border-color-primary);
  --paper: var(--body-background-fill);
  --blue: #0072b2; --faint: #9db9cd; --warn: #7a2e00; --warn-panel: #fff1e6; --red: #c2410c;
  color: var(--ink); overflow-wrap: anywhere;
}
.dark .answer {
  --quiet: #a0abb6;
  --blue: #5cb3ea; --faint: #3f5f78; --warn: #ffc79c; --warn-panel: #3a2415; --red: #ff9660;
}
.answer {
  p { margin: 0.25rem 0; }
  h3 { font-size: 1rem; font-weight: 600; margin: 1.25rem 0 0.5rem; }
  .decision { font-size: 2rem; line-height: 1.2; font-weight: 650; margin: 0.25rem 0 0.5rem; }
  .quiet { color: var(--quiet); font-size: 0.875rem; }
  .problem { padding: 0.75rem 1rem; border-left: 0.375rem solid var(--red);
    background: var(--warn-panel); color: var(--warn); }
  .scroll { overflow-x: auto; max-height: 24rem; }
  .tracks + .scroll { margin-top: 1rem; }
  table { border-collapse: collapse; font-size: 0.9375rem; overflow-wrap: normal; }
  caption { text-align: left; font-size: 0.875rem; color: var(--quiet); }
  th, td { padding: 0.25rem 1rem 0.25rem 0; text-align: left; font-weight: 400;
    border-bottom: 1px solid var(--line); }
  .num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
  .save a { color: var(--blue); text-decoration: underline; margin-right: 1rem; }
"""
STYLE = f"{STYLE}\n{CHART_STYLE}\n}}\n"
DOWNLOADS = {  # name of the format -> (what the link says, its files' suffix, media type)
    "json": ("JSON", "json", "application/json"),
    "csv": ("CSV", "csv", "text/csv"),
    "textgrid": ("TextGrid", "TextGrid", "text/plain"),
}


def decision(name: str, said: Prediction) -> Markup:
    """The emotion of the recording ``name``, and how probable each of them is."""
    labels, probs = list(said.probabilities), list(said.probabilities.values())
    return tag(
        "div",
        tag("p", f"{name}, {clock(said.duration)}", class_="quiet"),
        tag("p", said.emotion, class_="decision"),
        probabilities_chart(labels, probs, None, "Probabilities of the emotions"),
        tag("p", "Probabilities (%)", class_="quiet"),
        class_="answer",
    )


def over_time(name: str, said: Prediction, emotions: Sequence[str], units: Sequence[str]) -> Markup:
    """The timeline, the track of units, and the same as files; without ``units`` no track."""
    parts = [
        tag("h3", "Over time"),
        timeline(said.segments, said.units, units, emotions, said.duration),
    ]
    if len(said.segments) > 1:
        parts.append(_changes(said))
    parts += [tag("h3", "Units"), tag("p", _units(said, units), class_="units")]
    parts += [tag("h3", "Save"), tag("p", _downloads(name, said), class_="save")]
    return tag("div", parts, class_="answer")


def problem(sentence: str) -> Markup:
    """Why there is no answer."""
    return tag("div", tag("p", sentence, class_="problem", role="alert"), class_="answer")


def _changes(said: Prediction) -> Markup:
    rows = [
        (clock(s.start), clock(s.end), s.emotion, percent(s.probabilities[s.emotion]))
        for s in merge(said.segments)
    ]
    return table(("from", "to", "emotion", "%"), rows, "When the emotion changes", text=3)


def _units(said: Prediction, units: Sequence[str]) -> str:
    if not units:
        return "This model has no head of units (CTC)."
    if not said.units:
        return "None: the head of units (CTC) says blank throughout."
    more = len(said.units) - UNITS_SHOWN
    shown = " ".join(unit.unit for unit in said.units[:UNITS_SHOWN])
    return shown + (f" and {more} more" if more > 0 else "")


def _downloads(name: str, said: Prediction) -> list[Markup]:
    """Links to the answer in the formats of ``ser predict``; the page itself holds them."""
    links = []
    for form, (text, suffix, kind) in DOWNLOADS.items():
        head = csv_header(list(said.probabilities)) if form == "csv" else ""
        content = (head + FORMATS[form](name, said)).encode("utf-8", "replace")
        stem = name.rpartition(".")[0] or name
        links.append(tag("a", text, href=data_uri(kind, content), download=f"{stem}.{suffix}"))
    return links
