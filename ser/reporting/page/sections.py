"""The sections of the HTML report: tables and charts of one experiment, or of two in pairs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ser.console import percent
from ser.data.folds import SPEAKER_DEPENDENT, num_groups, num_parts
from ser.reporting.page import charts
from ser.reporting.page.markup import Markup, tag
from ser.reporting.page.markup import table as make_table
from ser.reporting.page.material import Material, same_tests
from ser.scoring.text import (
    CLASS_SCORES,
    KNOWN_SPEAKERS,
    decision_rows,
    difference,
    interval,
    mark,
    p_value,
    paired_over,
    partial_notes,
)
from ser.scoring.uncertainty import METHOD_KNOWN, differences, from_decisions, mcnemar, paired

PROTOCOLS = {
    "strict": "one speaker tests, the session's other one validates, all others train",
    "paper": "one speaker tests, all others train; the last epoch is tested",
    "session": "one session tests, all others train; the last epoch is tested",
    "prefix": "folds by the name of the dialog, in which both speakers speak",
}
SLICES = {"text": "words"}  # a kind that needs another name to be understood


def headline(materials: Sequence[Material]) -> list[Markup]:
    """Title, marks, and for each experiment WA and UA with intervals and what they are of."""
    systems = " and ".join(dict.fromkeys(system_name(m.scores) for m in materials))
    corpora = " and ".join(dict.fromkeys(m.scores["corpus"] for m in materials))
    parts = [tag("h1", f"{systems} on {corpora}")]
    parts += [
        tag("p", tag("strong", word), f" {text}", class_="mark", role="note")
        for m in materials
        for word, text in marks(m, several=len(materials) > 1)
    ]
    parts.append(tag("div", [_card(m, len(materials) > 1) for m in materials], class_="pair"))
    about = dict.fromkeys(
        _about_interval(m.scores) for m in materials if m.scores["summary"]["wa_ci"]
    )
    parts += [tag("p", text, class_="note") for text in about]
    if len(materials) == 2:
        parts += system_difference(materials[0], materials[1])
    return parts


def marks(material: Material, several: bool) -> list[tuple[str, str]]:
    """What must be seen before any number: (LEAKY, PARTIAL or SPEAKER-DEPENDENT, why)."""
    scores, of = material.scores, f"({material.name}) " if several else ""
    found = [("LEAKY", f"{of}not comparable: {why}.") for why in scores["leaky"]]
    if mark(scores) == SPEAKER_DEPENDENT:
        word, _, why = KNOWN_SPEAKERS.partition(": ")
        found.append((word, f"{of}{why}."))
    return found + [("PARTIAL", f"{of}{note}.") for note in partial_notes(scores)]


def folds(materials: Sequence[Material]) -> list[Markup]:
    """The table of folds, with UA over epochs in small."""
    return [
        _each(materials, _fold_table, "stack"),
        tag("p", "WA is the share of right decisions, UA the mean recall of the classes; both are "
            "means over the folds. The curve is UA while training, from 0 to 100%, on the "
            "validation speakers where there are some (else on the training set); the dot is the "
            "best epoch there, or the last.", class_="note"),
    ]  # fmt: skip


def confusion(materials: Sequence[Material]) -> list[Markup]:
    """Confusion matrices side by side, as Figures 5 and 6 of the paper."""

    def matrix(m: Material) -> Markup:
        drawn = charts.confusion_chart(m.scores, f"Confusion matrix, {m.name}")
        caption = [tag("b", m.title), f" ({m.kind})" if m.kind else None]
        return _figure(tag("div", drawn, class_="scroll"), caption)

    def precision(m: Material) -> Markup:
        of = m.scores["per_class"]
        rows = [[e, of[e]["n"], *(percent(of[e][s]) for s in CLASS_SCORES)] for e in of]
        rows.append(["macro", "", *(percent(m.scores["macro"][s]) for s in CLASS_SCORES)])
        head = ["class", "n", *(f"{title} %" for title in CLASS_SCORES.values())]
        return make_table(head, rows, _of(m, materials, "By class, all folds together"))

    note = (
        "All folds together. A row is a reference class and adds up to 100%; the numbers are "
        "percent of it and utterances. Framed: right decisions. These are the matrices that the "
        "paper's Figures 5 and 6 draw for a single-task and a multi-task model."
    )
    drawn = [draw(m) for draw in (matrix, precision) for m in materials]
    return [tag("div", drawn, class_="pair"), tag("p", note, class_="note")]


def speakers(materials: Sequence[Material]) -> list[Markup]:
    """A bar with an interval for every speaker."""

    def bars(m: Material) -> Markup:
        return _figure(
            charts.speakers_chart(m.scores, f"WA by speaker, {m.name}"), tag("b", m.title)
        )

    note = (
        "Accuracy (%) on each speaker's utterances. The line on a bar is a 95% score interval "
        "(Wilson) that takes this speaker's utterances for independent; the shaded band is the "
        "95% interval of the mean over folds, dashed."
    )
    return _noted(materials, bars, note)


def learning(materials: Sequence[Material]) -> list[Markup]:
    """Losses and UA over epochs."""

    def curves(m: Material) -> Markup:
        panels = charts.learning_panels(m.histories)
        if not panels:
            return _lacking(m, "no history.json in its folds, which training writes")
        drawn = [
            _figure(charts.curves_chart(found, name, f"{name} over epochs, {m.name}"))
            for name, found in panels
        ]
        return tag("div", _title(m, materials), tag("div", drawn, class_="trio"))

    note = "Thick: mean over folds; thin: each fold. Training is blue and round, validation " \
        "orange, dashed and square."  # fmt: skip
    return [_each(materials, curves, "stack"), tag("p", note, class_="note")]


def layers(materials: Sequence[Material]) -> list[Markup]:
    """Fusion weights of the encoder's layers, or nothing where no model fuses layers."""

    def weights(m: Material) -> Markup:
        found = m.layer_weights()
        if not found:
            return _lacking(m, "it does not fuse layers, or its history.json does not tell")
        names = m.layer_names(len(next(iter(found.values()))))
        drawn = charts.layers_chart(found, names, f"Layer weights, {m.name}")
        return _figure(drawn, tag("b", m.title))

    note = (
        "Softmax-normalised weights of the layers after the last epoch (eq. 4). Large dots: mean "
        "over folds; small ones: each fold; dotted: the equal shares that training starts with."
    )
    return _noted(materials, weights, note)


