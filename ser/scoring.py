"""WA, UA, confusion matrix and unit error rates of a leave-one-out experiment.

All scores are fractions from 0 to 1 here and in scores.json, and percentages in tables.

- A fold's WA is its accuracy; WA is the mean over the folds (Li et al. 2024, eq. 8 and 9).
- A fold's UA is the mean of its per-class recalls; UA is the mean over the folds (eq. 10). The
  mean runs over the classes that the fold's reference contains: the recall of a class that nobody
  expressed is undefined. Folds with such a class are listed as ``absent``.
- Pooled WA and UA count all utterances as one test set.
- UER: edits from the reference units to the decoded ones (insertions, deletions, substitutions)
  over the count of reference units, all utterances together; the units as trained, with their
  emotion tag where they carry one. PER: the same with the tag taken off both sides, which asks
  for the phoneme classes only. An utterance without words has no reference units: it is left out
  of both, as it was of the CTC loss, and counted as ``empty``.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ser import provenance
from ser.cli import progress
from ser.datadir import read_table
from ser.errors import UserError
from ser.experiment import SCORED, Experiment, open_experiment
from ser.fileio import atomic_write
from ser.predictions import FILE_NAME, Prediction, read_predictions
from ser.stage import file_digest, read_marker

SCHEMA = 1


def confusion_matrix(refs: Sequence[str], hyps: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Counts (C, C): row the reference, column the decision, in the order of ``labels``."""
    index = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for ref, hyp in zip(refs, hyps, strict=True):
        counts[index[ref], index[hyp]] += 1
    return counts


def accuracy(counts: np.ndarray) -> float:
    """Correct decisions over all (eq. 8), from a confusion matrix (C, C)."""
    return float(np.trace(counts) / counts.sum())


def recalls(counts: np.ndarray) -> list[float | None]:
    """Each class's recall from a confusion matrix (C, C); None for a class without utterances."""
    return [
        float(row[i] / row.sum()) if row.sum() else None  # (C,) -> a fraction
        for i, row in enumerate(counts)
    ]


def unweighted_accuracy(counts: np.ndarray) -> float:
    """Mean recall over the classes that have utterances (the inner mean of eq. 10)."""
    return float(np.mean([r for r in recalls(counts) if r is not None]))


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); no deviation for a single value."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), sd


@dataclass(frozen=True)
class ErrorRate:
    """Edits over reference units; ``empty`` utterances had no reference and are not in it."""

    edits: int
    units: int
    utterances: int
    empty: int

    @property
    def rate(self) -> float | None:
        """Edits per reference unit; above 1 is possible. None without any reference unit."""
        return self.edits / self.units if self.units else None


def unit_error_rate(
    refs: Mapping[str, Sequence[str]], hyps: Mapping[str, Sequence[str]]
) -> ErrorRate:
    """Levenshtein edits over reference units, summed over the utterances of ``hyps``."""
    import editdistance

    edits = units = empty = 0
    for utt_id, hyp in hyps.items():
        ref = refs[utt_id]
        if not ref:
            empty += 1
            continue
        edits += editdistance.eval(list(ref), list(hyp))
        units += len(ref)
    return ErrorRate(edits, units, len(hyps) - empty, empty)


def score_folds(folds: Mapping[str, Sequence[Prediction]], labels: Sequence[str]) -> dict[str, Any]:
    """Everything about the emotion decisions: summary, folds, classes, confusion matrix.

    Args:
        folds: predictions by fold, in the protocol's order; none of them empty.
        labels: the emotions, in class order.

    Returns:
        The keys ``summary``, ``per_fold``, ``per_class`` and ``confusion`` of scores.json.
    """
    per_fold, pooled = {}, np.zeros((len(labels), len(labels)), dtype=np.int64)
    for fold, rows in folds.items():
        counts = confusion_matrix([p.ref for p in rows], [p.hyp for p in rows], labels)
        pooled += counts
        per_fold[fold] = {
            "wa": accuracy(counts),
            "ua": unweighted_accuracy(counts),
            "n": len(rows),
            "absent": [lab for lab, r in zip(labels, recalls(counts), strict=True) if r is None],
        }
    wa, wa_sd = mean_sd([fold["wa"] for fold in per_fold.values()])
    ua, ua_sd = mean_sd([fold["ua"] for fold in per_fold.values()])
    rows = pooled.sum(axis=1, keepdims=True)  # (C, 1)
    normalised = [
        [int(n) / int(total) for n in row] if total else [None] * len(labels)
        for row, total in zip(pooled, rows[:, 0], strict=True)
    ]
    return {
        "summary": {
            "n": int(pooled.sum()),
            "wa": wa,
            "wa_sd": wa_sd,
            "ua": ua,
            "ua_sd": ua_sd,
            "wa_pooled": accuracy(pooled),
            "ua_pooled": unweighted_accuracy(pooled),
        },
        "per_fold": per_fold,
        "per_class": {
            label: {"n": int(n), "recall": recall}
            for label, n, recall in zip(labels, rows[:, 0], recalls(pooled), strict=True)
        },
        "confusion": {"counts": pooled.tolist(), "row_normalised": normalised},
    }


