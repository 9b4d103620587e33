"""Stage 5: predictions of a leave-one-out experiment -> scores.json, scores.txt, errors.tsv.

All scores are fractions from 0 to 1 here and in scores.json, and percentages in tables.

- A fold's WA is its accuracy; WA is the mean over the folds (Li et al. 2024, eq. 8 and 9).
- A fold's UA is the mean of its per-class recalls; UA is the mean over the folds (eq. 10). The
  mean runs over the classes in the fold's reference: the recall of a class without utterances is
  undefined. Such classes are listed as ``absent``.
- Pooled WA and UA treat all utterances as one test set, and so do precision, recall and F1 of a
  class and their means over the classes (``macro``; see ser/scoring/metrics.py for undefined ones).
- UER: edits from the reference units to the decoded ones (insertions, deletions, substitutions)
  over the number of reference units, for all utterances together; units as trained, with their
  emotion tag if any. PER: the same without tags on both sides, which measures the phoneme classes
  only. An utterance without words has no reference units: it is excluded from both, as from the
  CTC loss, and counted as ``empty``.

scores.json holds every decision (``speakers``), so that everything that follows from decisions can
be recomputed: RESULTS.md, the intervals of ser/scoring/uncertainty.py, any other score.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser import provenance
from ser.console import progress
from ser.data.folds import mean_over
from ser.data.labels import read_raters
from ser.data.tables import read_table
from ser.errors import UserError
from ser.files import atomic_write
from ser.lang.units import align, tag_stripper, unit_error_rate
from ser.scoring.auxiliary import score_auxiliary
from ser.scoring.calibration import calibration, scaled, score_raters
from ser.scoring.decision_scores import score_decisions, valid_ua
from ser.scoring.metrics import (
    DIGITS,
    absent,
    accuracy,
    confusion_matrix,
    f1_scores,
    macro_precision,
    mean_defined,
    mean_sd,
    precisions,
    recalls,
    unweighted_accuracy,
)
from ser.scoring.predictions import FILE_NAME, Prediction, read_predictions, write_errors
from ser.scoring.scores import SCHEMA, Scores
from ser.scoring.slices import find_slices, read_utterance_table, score_slices
from ser.scoring.text import format_scores
from ser.scoring.uncertainty import (
    LEVEL,
    METHOD,
    METHOD_KNOWN,
    REPLICATES,
    from_decisions,
    score_intervals,
)
from ser.stage import file_digest, read_marker
from ser.training.experiment import SCORED, Experiment, open_experiment, read_fold_run


def score_folds(
    folds: Mapping[str, Sequence[Prediction]],
    labels: Sequence[str],
    owner: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Score the emotion decisions: summary, folds, classes, confusion matrix.

    Args:
        folds: Predictions by fold, in the protocol's order; none of them empty.
        labels: The emotions, in class order.
        owner: If WA and UA are means over speakers (``mean_over``), the test speaker of each fold;
            all folds of a speaker are then scored together. None: means over folds.

    Returns:
        The keys ``summary``, ``per_fold``, ``per_class``, ``macro`` and ``confusion`` of
        scores.json.
    """
    per_fold, parts = {}, {}
    for fold, rows in folds.items():
        counts = confusion_matrix([p.ref for p in rows], [p.hyp for p in rows], labels)
        part = fold if owner is None else owner[fold]
        parts[part] = parts.get(part, 0) + counts
        per_fold[fold] = {
            "wa": accuracy(counts),
            "ua": unweighted_accuracy(counts),
            "n": len(rows),
            "absent": absent(counts, labels),
        }
    wa, wa_sd = mean_sd([accuracy(counts) for counts in parts.values()])
    ua, ua_sd = mean_sd([unweighted_accuracy(counts) for counts in parts.values()])
    pooled = np.sum(list(parts.values()), axis=0)
    summary = {
        "n": int(pooled.sum()),
        "wa": wa,
        "wa_sd": wa_sd,
        "ua": ua,
        "ua_sd": ua_sd,
        "wa_pooled": accuracy(pooled),
        "ua_pooled": unweighted_accuracy(pooled),
    }
    return {"summary": summary, "per_fold": per_fold, **_by_class(pooled, labels)}