def calibration(materials: Sequence[Material]) -> list[Markup]:
    """Reliability diagrams and calibration errors."""

    def diagram(m: Material) -> Markup:
        found = m.scores["calibration"]
        drawn = charts.reliability_chart(m.scores, f"Reliability, {m.name}")
        caption = [
            tag("b", m.title),
            f": ECE {percent(found['ece'])}% ({len(found['bins'])} bins), mean confidence "
            f"{percent(found['confidence'])}%, accuracy {percent(found['accuracy'])}%",
        ]
        return _figure(drawn, caption)

    note = (
        "Decisions by the probability of the emotion decided for. A bar that stays below the "
        "dotted diagonal: surer than right. Below: how many decisions. ECE is the mean distance "
        "between confidence and accuracy, weighted by decisions."
    )
    return _noted(materials, diagram, note)


def slices(materials: Sequence[Material]) -> list[Markup]:
    """Scores of parts of the test set."""

    def rows(m: Material) -> Markup:
        found = []
        for kind, values in m.scores["slices"].items():
            for value, v in values.items():
                lacking = f", without {', '.join(v['absent'])}" if v["absent"] else ""
                name = f"{SLICES.get(kind, kind)}: {value}{lacking}"
                numbers = [v["n"], percent(v["wa"]), percent(v["ua"])]
                found.append([name, *numbers, charts.meter(v["wa"])])
        head = ["part", "utterances", "WA %", "UA %", "WA"]
        return make_table(head, found, _of(m, materials, "All folds together"))

    return [_each(materials, rows, "stack")]


def decisions(materials: Sequence[Material]) -> list[Markup]:
    """The emotion head's decision, those of the CTC head, and both together."""

    def rows(m: Material) -> Markup:
        if not m.scores["decisions"]:
            return _lacking(m, "no decisions but the emotion head's: its units carry no emotion")
        head, *found = decision_rows([m.scores])
        caption = f"95% and p: of WA minus the emotion head's, {paired_over([m.scores])}"
        return make_table(head, found, _of(m, materials, caption))

    parts = [_each(materials, rows, "stack")]
    if any(m.scores["decisions"] for m in materials):
        note = (
            "The units of the phoneme head carry the emotion. Mass: their posterior by emotion; "
            "transcript: the likelihood of what was said under each emotion's tag."
        )
        parts.append(tag("p", note, class_="note"))
    return parts


