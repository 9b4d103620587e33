"""Scores of the CTC head's decisions, alone and fused with the emotion head.

decisions.py defines them; here each is scored like the emotion head's own, on the same utterances,
and compared with it. ``valid_ua`` is that of the emotion head on validation speakers.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser.scoring.decisions import FILE_NAME, decide, read_evidence
from ser.scoring.metrics import DIGITS, confusion_matrix, unweighted_accuracy
from ser.scoring.predictions import Prediction
from ser.scoring.uncertainty import Difference, Trials, differences, from_decisions, measure, paired
from ser.training.experiment import Experiment, history_so_far

# The emotion head's own decision is not listed: it is in predictions.tsv.
NAMES = {
    "mass": "unit tags, mass",
    "transcript": "unit tags, transcript",
    "head+mass": "emotion head + mass",
    "head+transcript": "emotion head + transcript",
}


def score_decisions(
    experiment: Experiment,
    folds: Mapping[str, Sequence[Prediction]],
    utt2spk: Mapping[str, str],
    speakers: Sequence[Mapping[str, str]],
    own_ids: Mapping[str, str],
) -> dict[str, dict[str, Any]] | None:
    """Compute ``wa``, ``ua``, pooled scores, ``hyp`` and ``weights`` of each decision, by name.

    Args:
        experiment: The experiment, with decisions.jsonl in its folds.
        folds: The emotion head's predictions by fold.
        utt2spk: The speaker of each utterance.
        speakers: As in scores.json. ``hyp`` is parallel to it and in the same format.
        own_ids: utt2orig, which defines the order.

    Returns:
        None unless every fold has such decisions. ``weights`` is by fold, None without fusion.

    Raises:
        UserError: decisions.jsonl does not match these utterances and emotions.
    """
    if not all((experiment.exp_dir / fold / FILE_NAME).is_file() for fold in folds):
        return None
    found, weights = {}, {}
    for fold in folds:
        path = experiment.exp_dir / fold / FILE_NAME
        references = experiment.references(fold)
        found[fold], weights[fold] = decide(read_evidence(path, experiment.labels, references))
    scores = {}
    for name in NAMES:
        if not all(name in decisions for decisions in found.values()):
            continue
        strings: dict[tuple[str, str], str] = {}
        for fold, rows in folds.items():
            for utt in sorted((p.utt_id for p in rows), key=own_ids.__getitem__):
                key = (fold, utt2spk[utt])
                strings[key] = strings.get(key, "") + DIGITS[found[fold][name][utt]]
        hyp = [strings[entry["fold"], entry["speaker"]] for entry in speakers]
        protocol = str(experiment.run["protocol"])
        values = measure(_trials([speakers], [hyp], len(experiment.labels), protocol))
        scores[name] = {
            **{n: values[n].item() for n in ("wa", "ua", "wa_pooled", "ua_pooled")},
            "hyp": hyp,
            "weights": {f: weights[f][name] for f in folds} if "+" in name else None,
        }
    return scores


def against_own(runs: Sequence[Mapping[str, Any]], name: str) -> dict[str, Difference]:
    """``wa`` and ``ua`` of a decision minus those of the emotion head, over the seeds in ``runs``.

    ``runs`` are the contents of scores.json for the same test set.
    """
    classes, protocol = len(runs[0]["labels"]), runs[0]["protocol"]
    own = from_decisions([run["speakers"] for run in runs], classes, protocol)
    hyps = [run["decisions"][name]["hyp"] for run in runs]
    other = _trials([run["speakers"] for run in runs], hyps, classes, protocol)
    both = paired(own, other)
    found = differences(both)
    return {score: found[score] for score in ("wa", "ua")}


def _trials(
    speakers: Sequence[Sequence[Mapping[str, str]]],
    hyps: Sequence[Sequence[str]],
    classes: int,
    protocol: str,
) -> Trials:
    """Trials with ``hyps`` (strings per seed) in place of the speakers' own."""
    runs = [
        [{**entry, "hyp": hyp} for entry, hyp in zip(run, strings, strict=True)]
        for run, strings in zip(speakers, hyps, strict=True)
    ]
    return from_decisions(runs, classes, protocol)


def valid_ua(fold_dir: Path, labels: Sequence[str], best_epoch: int | None) -> float | None:
    """UA on the validation utterances of a fold, as a fraction, which choices may depend on.

    Computed from the tested model's own decisions if stage 5 recorded them (decisions.py), else
    taken from the chosen epoch in history.json; None without validation speakers.
    """
    evidence = fold_dir / FILE_NAME
    if not evidence.is_file():
        history = history_so_far(fold_dir)
        epochs = {entry["epoch"]: entry.get("valid", {}).get("UA") for entry in history}
        return epochs.get(best_epoch)
    rows = [json.loads(line) for line in evidence.read_text(encoding="utf-8").splitlines()[1:]]
    rows = [row for row in rows if row["split"] == "valid"]
    hyps = [labels[int(np.argmax(row["head"]))] for row in rows]
    counts = confusion_matrix([row["ref"] for row in rows], hyps, labels)
    return unweighted_accuracy(counts) if rows else None