def _by_class(pooled: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """``per_class``, ``macro`` and ``confusion`` of scores.json from counts (C, C)."""
    rows = pooled.sum(axis=1, keepdims=True)  # (C, 1)
    by_class = {"precision": precisions(pooled), "recall": recalls(pooled), "f1": f1_scores(pooled)}
    normalised = [
        [int(n) / int(total) for n in row] if total else [None] * len(labels)
        for row, total in zip(pooled, rows[:, 0], strict=True)
    ]
    return {
        "per_class": {
            label: {"n": int(rows[i, 0]), **{name: of[i] for name, of in by_class.items()}}
            for i, label in enumerate(labels)
        },
        "macro": {
            "precision": macro_precision(pooled),
            "recall": unweighted_accuracy(pooled),
            "f1": mean_defined(by_class["f1"]),
        },
        "confusion": {"counts": pooled.tolist(), "row_normalised": normalised},
    }


def score_units(
    folds: Mapping[str, Sequence[Prediction]],
    references: Mapping[str, Sequence[str]],
    strip_tag: Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """Compute UER and PER over all folds together, with the counts they are based on.

    Args:
        folds: Predictions by fold.
        references: Reference units by utterance; empty for an utterance without words.
        strip_tag: Unit -> phoneme class, or None if the units are not phonemes (then PER is None).

    Returns:
        The entry ``units`` of scores.json. Its ``sample`` is the utterance of median error rate.
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
        "sample": _median_utterance(references, hyps, strip_tag or str),
    }


def _median_utterance(
    references: Mapping[str, Sequence[str]],
    hyps: Mapping[str, Sequence[str]],
    strip_tag: Callable[[str], str],
) -> dict[str, Any] | None:
    """The utterance of median error rate without tags, among those with words.

    Its ``pairs`` are a reference and a decoded unit each, aligned without tags; None is a gap.
    """
    bare = {
        utt_id: ([strip_tag(u) for u in references[utt_id]], [strip_tag(u) for u in hyp])
        for utt_id, hyp in hyps.items()
        if references[utt_id]
    }
    if not bare:
        return None
    rates = {u: unit_error_rate({u: ref}, {u: hyp}).rate for u, (ref, hyp) in bare.items()}
    utt_id = sorted(bare, key=lambda utt_id: (rates[utt_id], utt_id))[(len(bare) - 1) // 2]
    pairs = [
        [None if i is None else references[utt_id][i], None if j is None else hyps[utt_id][j]]
        for i, j in align(*bare[utt_id])
    ]
    return {"utt_id": utt_id, "rate": rates[utt_id], "pairs": pairs}


def score_experiment(
    exp_dir: Path | str, dump_dir: Path | str, data_dir: Path | str, ngpu: int = 0
) -> dict[str, Any]:
    """Score every inferred fold; write scores.json, scores.txt, errors.tsv and print the table.

    Args:
        exp_dir: exp/<corpus>/<tag>.
        dump_dir: dump/<corpus>.
        data_dir: data/<corpus>.
        ngpu: Above 0 if a GPU was used, to describe the hardware.

    Returns:
        The contents of scores.json.

    Raises:
        UserError: no fold to score, predictions that do not match their fold, utterances missing
            from a table, or no reference units for the decoded units.
    """
    experiment, data_dir = open_experiment(exp_dir, dump_dir), Path(data_dir)
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
    rows = [p for predictions in folds.values() for p in predictions]
    utts = [p.utt_id for p in rows]
    scores = _describe(experiment, data_dir, ngpu, scored if missing else [])
    shortages = _corpus_shortages(data_dir / "all", experiment.dump_dir)
    scores |= {"partial": bool(missing or shortages), "corpus_partial": shortages}
    scores["folds"] = {"expected": experiment.folds, "scored": scored, "missing": missing}
    own = read_utterance_table(experiment.dump_dir / "utt2orig", utts)
    scores = _score_decisions(scores, experiment, folds, data_dir, own)
    _add_training(scores, experiment)
    scores["units"] = None
    if all(experiment.units_head(fold) for fold in scored):
        references = read_reference_units(experiment.text, folds)
        scores["units"] = score_units(folds, references, tag_stripper(experiment.token_type))
        if sample := scores["units"]["sample"]:
            sample["utt_id"] = own[sample["utt_id"]]

    table = format_scores(scores)
    wavs = _audio_paths(data_dir / "all" / "wav.scp", experiment.dump_dir / "wav.scp", utts)
    write_errors(experiment.exp_dir / "errors.tsv", experiment.labels, rows, wavs, own)
    with atomic_write(experiment.exp_dir / "scores.txt") as stream:
        stream.write(table)
    Scores.model_validate(scores).write(experiment.exp_dir / "scores.json")
    print(table, end="")
    progress(f"score: {len(scored)} of {len(states)} folds; see {experiment.exp_dir}/scores.txt")
    return scores


def _score_decisions(
    scores: dict[str, Any],
    experiment: Experiment,
    folds: Mapping[str, Sequence[Prediction]],
    data_dir: Path,
    own: Mapping[str, str],
) -> dict[str, Any]:
    """Add everything about the decisions of ``folds`` to ``scores``."""
    rows = [p for predictions in folds.values() for p in predictions]
    utt2spk = read_utterance_table(experiment.dump_dir / "utt2spk", [p.utt_id for p in rows])
    slices = find_slices(experiment, folds, data_dir)
    scores["speakers"] = decisions_by_speaker(folds, utt2spk, experiment.labels, own)
    scores |= score_folds(folds, experiment.labels, owners(scores["speakers"], scores["protocol"]))
    scores["test_sha256"] = provenance.digest(
        f"{fold} {own[p.utt_id]} {utt2spk[p.utt_id]} {p.ref}"
        for fold, predictions in folds.items()
        for p in sorted(predictions, key=lambda p: own[p.utt_id])
    )
    scores = add_intervals(scores)
    scores["decisions"] = score_decisions(experiment, folds, utt2spk, scores["speakers"], own)
    scores["slices"] = score_slices(slices, rows, experiment.labels)
    scores["auxiliary"] = score_auxiliary(experiment, folds, utt2spk)
    if experiment.raters.is_file():
        raters = read_raters(experiment.raters, experiment.labels)
        scores["raters"] = score_raters(rows, raters, experiment.labels)
    temperatures = {fold: experiment.temperature(fold) for fold in folds}
    scores["calibration"] = calibration(rows, experiment.labels) | {
        "scaled": scaled(folds, experiment.labels, temperatures)
    }
    return scores


def _add_training(scores: dict[str, Any], experiment: Experiment) -> None:
    """Add cost and validation UA of the scored folds' trainings."""
    runs = {fold: read_fold_run(experiment.exp_dir / fold) for fold in scores["per_fold"]}
    for fold, values in scores["per_fold"].items():
        run = runs[fold]
        values |= {key: run.get(key) for key in ("epochs", "best_epoch", "train_seconds")}
        values["valid_ua"] = valid_ua(
            experiment.exp_dir / fold, experiment.labels, run.get("best_epoch")
        )
    seconds = [values["train_seconds"] for values in scores["per_fold"].values()]
    scores["train_seconds"] = sum(seconds) if all(seconds) else None
    scores["parameters"] = largest_parameters([run.get("parameters") for run in runs.values()])


def largest_parameters(folds: Sequence[Mapping[str, int] | None]) -> dict[str, int] | None:
    """Total and trained parameters of the folds' models, from ``parameters`` of run.json.

    A head may be larger in one fold than in another; the largest numbers are returned. None if a
    fold has no such entry, as with earlier versions.
    """
    known = [parameters for parameters in folds if parameters]
    if len(known) < len(folds):
        return None
    return {key: max(parameters[key] for parameters in known) for key in ("total", "trained")}


def decisions_by_speaker(
    folds: Mapping[str, Sequence[Prediction]],
    utt2spk: Mapping[str, str],
    labels: Sequence[str],
    own_ids: Mapping[str, str] | None = None,
) -> list[dict[str, str]]:
    """All decisions for scores.json: one entry for each fold and each speaker tested in it.

    ``ref`` and ``hyp`` are strings with one character per utterance, in the order of the corpus's
    own ids: the class as a digit, or as a letter from the eleventh class on.
    """
    if len(labels) > len(DIGITS):
        raise UserError(f"{len(labels)} emotions; at most {len(DIGITS)} can be recorded")
    digit = dict(zip(labels, DIGITS, strict=False))
    entries = []
    for fold, rows in folds.items():
        speakers: dict[str, list[Prediction]] = {}
        for p in sorted(rows, key=lambda p: (own_ids or {}).get(p.utt_id, p.utt_id)):
            speakers.setdefault(utt2spk[p.utt_id], []).append(p)
        for speaker in sorted(speakers):
            ref = "".join(digit[p.ref] for p in speakers[speaker])
            hyp = "".join(digit[p.hyp] for p in speakers[speaker])
            entries.append({"fold": fold, "speaker": speaker, "ref": ref, "hyp": hyp})
    return entries


def owners(speakers: Sequence[Mapping[str, str]], protocol: str) -> dict[str, str] | None:
    """The argument ``owner`` of ``score_folds``, from entries of ``decisions_by_speaker``."""
    if mean_over(protocol) == "folds":
        return None
    return {entry["fold"]: entry["speaker"] for entry in speakers}


def add_intervals(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Add 95% intervals to the ``summary`` of ``scores``, and their description, ``interval``."""
    trials = from_decisions([scores["speakers"]], len(scores["labels"]), scores["protocol"])
    summary = dict(scores["summary"])
    for name, bounds in score_intervals(trials).items():
        summary[f"{name}_ci"] = None if bounds is None else bounds[0].tolist()
    method = METHOD_KNOWN if trials.known else METHOD
    about = {"level": LEVEL, "method": method, "replicates": REPLICATES}
    about |= {"speakers": trials.speakers}
    return {**scores, "summary": summary, "interval": about}


def _audio_paths(original: Path, dumped: Path, utts: Sequence[str]) -> dict[str, str]:
    """Audio file of each utterance: the corpus's own, or else the one written by stage 3."""
    return read_utterance_table(original if original.is_file() else dumped, utts, stage=1)


def read_reference_units(
    path: Path, folds: Mapping[str, Sequence[Prediction]]
) -> dict[str, list[str]]:
    """Read the reference units of every predicted utterance; UserError if one is missing."""
    cure = "run stages 2 and 3 again with the --config (and its token_type) of this experiment"
    if not path.is_file():
        raise UserError(f"{path}: no such file, so the decoded units have no reference; {cure}")
    table = read_table(path, allow_empty=True)
    lacking = [p.utt_id for rows in folds.values() for p in rows if p.utt_id not in table]
    if lacking:
        raise UserError(f"{path}: {len(lacking)} utterances are not in it ({lacking[0]}); {cure}")
    return {utt_id: units.split() for utt_id, units in table.items()}


def _describe(
    experiment: Experiment, data_dir: Path, ngpu: int, folds: Sequence[str]
) -> dict[str, Any]:
    """Describe the experiment: the part of scores.json that does not depend on predictions."""
    run = experiment.run
    config = Path(str(run["config"]))
    system = experiment.exp_dir / "system.yaml"  # with its bases, as stage 4 wrote it
    data = (run.get("settings") or {}).get("data")
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
            "sha256": file_digest(system) if system.is_file() else None,
        },
        "settings_sha256": provenance.settings_digest(run.get("settings") or {}),
        "data_sha256": provenance.settings_digest(data) if data else None,
        "stated": run.get("stated"),
        "leaky": list(run.get("leaky") or []),
        "sweep": _public_sweep(run.get("sweep")),
        "command": provenance.run_command(
            run, read_marker(data_dir / "all"), data_dir, experiment.exp_dir.name, folds
        ),
        "commit": run.get("commit") or provenance.git_commit(),
        "scored_by": provenance.git_commit(),
        "date": provenance.now(),
        "versions": provenance.versions(),
        "hardware": run.get("hardware") or provenance.hardware(ngpu),
    }


def _public_sweep(sweep: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A run's sweep without this machine's paths."""
    if not sweep:
        return None
    return {**sweep, **{key: provenance.public_path(sweep[key]) for key in ("file", "config")}}


def _corpus_shortages(*directories: Path) -> list[str]:
    """What was missing from the corpus when it was read, from the ``partial`` files."""
    lines: dict[str, None] = {}  # the same line may be in both files
    for directory in directories:
        path = directory / "partial"
        if path.is_file():
            lines |= dict.fromkeys(path.read_text(encoding="utf-8").splitlines())
    return list(lines)
