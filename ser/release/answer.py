"""Parts of the page of ``ser demo``: the emotion, its probabilities, and the timeline."""

from collections.abc import Sequence

from markupsafe import Markup

from ser.console import percent
from ser.predict.classifier import Prediction
from ser.predict.formats import FORMATS, clock, csv_header, first_units
from ser.predict.windows import merge
from ser.reporting.charts import Chart
from ser.reporting.figures import probabilities_chart
from ser.reporting.render import css, macro
from ser.reporting.tracks import timeline_chart
from ser.reporting.utterance import data_uri

DOWNLOADS = {  # format name -> (link text, file suffix, media type)
    "json": ("JSON", "json", "application/json"),
    "csv": ("CSV", "csv", "text/csv"),
    "textgrid": ("TextGrid", "TextGrid", "text/plain"),
}


def style() -> str:
    """Style sheet of the page."""
    return css("answer.css") + ".answer {\n" + css("charts.css") + "}\n"


def header(title: str, about: str) -> Markup:
    """Title and introduction of the page."""
    return macro("answer.html", "header", title, about)


def decision(name: str, prediction: Prediction) -> Markup:
    """Emotion of the recording ``name``, and the probability of each emotion."""
    probs = prediction.probabilities
    chart = probabilities_chart(
        list(probs), list(probs.values()), None, "Probabilities of the emotions"
    )
    length = clock(prediction.duration)
    return macro("answer.html", "decision", name, length, prediction.emotion, chart)


def over_time(
    name: str, prediction: Prediction, emotions: Sequence[str], units: Sequence[str]
) -> Markup:
    """Timeline, unit track (if there are ``units``), and download links."""

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
    """Message explaining why there is no prediction."""
    return macro("answer.html", "problem", sentence)


def _units(prediction: Prediction, units: Sequence[str]) -> str:
    if not units:
        return "This model has no head of units (CTC)."
    if not prediction.units:
        return "None: the head of units (CTC) says blank throughout."
    return first_units(prediction)


def _downloads(name: str, prediction: Prediction) -> list[tuple[str, str, str]]:
    """Prediction in the formats of ``ser predict``: link text, data URL, file name."""
    found = []
    for form, (text, suffix, kind) in DOWNLOADS.items():
        names = list(prediction.probabilities), list(prediction.values)
        head = csv_header(*names) if form == "csv" else ""
        content = (head + FORMATS[form](name, prediction)).encode("utf-8", "replace")
        stem = name.rpartition(".")[0] or name
        found.append((text, data_uri(kind, content), f"{stem}.{suffix}"))
    return found