def provenance(materials: Sequence[Material]) -> list[Markup]:
    """What to run to get these numbers again, and what they were made with."""

    def origin(m: Material) -> Markup:
        s = m.scores
        seconds, parameters = s["train_seconds"], s["parameters"]
        versions = ", ".join(f"{k} {v}" for k, v in sorted(s["versions"].items()))
        rows = [
            ["trained by", f"commit {s['commit']}"],
            ["scored by", f"commit {s['scored_by']}, {s['date']}"],
            ["hardware", s["hardware"]],
            ["training", f"{_duration(seconds)}, all folds" if seconds else "not noted"],
            ["parameters", _parameters(parameters)],
            ["encoder", s["ssl"] or "none, or as the configuration says"],
            [
                "configuration",
                f"{s['config']['path']}, SHA-256 {(s['config']['sha256'] or '-')[:12]}",
            ],
            ["data", f"SHA-256 {(s['data_sha256'] or '-')[:12]}; test {s['test_sha256'][:12]}"],
            ["versions", versions],
        ]
        command = tag("pre", tag("code", s["command"]))
        return tag("div", _title(m, materials), command, make_table(["", ""], rows, text=2))

    return [_each(materials, origin, "stack")]


def system_name(scores: Mapping[str, Any]) -> str:
    """The configuration's name, with that of the encoder."""
    ssl = scores["ssl"]
    return scores["system"] + (f" ({ssl.rstrip('/').rpartition('/')[2]})" if ssl else "")


def _card(m: Material, several: bool) -> Markup:
    s, summary = m.scores, m.scores["summary"]
    big = []
    for key, name, what in (("wa", "WA", "accuracy"), ("ua", "UA", "mean class recall")):
        bounds = summary[f"{key}_ci"]
        said = f"95%: {interval(bounds)}" if bounds else "no interval can be given"
        value = [f"{percent(summary[key])}%", tag("span", said)]
        big.append(tag("div", tag("dt", f"{name}, {what}"), tag("dd", value, data_score=key)))
    parts, speakers_ = num_parts(s["protocol"]), len({e["speaker"] for e in s["speakers"]})
    about = PROTOCOLS.get(s["protocol"]) or (parts and f"{parts} parts; every part tests once")
    if num_groups(s["protocol"]):
        about = f"speakers by {num_groups(s['protocol'])} groups of sentences; both are left out"
    stated = s["stated"] or {}
    facts = [
        ("protocol", s["protocol"] + (f": {about}" if about else "")),
        ("corpus", s["corpus"]),
        ("folds", _folds_said(s)),
        ("speakers tested", speakers_),
        ("utterances tested", summary["n"]),
        ("emotions", ", ".join(s["labels"])),
        ("tasks", m.kind),
        ("seed", s["seed"]),
        ("pooled WA / UA", f"{percent(summary['wa_pooled'])} / {percent(summary['ua_pooled'])}%"),
        ("sd over folds", f"{percent(summary['wa_sd'])} / {percent(summary['ua_sd'])}"
         if summary["wa_sd"] is not None else None),
        ("calibration error", f"{percent(s['calibration']['ece'])}%"),
        ("PER / UER", _unit_errors(s["units"])),
        *((f"{k}, accuracy", f"{percent(v['accuracy'])}%") for k, v in s["auxiliary"].items()),
        ("stated by the paper", f"{stated['wa']} / {stated['ua']}"
         if stated.get("corpus") == s["corpus"] else None),
    ]  # fmt: skip
    facts_ = [
        tag("div", tag("dt", k), tag("dd", v), class_="long" if k == "protocol" else None)
        for k, v in facts
        if v not in (None, "")
    ]
    name = f"{m.title}: {system_name(s)}" if several else m.title
    return tag(
        "section",
        tag("h3", name),
        tag("dl", big, class_="big"),
        tag("dl", facts_, class_="facts"),
        class_="card",
    )


def _about_interval(scores: Mapping[str, Any]) -> str:
    others = f"other speakers like these {scores['interval']['speakers']}"
    if scores["interval"]["method"] == METHOD_KNOWN:
        others = f"other utterances of these {scores['interval']['speakers']} speakers"
    return f"95%: where the scores of {others} would lie ({scores['interval']['method']})."


