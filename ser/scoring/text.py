"""scores.txt: the readable table of a scores.json, in percent."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ser.console import percent
from ser.data.folds import SPEAKER_DEPENDENT, caveat, mean_over
from ser.provenance import default_tag
from ser.scoring.decision_scores import NAMES, against_own
from ser.scoring.metrics import mean_sd
from ser.scoring.uncertainty import Difference

# Options of a command that have table columns; a row must state the others.
IN_COLUMNS = (
    *("--corpus", "--corpus-dir", "--config", "--ssl", "--sweep", "--protocol", "--seed"),
    *("--folds", "--tag"),
)

CLASS_SCORES = {"precision": "precision", "recall": "recall", "f1": "F1"}
UNDEFINED = (
    "undefined, nothing to divide by; left out of macro, but for the precision of a class never "
    "decided for, which counts as 0"
)
GAP = "***"  # in an alignment: a unit that was deleted or inserted
PAIRS_IN_LINE = 20
KNOWN_SPEAKERS = (
    "SPEAKER-DEPENDENT: the speakers tested are among those trained on; not comparable with "
    "leave-one-speaker-out"
)


def partial_notes(scores: Mapping[str, Any]) -> list[str]:
    """Sentences about what is missing from ``scores``; empty if nothing is."""
    notes = []
    folds = scores["folds"]
    if folds["missing"]:
        reasons: dict[str, list[str]] = {}
        for fold, why in folds["missing"].items():
            reasons.setdefault(why, []).append(fold)
        which = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        count = f"{len(folds['scored'])} of {len(folds['expected'])} folds"
        notes.append(f"only {count} are scored; missing: {which}")
    if scores["corpus_partial"]:
        notes.append("the corpus is not complete: " + "; ".join(scores["corpus_partial"]))
    return notes


def mark(scores: Mapping[str, Any]) -> str:
    """LEAKY, speaker-dependent, or "": the mark shown with ``scores`` everywhere."""
    return "LEAKY" if scores["leaky"] else caveat(scores["protocol"])


def marked(scores: Mapping[str, Any], bold: bool = False) -> str:
    """The protocol with its mark, such as ``kfold5 (speaker-dependent)``."""
    found = mark(scores)
    found = f"**{found}**" if found and bold else found
    return scores["protocol"] + (f" ({found})" if found else "")


def others_like(protocol: str, count: str = "") -> str:
    """Population that intervals under ``protocol`` refer to; ``count`` is the number of speakers.

    A model tested on its training speakers says nothing about others.
    """
    if caveat(protocol):
        return f"other utterances of these{count} speakers"
    return f"other speakers like these{count}"


def interval(bounds: Sequence[float] | None) -> str:
    """Format an interval of fractions in percent, such as ``80.1 to 92.9``; ``-`` if None."""
    return "-" if bounds is None else f"{percent(bounds[0])} to {percent(bounds[1])}"


def parameter_count(found: Mapping[str, int] | None) -> str:
    """All parameters, and in brackets the trained ones if fewer; ``-`` if unknown."""
    if found is None:
        return "-"
    trained = f" ({found['trained']:,})" if found["trained"] != found["total"] else ""
    return f"{found['total']:,}{trained}"


def format_scores(scores: Mapping[str, Any]) -> str:
    """Format the readable table of scores.txt, in percent."""
    summary, labels = scores["summary"], scores["labels"]
    lines = [f"{scores['tag']}: {scores['corpus']}, protocol {scores['protocol']}"]
    lines += [f"LEAKY, not comparable: {why}" for why in scores["leaky"]]
    if mark(scores) == SPEAKER_DEPENDENT:
        lines.append(KNOWN_SPEAKERS)
    lines += [f"PARTIAL: {note}" for note in partial_notes(scores)]
    lines.append("")
    rows = [["fold", "utterances", "WA %", "UA %", "epochs", "best epoch"]]
    for fold, v in scores["per_fold"].items():
        epochs = [str(v.get(key) or "-") for key in ("epochs", "best_epoch")]
        absent = [f"no {label} in the reference" for label in v["absent"]]
        rows.append([fold, str(v["n"]), percent(v["wa"]), percent(v["ua"]), *epochs, *absent])
    mean = {"folds": "mean", "speakers": "mean of speakers"}[mean_over(scores["protocol"])]
    rows.append([mean, "", percent(summary["wa"]), percent(summary["ua"])])
    rows.append(["sd", "", percent(summary["wa_sd"]), percent(summary["ua_sd"])])
    if summary["wa_ci"]:
        for name, end in (("95% from", 0), ("95% to", 1)):
            # no interval of UA if all decisions are for one class; WA still varies with its share
            bounds = [summary[key] for key in ("wa_ci", "ua_ci")]
            rows.append([name, "", *("-" if b is None else percent(b[end]) for b in bounds)])
    pooled = [percent(summary["wa_pooled"]), percent(summary["ua_pooled"])]
    rows.append(["pooled", str(summary["n"]), *pooled])
    lines += columns(rows)
    if summary["wa_ci"]:
        others = others_like(scores["protocol"], f" {scores['interval']['speakers']}")
        lines.append(f"95%: where WA and UA of {others} would lie")
    lines += ["", "confusion matrix, pooled: rows are references, columns are decisions"]
    rows = [["", *labels, *(f"{title} %" for title in CLASS_SCORES.values())]]
    for label, counts in zip(labels, scores["confusion"]["counts"], strict=True):
        of = scores["per_class"][label]
        rows.append([label, *map(str, counts), *(percent(of[name]) for name in CLASS_SCORES)])
    means = [percent(scores["macro"][name]) for name in CLASS_SCORES]
    rows.append(["macro", *[""] * len(labels), *means])
    lines += columns(rows)
    if any(of[name] is None for of in scores["per_class"].values() for name in CLASS_SCORES):
        lines.append(f"-: {UNDEFINED}")
    if scores["decisions"]:
        lines += ["", *columns(decision_rows([scores]))]
        lines.append(f"95% and p: of WA minus that of the emotion head, {paired_over([scores])}")
    lines += ["", *columns(_slice_rows(scores["slices"])), "", *_calibration(scores["calibration"])]
    lines += [""] * bool(scores["auxiliary"]) + auxiliary_lines(scores["auxiliary"])
    if scores.get("raters"):
        lines += ["", f"raters: {raters_line(scores['raters'])}"]
    units = scores["units"]
    if units:
        lines += ["", f"unit error rate (UER), {scores['token_type']}: {percent(units['uer'])} %"]
        if units["per"] is not None:
            lines.append(f"phoneme error rate (PER), emotion tags off: {percent(units['per'])} %")
        lines.append(
            f"over {units['reference_units']} reference units of {units['utterances']} "
            f"utterances; {units['empty']} without words are left out"
        )
        lines += _sample_lines(units.get("sample"))
    return "\n".join(lines) + "\n"


def _sample_lines(sample: Mapping[str, Any] | None) -> list[str]:
    """Reference and decoded units of one utterance, aligned; a gap is ``***``."""
    if sample is None:
        return []
    rate = percent(sample["rate"])
    lines = ["", f"{sample['utt_id']}, the utterance of median error rate ({rate} %, tags off):"]
    pairs = [[unit or GAP for unit in pair] for pair in sample["pairs"]]
    for first in range(0, len(pairs), PAIRS_IN_LINE):
        row = pairs[first : first + PAIRS_IN_LINE]
        for side, name in enumerate(("reference", "decoded")):
            cells = [pair[side].ljust(max(map(len, pair))) for pair in row]
            lines.append(f"  {name:9}  {' '.join(cells)}".rstrip())
    return lines


def auxiliary_lines(heads: Mapping[str, Any]) -> list[str]:
    """A line for each auxiliary label or value head; empty without such heads."""
    lines = []
    for name, v in heads.items():
        if "ccc" in v:
            of = ", ".join(f"{speaker} {decimal(c)}" for speaker, c in v["per_speaker"].items())
            said = f"{concordance(v)}, RMSE {decimal(v['rmse'])}, {v['n']} utterances ({of})"
        else:
            said = f"accuracy {percent(v['accuracy'])} % of {v['n']} utterances"
        if v["unknown"]:
            said += f"; {v['unknown']} whose value is not known are left out"
        lines.append(f"auxiliary head {name}: {said}")
    return lines


def raters_line(found: Mapping[str, Any]) -> str:
    """Divergence from the raters' labels, and the share of decisions that match any rater."""
    kl, jsd, right, differ = (found[key] for key in ("kl", "jsd", "any_rater", "divided"))
    said = f"{percent(right)} % decided as a rater did; {found['n']} utterances"
    return f"KL {kl:.3f}, JSD {jsd:.3f} nats; {said}, on {percent(differ)} % of which raters differ"


