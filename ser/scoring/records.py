"""scores.json files: read and verify them, and keep them under version control.

``results/<corpus>/<tag>.json`` are copies of the scores.json of experiments, whose directories are
too large to keep. RESULTS.md is made from them alone, so a fresh clone can reproduce it.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ser.console import progress
from ser.errors import UserError, some
from ser.files import atomic_write, write_once
from ser.scoring.metrics import DIGITS
from ser.scoring.predictions import Prediction
from ser.scoring.score import owners, score_folds
from ser.scoring.scores import CURE, Scores
from ser.scoring.uncertainty import layout

Run = tuple[Path, dict[str, Any]]  # the folder of the figures, and the scores

CROSSCORPUS, ROBUSTNESS = "crosscorpus.json", "robustness.json"  # in an experiment or its record
SCORE_FIRST = "score first: ./run.sh --stage 5 --stop-stage 5 with the same options"
TOLERANCE = 1e-9


def read_all_scores(
    exp_root: Path, needed: bool = True, asked_for: Collection[Path] | None = None
) -> list[Run]:
    """Read every <corpus>/<tag>/scores.json below ``exp_root``, in the order of their paths.

    If some experiments are ``asked_for``, unreadable scores of others are named and left out.

    Raises:
        UserError: a file that ``read_scores`` rejects, or no file although one is ``needed``.
    """
    files = sorted(exp_root.glob("*/*/scores.json"))
    if needed and not files:
        raise UserError(f"{exp_root}: no <corpus>/<tag>/scores.json in it; {SCORE_FIRST}")
    runs = []
    for path in files:
        try:
            runs.append((path.parent, read_scores(path)))
        except UserError as err:
            if asked_for is None or path.parent in asked_for:
                raise
            print(f"warning: left out of the table: {err}", flush=True)
    return runs


def read_all_records(records: Path) -> list[Run]:
    """Read every <corpus>/<tag>.json below ``records``, in the order of their paths."""
    return [(path.with_suffix(""), read_scores(path)) for path in sorted(records.glob("*/*.json"))]


def keep_records(runs: list[Run], records: Path) -> list[Path]:
    """Write the scores of ``runs`` as records; other existing records are kept.

    The figure of a sweep, which stage 6 writes next to its experiments, is kept with them, and so
    are tests on other corpora and degraded recordings.

    Returns:
        The records whose contents changed.
    """
    changed = []
    for directory, scores in runs:
        if scores["sweep"]:
            _keep_file(directory.parent / sweep_figure(scores), records / scores["corpus"])
        for name in (CROSSCORPUS, ROBUSTNESS):
            _keep_file(directory / name, records / scores["corpus"] / scores["tag"])
        path = records / scores["corpus"] / f"{scores['tag']}.json"
        text = (directory / "scores.json").read_text(encoding="utf-8")
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as stream:
            stream.write(text)
        changed.append(path)
    progress(f"report: {len(changed)} of {len(runs)} experiments are new in {records}/")
    return changed


def sweep_figure(scores: Mapping[str, Any]) -> str:
    """File name of the figure of an experiment's sweep."""
    return f"{scores['sweep']['name']}_{scores['protocol']}.png"


def _keep_file(file: Path, directory: Path) -> None:
    if file.is_file():
        write_once(directory / file.name, file.read_bytes())


def read_scores(path: Path) -> dict[str, Any]:
    """Read a scores.json or a record of one.

    Those of earlier versions lack precision and F1, which are recomputed from the decisions, and
    what was not recorded: ``parameters``, ``sweep`` and the folds' ``valid_ua`` are null,
    ``auxiliary`` is empty.

    Raises:
        UserError: no such file, or it is damaged, has another schema, a value of the wrong type,
            or a number that contradicts its decisions.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {SCORE_FIRST}")
    scores = Scores.read(path)
    found, problems = scores.plain(), _wrong_decisions(scores)
    if not problems:
        expected = _recomputed(scores)
        if scores.macro is None:
            _add_precision(found, expected)
        problems = _differing(found, expected, "")
    if problems:
        raise UserError(f"{path}: {some(problems)}; it was not written by stage 5; {CURE}")
    return found


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:40]


def _wrong_decisions(scores: Scores) -> list[str]:
    """Describe entries of ``speakers`` that are not decisions over the labels, and wrong folds."""
    known, problems = set(DIGITS[: len(scores.labels)]), []
    for i, entry in enumerate(scores.speakers):
        where = f"speakers[{i}] ({entry.fold}, {entry.speaker})"
        odd = sorted(set(entry.ref + entry.hyp) - known)
        if odd:
            problems.append(f"{where}: {odd[0]!r} is none of the {len(known)} classes")
        elif len(entry.ref) != len(entry.hyp) or not entry.ref:
            counts = f"{len(entry.ref)} references, {len(entry.hyp)} decisions"
            problems.append(f"{where}: {counts}")
    lengths = [len(entry.ref) for entry in scores.speakers]
    for name, decision in (scores.decisions or {}).items():
        if [len(hyp) for hyp in decision.hyp] != lengths:
            problems.append(f"decisions.{name}.hyp: other utterances than those of speakers")
    have, scored = {entry.fold for entry in scores.speakers}, scores.folds.scored
    if have != set(scored):
        problems.append(f"speakers: folds {sorted(have)}, but scored are {scored}")
    return problems


def _recomputed(scores: Scores) -> dict[str, Any]:
    """Recompute what follows from the decisions, to detect edits by hand."""
    folds: dict[str, list[Prediction]] = defaultdict(list)
    for entry in scores.speakers:
        for digits in zip(entry.ref, entry.hyp, strict=True):
            names = (scores.labels[DIGITS.index(digit)] for digit in digits)
            folds[entry.fold].append(Prediction("", *names, ()))
    owner = owners([entry.model_dump() for entry in scores.speakers], scores.protocol)
    return score_folds({fold: folds[fold] for fold in scores.folds.scored}, scores.labels, owner)


def _add_precision(scores: dict[str, Any], expected: Mapping[str, Any]) -> None:
    scores["macro"] = expected["macro"]
    for label, found in scores["per_class"].items():
        of = expected["per_class"].get(label, {})
        found |= {key: of.get(key) for key in ("precision", "f1")}


def _differing(found: Any, expected: Any, where: str) -> list[str]:
    """Describe where ``found`` lacks or contradicts what is in ``expected``."""
    if isinstance(expected, dict):
        dot = f"{where}." if where else ""
        lacking = [f"{dot}{key} not found in it" for key in expected if key not in found]
        present = [key for key in expected if key in found]
        return lacking + [w for k in present for w in _differing(found[k], expected[k], dot + k)]
    if isinstance(expected, float) and isinstance(found, int | float):
        equal = abs(found - expected) <= TOLERANCE
    elif isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected, strict=True))
        return [w for i, (f, e) in pairs for w in _differing(f, e, f"{where}[{i}]")]
    else:
        equal = found == expected
    if equal:
        return []
    return [f"{where} is {_shown(found)}, the decisions give {_shown(expected)}"]


def same_tests(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two scores.json cover the same utterances in the same folds."""
    if first["test_sha256"] != second["test_sha256"] or first["labels"] != second["labels"]:
        return False
    return layout(first["speakers"]) == layout(second["speakers"])
