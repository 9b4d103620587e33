"""Tables of the HTML report, as rows of text."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ser.console import percent
from ser.data.folds import SPEAKER_DEPENDENT
from ser.predict.card import describe_protocol, is_synthetic
from ser.reporting.figures import spark_chart
from ser.reporting.inputs import ReportInput
from ser.reporting.rows import system_name
from ser.scoring.compare import System, compare_systems, load_record, row, speakers_of
from ser.scoring.records import same_tests
from ser.scoring.text import (
    CLASS_SCORES,
    KNOWN_SPEAKERS,
    concordance,
    differing,
    interval,
    mark,
    others_like,
    p_value,
    paired_over,
    partial_notes,
    raters_line,
)

SLICES = {"text": "words"}  # kinds with a clearer name
SYNTHETIC = (
    "no person speaks in this corpus: the recipe makes it with a speech synthesiser, to be tried "
    "without data. Its scores show that training works, and nothing about real emotion."
)
Rows = list[list[Any]]


def headline(inputs: Sequence[ReportInput]) -> dict[str, Any]:
    """Title, marks, meaning of the intervals, and the difference of two experiments."""
    several = len(inputs) > 1
    corpora = dict.fromkeys(m.scores["corpus"] for m in inputs)
    notes = [("Synthetic speech:", SYNTHETIC)] if any(map(is_synthetic, corpora)) else []
    notes += [note for m in inputs for note in marks(m, several)]
    about = [_about_interval(m.scores) for m in inputs if m.scores["summary"]["wa_ci"]]
    return {
        "systems": " and ".join(dict.fromkeys(system_name(m.scores) for m in inputs)),
        "corpora": " and ".join(corpora),
        "marks": notes,
        "intervals": list(dict.fromkeys(about)),
        "difference": system_difference(*inputs) if several else None,
    }


def marks(m: ReportInput, several: bool) -> list[tuple[str, str]]:
    """Warnings above all numbers: (LEAKY, PARTIAL or SPEAKER-DEPENDENT, reason)."""
    scores, of = m.scores, f"({m.name}) " if several else ""
    found = [("LEAKY", f"{of}not comparable: {why}.") for why in scores["leaky"]]
    if mark(scores) == SPEAKER_DEPENDENT:
        word, _, why = KNOWN_SPEAKERS.partition(": ")
        found.append((word, f"{of}{why}."))
    return found + [("PARTIAL", f"{of}{note}.") for note in partial_notes(scores)]


def facts(m: ReportInput) -> list[tuple[str, Any]]:
    """Entries of an experiment's card below WA and UA."""
    s, summary, stated = m.scores, m.scores["summary"], m.scores["stated"] or {}
    scored, expected = len(s["folds"]["scored"]), len(s["folds"]["expected"])
    units = s["units"] or {}
    found = [
        ("protocol", f"{s['protocol']}: {describe_protocol(s['protocol'])}"),
        ("differs from its configuration in", differing(s)),
        ("corpus", s["corpus"] + (", synthetic speech" if is_synthetic(s["corpus"]) else "")),
        ("folds", expected if scored == expected else f"{scored} of {expected}"),
        ("speakers tested", len({entry["speaker"] for entry in s["speakers"]})),
        ("utterances tested", summary["n"]),
        ("emotions", ", ".join(s["labels"])),
        ("tasks", m.kind),
        ("seed", s["seed"]),
        ("pooled WA / UA", f"{percent(summary['wa_pooled'])} / {percent(summary['ua_pooled'])}%"),
        ("sd over folds", f"{percent(summary['wa_sd'])} / {percent(summary['ua_sd'])}"
         if summary["wa_sd"] is not None else None),
        ("calibration error", f"{percent(s['calibration']['ece'])}%"),
        ("PER / UER", f"{percent(units.get('per'))} / {percent(units.get('uer'))}%"
         if units else None),
        *((k, concordance(v)) if "ccc" in v else (f"{k}, accuracy", f"{percent(v['accuracy'])}%")
          for k, v in s["auxiliary"].items()),
        ("raters", raters_line(s["raters"]) if s.get("raters") else None),
        ("stated by the paper", f"{stated['wa']} / {stated['ua']}"
         if stated.get("corpus") == s["corpus"] else None),
    ]  # fmt: skip
    return [(name, value) for name, value in found if value not in (None, "")]


def system_difference(first: ReportInput, second: ReportInput) -> dict[str, Any] | None:
    """The second minus the first; None if they were not tested on the same utterances."""
    a, b = first.scores, second.scores
    if not same_tests(a, b):
        return None
    runs = [load_record(m.exp_dir, m.scores) for m in (first, second)]
    found = compare_systems(*(System([run]) for run in runs), speakers_of(runs[0]))
    rows = [row(name.upper(), found["scores"][name]) for name in ("wa", "ua")]
    rows += [row(f"recall, {label}", entry) for label, entry in found["recall"].items()]
    (test,) = found["mcnemar"]
    return {
        "head": ["%", first.name, second.name, "second - first", "95%", "p"],
        "rows": rows,
        "caption": f"{second.name} minus {first.name}, in percentage points",
        "note": f"95% and p: {paired_over([a, b])}, not corrected for several comparisons. "
        f"McNemar's exact test on all decisions: only {first.name} right {test['only_first']}, "
        f"only {second.name} right {test['only_second']}, p = {p_value(test['p'])}; it takes "
        "utterances for independent, which a speaker's are not.",
    }


