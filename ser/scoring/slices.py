"""Scores of parts of the test set: by gender, style, duration, session, and known text.

Every slice is scored on all its held-out utterances together (pooled), since a fold seldom has
enough of each. Slices are grouped by kind: ``style``, ``text``, ``gender``, ``duration`` and
``session``.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser.data.audio import SAMPLE_RATE
from ser.data.tables import UNKNOWN_GENDER, read_lines, read_table
from ser.errors import UserError, some
from ser.scoring.metrics import absent, accuracy, confusion_matrix, unweighted_accuracy
from ser.scoring.predictions import Prediction
from ser.training.experiment import Experiment

# IEMOCAP's dialogs are Ses01F_impro01 or Ses01F_script01_1; other corpora have no such part.
STYLES = {"impro": "improvised", "script": "scripted"}
_STYLE = re.compile(rf"_({'|'.join(STYLES)})\d")
GENDERS = {"f": "women", "m": "men", UNKNOWN_GENDER: "unknown"}
TEXTS = SEEN, UNSEEN, WORDLESS = ("also in training", "not in training", "no words")

Slices = dict[str, dict[str, list[str]]]  # kind -> value -> utterances


def find_slices(
    experiment: Experiment, folds: Mapping[str, Sequence[Prediction]], data_dir: Path
) -> Slices:
    """Find the predicted utterances of every slice; kinds and values in display order.

    A kind that does not apply to the corpus is left out: ``style`` if ids do not encode it,
    ``text`` if stage 2 wrote no ``lang/text.words`` below ``data_dir``, or no words in it.

    Raises:
        UserError: an utterance is missing from a table of the dump or the transcripts.
    """
    utts = [p.utt_id for rows in folds.values() for p in rows]
    genders, num_samples, sessions = (
        read_utterance_table(experiment.dump_dir / name, utts)
        for name in ("utt2gender", "utt2num_samples", "utt2session")
    )
    known = set(genders.values()) != {UNKNOWN_GENDER}  # of at least one speaker
    slices = {
        "style": _group(utts, _styles(utts), tuple(STYLES.values())),
        "text": _group(utts, _texts(experiment, folds, data_dir / "lang" / "text.words"), TEXTS),
        "gender": _group(utts, {u: GENDERS.get(g, g) for u, g in genders.items() if known}),
        "duration": _group(utts, *_durations(num_samples)),
        "session": _group(utts, sessions),
    }
    return {kind: groups for kind, groups in slices.items() if groups}


def score_slices(
    slices: Slices, predictions: Sequence[Prediction], labels: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """``n``, ``wa``, ``ua`` (fractions) and ``absent`` emotions by kind and value."""
    rows = {p.utt_id: p for p in predictions}
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, groups in slices.items():
        scores[kind] = {}
        for value, utts in groups.items():
            part = [rows[u] for u in utts]
            counts = confusion_matrix([p.ref for p in part], [p.hyp for p in part], labels)
            scores[kind][value] = {
                "n": len(part),
                "wa": accuracy(counts),
                "ua": unweighted_accuracy(counts),
                "absent": absent(counts, labels),
            }
    return scores


def read_utterance_table(
    path: Path, utts: Sequence[str], stage: int = 3, allow_empty: bool = False
) -> dict[str, str]:
    """Read a table that must hold all of ``utts``; UserError names missing ones."""
    cure = f"make it again: ./run.sh --stage {stage} --stop-stage {stage} with the same options"
    if not path.is_file():
        raise UserError(f"{path}: no such file; {cure}")
    table = read_table(path, allow_empty)
    lacking = [u for u in utts if u not in table]
    if lacking:
        raise UserError(
            f"{path}: {len(lacking)} scored utterances are not in it: {some(lacking)}; {cure}"
        )
    return table


def _group(
    utts: Sequence[str], of: Mapping[str, str], order: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Group utterances by value, in ``order`` or else sorted; empty groups are left out."""
    groups: dict[str, list[str]] = {v: [] for v in order or sorted(set(of.values()))}
    for utt in utts if of else ():
        groups[of[utt]].append(utt)
    return {value: group for value, group in groups.items() if group}


def _styles(utts: Sequence[str]) -> dict[str, str]:
    found = {u: STYLES[match[1]] for u in utts if (match := _STYLE.search(u))}
    return found if len(found) == len(utts) else {}


def _texts(
    experiment: Experiment, folds: Mapping[str, Sequence[Prediction]], path: Path
) -> dict[str, str]:
    """Whether an utterance's words (as stage 2 wrote them) also occur in its fold's training."""
    if not path.is_file():
        return {}
    trained = {fold: read_lines(experiment.training_list(fold)) for fold in folds}
    tested = {fold: [p.utt_id for p in rows] for fold, rows in folds.items()}
    needed = {u for lists in (trained, tested) for utts in lists.values() for u in utts}
    words = read_utterance_table(path, sorted(needed), stage=2, allow_empty=True)
    if not any(words.values()):  # a corpus without transcripts
        return {}
    of = {}
    for fold, utts in tested.items():
        seen = {words[u] for u in trained[fold]}
        for u in utts:
            of[u] = WORDLESS if not words[u] else SEEN if words[u] in seen else UNSEEN
    return of


def _durations(num_samples: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Split the corpus into thirds by duration, independently of which folds are scored."""
    seconds = {u: int(n) / SAMPLE_RATE for u, n in num_samples.items()}
    low, high = (round(float(q), 1) for q in np.quantile(list(seconds.values()), [1 / 3, 2 / 3]))
    names = (f"up to {low} s", f"{low} to {high} s", f"over {high} s")
    return {u: names[(s > low) + (s > high)] for u, s in seconds.items()}, names
