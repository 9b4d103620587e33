"""Parts of the page of ``ser demo``: the emotion, its probabilities, and the timeline."""

from collections.abc import Sequence

from markupsafe import Markup

from ser.console import percent
from ser.predict.classifier import Prediction
from ser.predict.formats import FORMATS, UNITS_SHOWN, clock, csv_header
from ser.predict.windows import merge
from ser.reporting.charts import Chart
from ser.reporting.figures import probabilities_chart
from ser.reporting.render import css, macro
from ser.reporting.tracks import timeline_chart
from ser.reporting.utterance import data_uri

DOWNLOADS = {  # name of the format -> (text of the link, suffix of its file, media type)
    "json": ("JSON", "json", "application/json"),
    "csv": ("CSV", "csv", "text/csv"),
    "textgrid": ("TextGrid", "TextGrid", "text/plain"),
}


def style() -> str:
    """The style sheet of the page."""
    return css("answer.css") + ".answer {\n" + css("charts.css") + "}\n"


def header(title: str, about: str) -> Markup:
    """The title and introduction of the page."""
    return macro("answer.html", "header", title, about)


def decision(name: str, prediction: Prediction) -> Markup:
    """The emotion of the recording ``name``, and how probable each of them is."""
    probs = prediction.probabilities
    chart = probabilities_chart(
        list(probs), list(probs.values()), None, "Probabilities of the emotions"
    )
    length = clock(prediction.duration)
    return macro("answer.html", "decision", name, length, prediction.emotion, chart)


def over_time(
    name: str, prediction: Prediction, emotions: Sequence[str], units: Sequence[str]
) -> Markup:
    """The timeline, the track of units, and the same as files; without ``units`` no track."""

    def draw(width: float) -> Chart:
        found = prediction.segments, prediction.units
        return timeline_chart(*found, units, emotions, prediction.duration, width)

    changes = [
        (clock(s.start), clock(s.end), s.emotion, percent(max(s.probabilities.values())))
        for s in merge(prediction.segments)
    ]
    if len(prediction.segments) == 1:
        changes = []
    downloads = _downloads(name, prediction)
    return macro("answer.html", "over_time", draw, changes, _units(prediction, units), downloads)


def problem(sentence: str) -> Markup:
    """Why there is no answer."""
    return macro("answer.html", "problem", sentence)


def _units(prediction: Prediction, units: Sequence[str]) -> str:
    if not units:
        return "This model has no head of units (CTC)."
    if not prediction.units:
        return "None: the head of units (CTC) says blank throughout."
    more = len(prediction.units) - UNITS_SHOWN
    shown = " ".join(unit.unit for unit in prediction.units[:UNITS_SHOWN])
    return shown + (f" and {more} more" if more > 0 else "")


def _downloads(name: str, prediction: Prediction) -> list[tuple[str, str, str]]:
    """The answer in the formats of ``ser predict``: text, address that holds it, file name."""
    found = []
    for form, (text, suffix, kind) in DOWNLOADS.items():
        names = list(prediction.probabilities), list(prediction.values)
        head = csv_header(*names) if form == "csv" else ""
        content = (head + FORMATS[form](name, prediction)).encode("utf-8", "replace")
        stem = name.rpartition(".")[0] or name
        found.append((text, data_uri(kind, content), f"{stem}.{suffix}"))
    return found