def score_units(
    folds: Mapping[str, Sequence[Prediction]],
    references: Mapping[str, Sequence[str]],
    strip_tag: Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """UER and PER over all folds together, and what they were counted on.

    Args:
        folds: predictions by fold.
        references: reference units by utterance; empty for an utterance without words.
        strip_tag: unit -> phoneme class, or None where the units are not phonemes (then PER is).
    """
    hyps = {p.utt_id: p.units for rows in folds.values() for p in rows}
    uer = unit_error_rate(references, hyps)
    per = None
    if strip_tag is not None:
        per = unit_error_rate(
            {utt_id: [strip_tag(u) for u in references[utt_id]] for utt_id in hyps},
            {utt_id: [strip_tag(u) for u in units] for utt_id, units in hyps.items()},
        ).rate
    return {
        "uer": uer.rate,
        "per": per,
        "reference_units": uer.units,
        "utterances": uer.utterances,
        "empty": uer.empty,
    }


def tag_stripper(token_type: str) -> Callable[[str], str] | None:
    """What takes the emotion tag off a unit; None for units that are not phonemes.

    ``Vs3`` becomes ``Vs`` and ``AH0_3`` becomes ``AH0``; untagged units stay as they are.
    """
    return {
        "tagged_class": lambda unit: unit.rstrip("0123456789"),
        "tagged_phone": lambda unit: unit.rpartition("_")[0],
        "class": str,
        "phone": str,
    }.get(token_type)


def score_experiment(
    exp_dir: Path | str, dump_dir: Path | str, data_dir: Path | str, ngpu: int = 0
) -> dict[str, Any]:
    """Score every inferred fold; write scores.json and scores.txt and print the latter.

    Args:
        exp_dir: exp/<corpus>/<tag>.
        dump_dir: dump/<corpus>.
        data_dir: data/<corpus>.
        ngpu: above 0 if a GPU was used, for the note about the machine.

    Returns:
        The contents of scores.json.

    Raises:
        UserError: no fold to score, predictions that do not match their fold, or no reference
            units for the units that were decoded.
    """
    experiment = open_experiment(exp_dir, dump_dir)
    states = {fold: experiment.state(fold) for fold in experiment.folds}
    scored = [fold for fold, state in states.items() if state == SCORED]
    missing = {fold: state for fold, state in states.items() if state != SCORED}
    if not scored:
        raise UserError(
            f"{experiment.exp_dir}: none of its {len(states)} folds is trained and inferred "
            f"({'; '.join(f'{f}: {s}' for f, s in list(missing.items())[:3])}); train first: "
            "./run.sh --stage 4 --stop-stage 5 with the same options"
        )
    folds = {
        fold: read_predictions(
            experiment.exp_dir / fold / FILE_NAME, experiment.labels, experiment.references(fold)
        )
        for fold in scored
    }
    scores = _describe(experiment, Path(data_dir), ngpu)
    shortages = _corpus_shortages(Path(data_dir) / "all", experiment.dump_dir)
    scores["partial"] = bool(missing or shortages)
    scores["corpus_partial"] = shortages
    scores["folds"] = {"expected": experiment.folds, "scored": scored, "missing": missing}
    scores |= score_folds(folds, experiment.labels)
    for fold, values in scores["per_fold"].items():
        run = experiment.fold_run(fold)
        values |= {key: run.get(key) for key in ("epochs", "best_epoch", "train_seconds")}
    scores["units"] = None
    if all(experiment.units_head(fold) for fold in scored):
        references = read_reference_units(experiment.text, folds)
        scores["units"] = score_units(folds, references, tag_stripper(experiment.token_type))

    table = format_scores(scores)
    with atomic_write(experiment.exp_dir / "scores.json") as stream:
        json.dump(scores, stream, indent=1, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
    with atomic_write(experiment.exp_dir / "scores.txt") as stream:
        stream.write(table)
    print(table, end="")
    progress(f"score: {len(scored)} of {len(states)} folds; see {experiment.exp_dir}/scores.txt")
    return scores


def read_reference_units(
    path: Path, folds: Mapping[str, Sequence[Prediction]]
) -> dict[str, list[str]]:
    """Reference units of every predicted utterance; UserError if the table lacks one."""
    cure = "run stages 2 and 3 again with the --config (and its token_type) of this experiment"
    if not path.is_file():
        raise UserError(f"{path}: no such file, so the decoded units have no reference; {cure}")
    table = read_table(path, allow_empty=True)
    lacking = [p.utt_id for rows in folds.values() for p in rows if p.utt_id not in table]
    if lacking:
        raise UserError(f"{path}: {len(lacking)} utterances are not in it ({lacking[0]}); {cure}")
    return {utt_id: units.split() for utt_id, units in table.items()}


def _describe(experiment: Experiment, data_dir: Path, ngpu: int) -> dict[str, Any]:
    """What was scored: the part of scores.json that does not depend on predictions."""
    run = experiment.run
    config = Path(str(run["config"]))
    return {
        "schema": SCHEMA,
        "system": run.get("system") or config.stem.removeprefix("train_"),
        "tag": experiment.exp_dir.name,
        "corpus": run["corpus"],
        "protocol": run["protocol"],
        "seed": run["seed"],
        "labels": experiment.labels,
        "token_type": experiment.token_type,
        "feats_type": experiment.feats_type,
        "ssl": provenance.public_path(run["ssl"]) if run.get("ssl") else None,
        "max_epoch": run.get("max_epoch"),
        "config": {
            "path": provenance.public_path(config),
            "sha256": file_digest(config) if config.is_file() else None,
        },
        "settings_sha256": provenance.settings_digest(run.get("settings") or {}),
        "stated": run.get("stated"),
        "command": provenance.run_command(run, read_marker(data_dir / "all"), data_dir),
        "commit": run.get("commit") or provenance.git_commit(),
        "date": provenance.now(),
        "versions": provenance.versions(),
        "hardware": run.get("hardware") or provenance.hardware(ngpu),
    }


def _corpus_shortages(*directories: Path) -> list[str]:
    """What the corpus lacked when it was read, from the ``partial`` files."""
    lines: dict[str, None] = {}  # the same line may stand in both files
    for directory in directories:
        path = directory / "partial"
        if path.is_file():
            lines |= dict.fromkeys(path.read_text(encoding="utf-8").splitlines())
    return list(lines)


def partial_notes(scores: Mapping[str, Any]) -> list[str]:
    """Sentences that say what is missing from ``scores``; empty when nothing is."""
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


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage, or ``-`` for an undefined one."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def format_scores(scores: Mapping[str, Any]) -> str:
    """The readable table of scores.txt, in percent."""
    summary, labels = scores["summary"], scores["labels"]
    lines = [f"{scores['tag']}: {scores['corpus']}, protocol {scores['protocol']}"]
    lines += [f"PARTIAL: {note}" for note in partial_notes(scores)]
    lines.append("")
    rows = [["fold", "utterances", "WA %", "UA %", "epochs", "best epoch"]]
    for fold, v in scores["per_fold"].items():
        epochs = [str(v.get(key) or "-") for key in ("epochs", "best_epoch")]
        absent = [f"no {label} in the reference" for label in v["absent"]]
        rows.append([fold, str(v["n"]), percent(v["wa"]), percent(v["ua"]), *epochs, *absent])
    rows.append(["mean", "", percent(summary["wa"]), percent(summary["ua"])])
    rows.append(["sd", "", percent(summary["wa_sd"]), percent(summary["ua_sd"])])
    pooled = [percent(summary["wa_pooled"]), percent(summary["ua_pooled"])]
    rows.append(["pooled", str(summary["n"]), *pooled])
    lines += _columns(rows)
    lines += ["", "confusion matrix, pooled: rows are references, columns are decisions"]
    rows = [["", *labels, "recall %"]]
    for label, counts in zip(labels, scores["confusion"]["counts"], strict=True):
        recall = percent(scores["per_class"][label]["recall"])
        rows.append([label, *map(str, counts), recall])
    lines += _columns(rows)
    units = scores["units"]
    if units:
        lines += ["", f"unit error rate (UER), {scores['token_type']}: {percent(units['uer'])} %"]
        if units["per"] is not None:
            lines.append(f"phoneme error rate (PER), emotion tags off: {percent(units['per'])} %")
        lines.append(
            f"over {units['reference_units']} reference units of {units['utterances']} "
            f"utterances; {units['empty']} without words are left out"
        )
    return "\n".join(lines) + "\n"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned lines: the first column to the left, the others to the right."""
    count = max(map(len, rows))
    full = [[*row, *[""] * (count - len(row))] for row in rows]
    widths = [max(len(row[i]) for row in full) for i in range(count)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in full
    ]