def concordance(found: Mapping[str, Any]) -> str:
    """CCC of a value head and its interval, such as ``CCC 0.621 [0.550 to 0.690]``."""
    bounds = " to ".join(decimal(bound) for bound in found["ccc_ci"] or [None])
    return f"CCC {decimal(found['ccc'])} [{bounds}]"


def decimal(value: float | None) -> str:
    """Three decimals; ``-`` for None."""
    return "-" if value is None else f"{value:.3f}"


def paired_over(runs: Sequence[Mapping[str, Any]]) -> str:
    """Resampling unit of the bootstrap of a difference between ``runs``, in words."""
    known = any(caveat(scores["protocol"]) for scores in runs)
    return "paired over utterances of these speakers" if known else "paired over speakers"


def decision_rows(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A header and a row for each decision, as means over ``runs``, the seeds of a system."""
    rows = [["decision", "WA %", "UA %", "WA - head's", "95%", "p"]]
    own = [percent(mean_sd([run["summary"][name] for run in runs])[0]) for name in ("wa", "ua")]
    rows.append(["emotion head", *own, "", "", ""])
    for name in runs[0]["decisions"]:
        means = [mean_sd([run["decisions"][name][n] for run in runs])[0] for n in ("wa", "ua")]
        change = difference(against_own(runs, name)["wa"])
        rows.append([NAMES[name], *map(percent, means), *change])
    return rows


def difference(found: Difference) -> list[str]:
    """Value and interval of a difference in percentage points, and its p-value."""
    bounds = "-"
    if found.low is not None and found.high is not None:
        bounds = f"{signed(found.low)} to {signed(found.high)}"
    return [signed(found.value), bounds, p_value(found.p)]


def signed(fraction: float) -> str:
    """Format a difference in percentage points, with its sign."""
    text = "0.0" if abs(fraction) < 0.0005 else percent(fraction)
    return text if text.startswith("-") else f"+{text}"


def p_value(p: float | None) -> str:
    """Three digits; ``-`` without a test."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _slice_rows(slices: Mapping[str, Any]) -> list[list[str]]:
    rows = [["slice, pooled", "utterances", "WA %", "UA %"]]
    for kind, values in slices.items():
        for value, v in values.items():
            absent = [f"without {', '.join(v['absent'])}"] if v["absent"] else []
            cells = [str(v["n"]), percent(v["wa"]), percent(v["ua"]), *absent]
            rows.append([f"{kind}: {value}", *cells])
    return rows


def _calibration(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"calibration error (ECE, {len(found['bins'])} bins): {percent(found['ece'])} %; "
        f"mean confidence {percent(found['confidence'])} %, accuracy {percent(found['accuracy'])} %"
    ]
    rows = calibration_rows(found)
    lines += columns([["probabilities", "ECE %", "NLL", "Brier", "AURC %"], *rows]) if rows else []
    if scaled := found["scaled"]:
        low, high = (f(scaled["temperature"].values()) for f in (min, max))
        lines.append(
            f"temperature, fitted to each fold's validation speakers: {low:.2f} to {high:.2f}"
        )
    return lines


def calibration_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """ECE, NLL, Brier score and AURC before and after temperature scaling, if they are known."""
    kinds = {"as trained": found, "temperature scaled": found["scaled"]}
    return [
        [name, percent(of["ece"]), f"{of['nll']:.3f}", f"{of['brier']:.3f}", percent(of["aurc"])]
        for name, of in kinds.items()
        if of and of["nll"] is not None
    ]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align rows as lines: the first column to the left, the others to the right."""
    count = max(map(len, rows))
    full = [[*row, *[""] * (count - len(row))] for row in rows]
    widths = [max(len(row[i]) for row in full) for i in range(count)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in full
    ]


def differing(scores: Mapping[str, Any]) -> str:
    """How an experiment differs from its plain configuration: tag, options of its command."""
    command, _, espnet = scores["command"].partition(" -- ")
    try:
        options = shlex.split(command)[1:]
    except ValueError:  # not written by this recipe
        return command
    given = dict(zip(options[::2], options[1::2], strict=False))
    select = given.get("--select", "")
    usual = default_tag(scores["config"]["path"], scores["protocol"], scores["seed"], select)
    found = [f"{k} {v}" for k, v in given.items() if k not in IN_COLUMNS]
    if scores["tag"] != usual and not scores["sweep"]:
        found.insert(0, f"tag {scores['tag']}")
    return " ".join([*found, *([f"-- {espnet}"] if espnet else [])])
