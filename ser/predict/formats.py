"""Predictions as plain text, JSON lines, CSV, and TextGrids for Praat."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ser.predict.classifier import Prediction
from ser.predict.windows import UNSURE, Segment, merge

UNITS_SHOWN = 20  # in plain text; the other formats have all of them, with times


def as_text(name: str, said: Prediction) -> str:
    """Format a few lines: the decision, then where the emotion changes."""
    listed = _ranked(said.probabilities)
    listed += "".join(f"  {key} {value:.2f}" for key, value in said.values.items())
    unsure = f"{UNSURE}: " if said.emotion == UNSURE else ""
    lines = [f"{name} ({clock(said.duration)}): {unsure}{listed}"]
    for who, whole in said.speakers.items():
        listed = _ranked(whole.probabilities)
        lines.append(f"  {who} ({clock(whole.end)}): {whole.emotion}: {listed}")
    if len(said.segments) > 1:
        for part in merge(said.segments):
            span = f"{clock(part.start)} - {clock(part.end)}" + f"  {part.speaker}".rstrip()
            values = "".join(f"  {key} {value:.2f}" for key, value in part.values.items())
            best = max(part.probabilities.values())
            lines.append(f"  {span}  {part.emotion} {best:.2f}{values}")
    if said.units:
        lines.append(f"  units: {first_units(said)}")
    if said.warnings:
        lines.append(f"  warning: {'; '.join(said.warnings)}")
    return "\n".join(lines) + "\n"


def stream_line(second: int, said: Segment | None, form: str) -> str:
    """Format a line of ``--stream`` at ``second``; ``said`` is None in silence."""
    if form == "json":
        answer = _answer(said) if said else {"emotion": "silence", "probabilities": {}}
        return json.dumps({"end": second, **answer})
    if said is None:
        return f"{clock(second)}  silence"
    return f"{clock(second)}  {said.emotion}  {_ranked(said.probabilities)}"


def first_units(said: Prediction) -> str:
    """The first units, and how many more there are."""
    more = len(said.units) - UNITS_SHOWN
    shown = " ".join(unit.unit for unit in said.units[:UNITS_SHOWN])
    return shown + (f" and {more} more" if more > 0 else "")


def _ranked(probabilities: Mapping[str, float]) -> str:
    """Emotions and probabilities, most probable first."""
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    return "  ".join(f"{emotion} {p:.2f}" for emotion, p in ranked)


def clock(seconds: float) -> str:
    """``75.25`` -> ``1:15.2``, above an hour ``1:01:15.2``."""
    tenths = int(seconds * 10 + 1e-6)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{head}:{rest // 10:02d}.{rest % 10}"


def as_json(name: str, said: Prediction) -> str:
    """Format one JSON object on one line."""
    speakers = {w: {"seconds": _seconds(s.end), **_answer(s)} for w, s in said.speakers.items()}
    document = {
        "file": name,
        "duration": _seconds(said.duration),
        **_answer(said),
        **({"speakers": speakers} if speakers else {}),
        "segments": [
            {
                **({"speaker": segment.speaker} if segment.speaker else {}),
                "start": _seconds(segment.start),
                "end": _seconds(segment.end),
                **_answer(segment),
            }
            for segment in said.segments
        ],
        "units": [
            {"start": _seconds(u.start), "end": _seconds(u.end), "unit": u.unit} for u in said.units
        ],
        "warnings": said.warnings,
    }
    return json.dumps(document) + "\n"


def _answer(said: Prediction | Segment) -> dict[str, Any]:
    values = {"values": _rounded(said.values)} if said.values else {}
    return {"emotion": said.emotion, "probabilities": _rounded(said.probabilities), **values}


def csv_header(emotions: Sequence[str], values: Sequence[str] = (), turns: bool = False) -> str:
    """Header line of a CSV file; with a speaker column if the predictions are of turns."""
    columns = (*(f"p_{e}" for e in emotions), *values, "warnings", *(["speaker"] if turns else []))
    return _csv([["file", "scope", "start", "end", "emotion", *columns]])


def as_csv(name: str, said: Prediction) -> str:
    """Format a row of scope ``file`` for the recording and one of scope ``segment`` per segment.

    Warnings are in the row of the recording, separated by semicolons. With speakers, rows of scope
    ``speaker``, each for the whole recording, precede the segments.
    """
    whole = Segment(0.0, said.duration, said.probabilities, said.values)
    rows = [("file", whole, said.emotion, said.warnings)]
    wholes = [s._replace(end=said.duration) for s in said.speakers.values()]
    rows += [("speaker", s, s.emotion, ()) for s in wholes]
    rows += [("segment", s, s.emotion, ()) for s in said.segments]
    return _csv(
        [name, scope, f"{s.start:.3f}", f"{s.end:.3f}", emotion]
        + [f"{number:.6f}" for number in (*s.probabilities.values(), *s.values.values())]
        + ["; ".join(warnings), *([s.speaker] if said.speakers else [])]
        for scope, s, emotion, warnings in rows
    )


def _csv(rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


class Interval(NamedTuple):
    """A labelled interval in a TextGrid tier, in seconds."""

    start: float
    end: float
    text: str


def as_textgrid(name: str, said: Prediction) -> str:
    """Format a TextGrid in Praat's long format with tiers ``emotion``, ``units`` and ``warnings``.

    Consecutive segments with the same emotion are merged into one interval. With speakers, each
    has an emotion tier. The unit tier is left out if the model has no units, and the warning tier,
    a single interval, if there are no warnings.
    """
    tiers: dict[str, list[Interval]] = {}
    for s in merge(sorted(said.segments, key=lambda s: (s.speaker, s.start))):
        tier = f"emotion {s.speaker}".rstrip()
        tiers.setdefault(tier, []).append(Interval(s.start, s.end, s.emotion))
    if said.units:
        tiers["units"] = [Interval(*unit) for unit in said.units]
    end = _seconds(said.duration)
    if said.warnings:
        tiers["warnings"] = [Interval(0, end, "; ".join(said.warnings))]
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (tier, intervals) in enumerate(tiers.items(), start=1):
        whole = _without_gaps(intervals, end)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f"        name = {_quoted(tier)}",
            "        xmin = 0",
            f"        xmax = {end}",
            f"        intervals: size = {len(whole)}",
        ]
        for index, interval in enumerate(whole, start=1):
            lines += [
                f"        intervals [{index}]:",
                f"            xmin = {interval.start}",
                f"            xmax = {interval.end}",
                f"            text = {_quoted(interval.text)}",
            ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _without_gaps(intervals: Sequence[Interval], end: float) -> list[Interval]:
    """Fill gaps with empty intervals, since Praat requires a tier to cover 0 to its end."""
    filled, until = [], 0.0
    for start, stop, text in intervals:
        start, stop = max(_seconds(start), until), _seconds(stop)
        if stop <= start:  # empty after rounding
            continue
        if start > until:
            filled.append(Interval(until, start, ""))
        filled.append(Interval(start, stop, text))
        until = stop
    return filled if until >= end else [*filled, Interval(until, end, "")]


def _seconds(value: float) -> float:
    return round(value, 3)


def _rounded(probabilities: dict[str, float]) -> dict[str, float]:
    return {emotion: round(p, 6) for emotion, p in probabilities.items()}


FORMATS = {"text": as_text, "json": as_json, "csv": as_csv, "textgrid": as_textgrid}