def fold_rows(m: ReportInput) -> Rows:
    """A row for each fold, with a sparkline of UA over epochs, and rows of means."""
    summary = m.scores["summary"]
    rows: Rows = []
    for fold, v in m.scores["per_fold"].items():
        name = f"UA over epochs, fold {fold}, {m.name}"
        spark = spark_chart(m.histories.get(fold, ()), v["best_epoch"], name)
        absent = f" (no {', '.join(v['absent'])})" if v["absent"] else ""
        seconds = f"{v['train_seconds']:.0f}" if v["train_seconds"] else "-"
        epochs = [v["epochs"] or "-", v["best_epoch"] or "-", seconds]
        drawn = spark.svg("spark") if spark else "-"
        rows.append([fold + absent, v["n"], percent(v["wa"]), percent(v["ua"]), *epochs, drawn])
    totals = [("mean", "", percent(summary["wa"]), percent(summary["ua"]))]
    if summary["wa_sd"] is not None:
        totals.append(("sd", "", percent(summary["wa_sd"]), percent(summary["ua_sd"])))
    if summary["wa_ci"]:
        bounds = [interval(summary[key]).replace(" to ", "–") for key in ("wa_ci", "ua_ci")]
        totals.append(("95%", "", *bounds))
    pooled = percent(summary["wa_pooled"]), percent(summary["ua_pooled"])
    totals.append(("pooled", summary["n"], *pooled))
    bold = Markup("<b>{}</b>")
    return rows + [[a, n, bold.format(wa), bold.format(ua), *[""] * 4] for a, n, wa, ua in totals]


def class_rows(m: ReportInput) -> Rows:
    """Precision, recall and F1 of each class."""
    of, macro = m.scores["per_class"], m.scores["macro"]
    rows = [[e, of[e]["n"], *(percent(of[e][s]) for s in CLASS_SCORES)] for e in of]
    return [*rows, ["macro", "", *(percent(macro[s]) for s in CLASS_SCORES)]]


def slice_rows(m: ReportInput) -> Rows:
    """Scores of parts of the test set, with WA also as a small bar."""
    meter = Markup(
        '<svg class="spark meter" width="90" height="14" aria-hidden="true">'
        '<rect y="3" width="90" height="8"></rect><rect y="3" width="{:.1f}" height="8"></rect>'
        "</svg>"
    )
    rows = []
    for kind, values in m.scores["slices"].items():
        for value, v in values.items():
            lacking = f", without {', '.join(v['absent'])}" if v["absent"] else ""
            name = f"{SLICES.get(kind, kind)}: {value}{lacking}"
            bar = meter.format(90 * v["wa"])
            rows.append([name, v["n"], percent(v["wa"]), percent(v["ua"]), bar])
    return rows


def origin_rows(m: ReportInput) -> Rows:
    """Provenance of an experiment's numbers."""
    s, parameters = m.scores, m.scores["parameters"]
    versions = ", ".join(f"{k} {v}" for k, v in sorted(s["versions"].items()))
    config, data = s["config"]["sha256"] or "-", s["data_sha256"] or "-"
    size = "not noted"
    if parameters:
        size = f"{parameters['total']:,}, of which {parameters['trained']:,} were trained"
    return [
        ["trained by", f"commit {s['commit']}"],
        ["scored by", f"commit {s['scored_by']}, {s['date']}"],
        ["hardware", s["hardware"]],
        ["training", _duration(s["train_seconds"])],
        ["parameters", size],
        ["encoder", s["ssl"] or "none, or as the configuration says"],
        ["configuration", f"{s['config']['path']}, SHA-256 {config[:12]}"],
        ["data", f"SHA-256 {data[:12]}; test {s['test_sha256'][:12]}"],
        ["versions", versions],
    ]


def _about_interval(scores: Mapping[str, Any]) -> str:
    others = others_like(scores["protocol"], f" {scores['interval']['speakers']}")
    return f"95%: where the scores of {others} would be ({scores['interval']['method']})."


def _duration(seconds: float | None) -> str:
    if not seconds:
        return "not noted"
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 120:
        return f"{seconds:.0f} s, all folds"
    return (f"{hours} h {minutes} min" if hours else f"{minutes} min") + ", all folds"


TABLES: dict[str, Callable[[ReportInput], Any]] = {
    function.__name__: function
    for function in (facts, fold_rows, class_rows, slice_rows, origin_rows)
}