def system_difference(first: Material, second: Material) -> list[Markup]:
    """The second minus the first, where both were tested on the same utterances."""
    title = tag("h2", "Difference", id="difference")
    a, b = first.scores, second.scores
    if not same_tests(a, b):
        why = (
            "The two were not tested on the same utterances in the same folds, so their difference "
            "cannot be told from that of the tests. Where only folds differ: ./run.sh --compare."
        )
        return [title, tag("p", why, class_="note")]
    both = [from_decisions([s["speakers"]], len(a["labels"]), s["protocol"]) for s in (a, b)]
    found = differences(paired(*both))
    rows = []
    for key, name in (("wa", "WA"), ("ua", "UA")):
        values = [percent(s["summary"][key]) for s in (a, b)]
        rows.append([name, *values, *difference(found[key])])
    for label, change in zip(a["labels"], found["recall"], strict=True):
        values = [percent(s["per_class"][label]["recall"]) for s in (a, b)]
        rows.append([f"recall, {label}", *values, *(difference(change) if change else "---")])
    test = mcnemar(both[0].right[:, 0], both[1].right[:, 0])
    note = (
        f"95% and p: {paired_over([a, b])}, not corrected for several comparisons. McNemar's "
        f"exact test on all decisions: only {first.name} right {test['only_first']}, only "
        f"{second.name} right {test['only_second']}, p = {p_value(test['p'])}; it takes "
        "utterances for independent, which a speaker's are not."
    )
    head = ["%", first.name, second.name, "second - first", "95%", "p"]
    caption = f"{second.name} minus {first.name}, in percentage points"
    return [title, make_table(head, rows, caption), tag("p", note, class_="note")]


def _fold_table(m: Material) -> Markup:
    summary = m.scores["summary"]
    rows: list[list[Any]] = []
    for fold, v in m.scores["per_fold"].items():
        history = m.histories.get(fold)
        spark = charts.sparkline(history, v["best_epoch"], fold) if history else None
        absent = f" (no {', '.join(v['absent'])})" if v["absent"] else ""
        seconds = v["train_seconds"]
        rows.append(
            [
                fold + absent,
                v["n"],
                percent(v["wa"]),
                percent(v["ua"]),
                v["epochs"] or "-",
                v["best_epoch"] or "-",
                f"{seconds:.0f}" if seconds else "-",
                spark or "-",
            ]
        )

    def total(name: str, n: Any, wa: str, ua: str) -> list[Any]:
        return [name, n, tag("b", wa), tag("b", ua), "", "", "", ""]

    rows.append(total("mean", "", percent(summary["wa"]), percent(summary["ua"])))
    if summary["wa_sd"] is not None:
        rows.append(total("sd", "", percent(summary["wa_sd"]), percent(summary["ua_sd"])))
    if summary["wa_ci"]:
        bounds = [interval(summary[key]).replace(" to ", "–") for key in ("wa_ci", "ua_ci")]
        rows.append(total("95%", "", *bounds))
    pooled = [percent(summary["wa_pooled"]), percent(summary["ua_pooled"])]
    rows.append(total("pooled", summary["n"], *pooled))
    head = ["fold", "utterances", "WA %", "UA %", "epochs", "best epoch", "seconds", "UA by epoch"]
    return make_table(head, rows, f"{m.title}, protocol {m.scores['protocol']}")


def _each(
    materials: Sequence[Material], draw: Callable[[Material], Markup], layout: str = "pair"
) -> Markup:
    return tag("div", [draw(m) for m in materials], class_=layout)


def _noted(
    materials: Sequence[Material], draw: Callable[[Material], Markup], note: str
) -> list[Markup]:
    """A chart of each, and a note: beside a single chart, below two."""
    drawn, said = [draw(m) for m in materials], tag("p", note, class_="note")
    if len(materials) == 1:
        return [tag("div", drawn, said, class_="pair")]
    return [tag("div", drawn, class_="pair"), said]


def _figure(drawn: Markup, caption: Any = None) -> Markup:
    return tag("figure", drawn, caption and tag("figcaption", caption))


def _title(m: Material, materials: Sequence[Material]) -> Markup | None:
    return tag("h3", m.title) if len(materials) > 1 else None


def _of(m: Material, materials: Sequence[Material], text: str) -> str:
    return f"{m.title}: {text[0].lower()}{text[1:]}" if len(materials) > 1 else text


def _lacking(m: Material, why: str) -> Markup:
    return tag("p", f"{m.name}: {why}.", class_="note")


def _folds_said(scores: Mapping[str, Any]) -> str:
    scored, expected = len(scores["folds"]["scored"]), len(scores["folds"]["expected"])
    return str(expected) if scored == expected else f"{scored} of {expected}"


def _unit_errors(units: Mapping[str, Any] | None) -> str | None:
    if not units:
        return None
    return f"{percent(units.get('per'))} / {percent(units.get('uer'))}%"


def _parameters(parameters: Mapping[str, int] | None) -> str:
    if not parameters:
        return "not noted"
    return f"{parameters['total']:,}, of which {parameters['trained']:,} were trained"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
