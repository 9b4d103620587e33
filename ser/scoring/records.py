"""scores.json files: reading them with suspicion, and keeping them under version control.

``results/<corpus>/<tag>.json`` are copies of the scores.json of experiments, whose directories are
too large to keep. RESULTS.md is made from them alone, so a fresh clone can make it again.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ser.console import progress
from ser.errors import UserError
from ser.files import atomic_write
from ser.scoring.metrics import DIGITS
from ser.scoring.predictions import Prediction, some
from ser.scoring.score import SCHEMA, owners, score_folds

Run = tuple[Path, dict[str, Any]]  # where the figures lie or would lie, and the scores

CURE = "write it again: ./run.sh --stage 5 --stop-stage 5 with its --corpus, --config, --tag"
SCORE_FIRST = "score first: ./run.sh --stage 5 --stop-stage 5 with the same options"
TOLERANCE = 1e-9


class _Fraction:
    """A number from 0 to 1."""


_MAYBE_FRACTION = (_Fraction, None)
_BOUNDS = ([_Fraction], None)
_POOLED_TOO = dict.fromkeys(("wa", "ua", "wa_pooled", "ua_pooled"), _Fraction)
_DECISION = {**_POOLED_TOO, "hyp": [str], "weights": ({str: _Fraction}, None)}
_SLICE = {"n": int, "wa": _Fraction, "ua": _Fraction, "absent": [str]}
# A type, [of each item], {str: of each value}, {key: of its value}, (either, or); None is null.
LAYOUT: dict[str, Any] = {
    "system": str,
    "tag": str,
    "corpus": str,
    "protocol": str,
    "seed": int,
    "labels": [str],
    "token_type": str,
    "feats_type": str,
    "max_epoch": (int, None),
    "leaky": [str],
    "sweep": ({"name": str, "about": str, "point": str, "number": int, "points": int}, None),
    "ssl": (str, None),
    "config": {"path": str, "sha256": (str, None)},
    "settings_sha256": str,
    "data_sha256": (str, None),
    "test_sha256": str,
    "stated": (dict, None),
    "command": str,
    "commit": str,
    "scored_by": str,
    "date": str,
    "versions": {str: str},
    "hardware": str,
    "partial": bool,
    "corpus_partial": [str],
    "folds": {"expected": [str], "scored": [str], "missing": {str: str}},
    "summary": {
        "n": int,
        **_POOLED_TOO,
        **dict.fromkeys(("wa_sd", "ua_sd"), _MAYBE_FRACTION),
        **dict.fromkeys(("wa_ci", "ua_ci", "wa_pooled_ci", "ua_pooled_ci"), _BOUNDS),
    },
    "per_fold": {
        str: {
            "n": int,
            "wa": _Fraction,
            "ua": _Fraction,
            "absent": [str],
            "epochs": (int, None),
            "best_epoch": (int, None),
            "train_seconds": (float, None),
            "valid_ua": _MAYBE_FRACTION,
        }
    },
    "per_class": {str: {"n": int, "recall": _MAYBE_FRACTION}},
    "parameters": ({"total": int, "trained": int}, None),
    "confusion": {"counts": [[int]], "row_normalised": [[_MAYBE_FRACTION]]},
    "speakers": [{"fold": str, "speaker": str, "ref": str, "hyp": str}],
    "decisions": ({str: _DECISION}, None),
    "interval": {"level": float, "method": str, "replicates": int, "speakers": int},
    "slices": {str: {str: _SLICE}},
    "calibration": {
        "ece": _Fraction,
        "confidence": _Fraction,
        "accuracy": _Fraction,
        "bins": [
            {
                "low": _Fraction,
                "high": _Fraction,
                "n": int,
                "confidence": _MAYBE_FRACTION,
                "accuracy": _MAYBE_FRACTION,
            }
        ],
    },
    "train_seconds": (float, None),
    "units": (dict, None),
}


def read_all_scores(
    exp_root: Path, needed: bool = True, asked_for: Path | None = None
) -> list[Run]:
    """Every <corpus>/<tag>/scores.json below ``exp_root``, in the order of their paths.

    Where one experiment is ``asked_for``, those of others that cannot be read are named and left
    out.

    Raises:
        UserError: a file that ``read_scores`` refuses, or none although one is ``needed``.
    """
    files = sorted(exp_root.glob("*/*/scores.json"))
    if needed and not files:
        raise UserError(f"{exp_root}: no <corpus>/<tag>/scores.json in it; {SCORE_FIRST}")
    runs = []
    for path in files:
        try:
            runs.append((path.parent, read_scores(path)))
        except UserError as err:
            if asked_for is None or path.parent == asked_for:
                raise
            print(f"warning: left out of the table: {err}", flush=True)
    return runs


def read_all_records(records: Path) -> list[Run]:
    """Every <corpus>/<tag>.json below ``records``, in the order of their paths."""
    return [(path.with_suffix(""), read_scores(path)) for path in sorted(records.glob("*/*.json"))]


def keep_records(runs: list[Run], records: Path) -> list[Path]:
    """Write the scores of ``runs`` as records; those that are there already stay unless rewritten.

    The figure of a sweep, which stage 6 left beside its experiments, is kept with them.

    Returns:
        The records whose contents changed.
    """
    changed = []
    for directory, scores in runs:
        if scores["sweep"]:
            _keep_figure(directory.parent / sweep_figure(scores), records / scores["corpus"])
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
    """The name of the figure of the sweep that an experiment is a point of."""
    return f"{scores['sweep']['name']}_{scores['protocol']}.png"


def _keep_figure(figure: Path, directory: Path) -> None:
    if not figure.is_file():
        return
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_write(directory / figure.name, "wb") as stream:
        stream.write(figure.read_bytes())


def read_scores(path: Path) -> dict[str, Any]:
    """A scores.json or a record of one.

    Those of earlier versions lack precision and F1, which follow from the decisions, and what was
    not noted: ``parameters``, ``sweep`` and the folds' ``valid_ua`` are null, ``auxiliary`` empty.

    Raises:
        UserError: it is damaged, of another schema, holds a value of the wrong type, or a number
            that does not follow from the decisions in it.
    """
    try:
        scores = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except ValueError as err:
        raise UserError(f"{path}: not JSON ({err}); {CURE}") from None
    found = scores.get("schema") if isinstance(scores, dict) else None
    if found != SCHEMA or isinstance(found, bool):
        raise UserError(f"{path}: schema {found}, this version reads {SCHEMA}; {CURE}")
    scores = {"parameters": None, "auxiliary": {}, "sweep": None} | scores
    if isinstance(scores.get("per_fold"), dict):
        for fold in scores["per_fold"].values():
            if isinstance(fold, dict):
                fold.setdefault("valid_ua", None)
    problems = _wrong_types(scores, LAYOUT, "") or _wrong_decisions(scores)
    if not problems:
        expected = _recomputed(scores)
        if "macro" not in scores:
            _add_precision(scores, expected)
        problems = _differing(scores, expected, "")
    if problems:
        raise UserError(f"{path}: {some(problems)}; it was not written by stage 5; {CURE}")
    return scores


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _wrong_types(value: Any, layout: Any, where: str) -> list[str]:
    """What in ``value`` is not as ``layout`` says, each with its place such as summary.wa."""
    if isinstance(layout, tuple):
        if value is None:
            return []
        return _wrong_types(value, layout[0], where)
    if isinstance(layout, list):
        if not isinstance(value, list):
            return [f"{where}: expected a list, found {_shown(value)}"]
        items = enumerate(value)
        return [w for i, v in items for w in _wrong_types(v, layout[0], f"{where}[{i}]")]
    if isinstance(layout, dict):
        if not isinstance(value, dict):
            return [f"{where}: expected names with values, found {_shown(value)}"]
        dot = f"{where}." if where else ""
        if str in layout:
            return [w for k, v in value.items() for w in _wrong_types(v, layout[str], dot + k)]
        lacking = [f"{dot}{key} not found in it" for key in layout if key not in value]
        present = (key for key in layout if key in value)
        return lacking + [w for k in present for w in _wrong_types(value[k], layout[k], dot + k)]
    return [] if _is(value, layout) else [f"{where}: {_expected(layout)}, found {_shown(value)}"]


def _is(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is _Fraction:
        return isinstance(value, int | float) and 0 <= value <= 1
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, kind)


def _expected(kind: type) -> str:
    names = {_Fraction: "a number from 0 to 1", str: "text", int: "a whole number"}
    return f"expected {names.get(kind, {float: 'a number', bool: 'true or false'}.get(kind))}"


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:40]


def _wrong_decisions(scores: Mapping[str, Any]) -> list[str]:
    """Entries of ``speakers`` that cannot be decisions over the labels, and folds without one."""
    known, problems = set(DIGITS[: len(scores["labels"])]), []
    for i, entry in enumerate(scores["speakers"]):
        where = f"speakers[{i}] ({entry['fold']}, {entry['speaker']})"
        odd = sorted(set(entry["ref"] + entry["hyp"]) - known)
        if odd:
            problems.append(f"{where}: {odd[0]!r} is none of the {len(known)} classes")
        elif len(entry["ref"]) != len(entry["hyp"]) or not entry["ref"]:
            counts = f"{len(entry['ref'])} references, {len(entry['hyp'])} decisions"
            problems.append(f"{where}: {counts}")
    for name, decision in (scores["decisions"] or {}).items():
        lengths = [len(hyp) for hyp in decision["hyp"]]
        if lengths != [len(entry["ref"]) for entry in scores["speakers"]]:
            problems.append(f"decisions.{name}.hyp: other utterances than those of speakers")
    have, scored = {e["fold"] for e in scores["speakers"]}, scores["folds"]["scored"]
    if have != set(scored):
        problems.append(f"speakers: folds {sorted(have)}, but scored are {scored}")
    return problems


def _recomputed(scores: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the decisions, which an edit by hand would contradict."""
    labels = scores["labels"]
    folds: dict[str, list[Prediction]] = defaultdict(list)
    for entry in scores["speakers"]:
        for ref, hyp in zip(entry["ref"], entry["hyp"], strict=True):
            names = labels[DIGITS.index(ref)], labels[DIGITS.index(hyp)]
            folds[entry["fold"]].append(Prediction("", *names, ()))
    owner = owners(scores["speakers"], scores["protocol"])
    return score_folds({fold: folds[fold] for fold in scores["folds"]["scored"]}, labels, owner)


def _add_precision(scores: dict[str, Any], expected: Mapping[str, Any]) -> None:
    scores["macro"] = expected["macro"]
    for label, found in scores["per_class"].items():
        scores["per_class"][label] = expected["per_class"].get(label, {}) | found


def _differing(found: Any, expected: Any, where: str) -> list[str]:
    """Places where ``found`` lacks or contradicts what is in ``expected``."""
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
