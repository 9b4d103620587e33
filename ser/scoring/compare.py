"""Compare two systems on the same test utterances: differences, intervals, p-values.

Differences, their intervals and p-values come from the paired bootstrap over speakers, McNemar's
exact test from the pooled decisions; see scoring/uncertainty.py for both and their assumptions. A
system may have been trained with several seeds. A speaker-dependent system (kfold) is compared only
with another such system: speakers that are unseen by one system and known to the other would make a
difference between protocols look like one between systems.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ser.console import percent
from ser.data.folds import SPEAKER_DEPENDENT, caveat, mean_over
from ser.errors import UserError, some
from ser.files import atomic_write
from ser.scoring.predictions import FILE_NAME, Prediction, read_predictions
from ser.scoring.records import read_scores, same_tests
from ser.scoring.slices import read_utterance_table
from ser.scoring.text import (
    KNOWN_SPEAKERS,
    columns,
    difference,
    differing,
    mark,
    p_value,
    paired_over,
    partial_notes,
)
from ser.scoring.uncertainty import (
    LEVEL,
    REPLICATES,
    Difference,
    Trials,
    differences,
    mcnemar,
    measure,
    numbers,
)
from ser.training.experiment import open_experiment

SCORES = {
    "wa": "WA, mean of {}",
    "ua": "UA, mean of {}",
    "wa_pooled": "WA, pooled",
    "ua_pooled": "UA, pooled",
}


@dataclass(frozen=True)
class Scored:
    """A run (one seed) and its decisions."""

    exp_dir: Path
    scores: dict[str, Any]
    fold: dict[str, str]  # utterance -> the fold it was tested in
    decided: dict[str, Prediction]  # by utterance


@dataclass(frozen=True)
class System:
    """Runs that differ only in the seed."""

    runs: list[Scored]

    @property
    def name(self) -> str:
        """The tag, without the seed if there are several."""
        scores = self.runs[0].scores
        return scores["tag"] if len(self.runs) == 1 else _stem(scores)

    @property
    def seeds(self) -> list[int]:
        """The seeds, in the order of the runs."""
        return [run.scores["seed"] for run in self.runs]


def compare(
    exp_dirs: Sequence[Path | str],
    dump_dir: Path | str | None = None,
    out_dir: Path | str | None = None,
) -> dict[str, Any]:
    """Compare two systems, print the table, and write compare.json and compare.txt.

    Args:
        exp_dirs: exp/<corpus>/<tag> of the first and the second system. If there are more than
            two, those that differ only in the seed are grouped, which must give two systems.
            Or records, results/<corpus>/<tag>.json, of all of them.
        dump_dir: dump/<corpus>; not needed for records.
        out_dir: Where to write; if None, exp/<corpus>/compare/<first>_vs_<second>, or nowhere for
            records.

    Returns:
        The contents of compare.json; scores are fractions, differences second minus first.

    Raises:
        UserError: an experiment that is not scored, not two systems, or, naming the difference,
            systems that were not tested on the same utterances with the same emotions, or only
            one of which was trained on the test speakers.
    """
    exp_dirs = [Path(directory) for directory in exp_dirs]
    of_records = _are_records(exp_dirs, dump_dir)
    scores = [read_scores(_scores_file(directory)) for directory in exp_dirs]
    _refuse_unlike(exp_dirs, scores)
    if of_records:
        _refuse_other_records(exp_dirs, scores)
        runs = [load_record(d, s) for d, s in zip(exp_dirs, scores, strict=True)]
        utt2spk = speakers_of(runs[0])
    else:
        runs = [load(d, s, Path(dump_dir)) for d, s in zip(exp_dirs, scores, strict=True)]
        _refuse_other_tests(runs)
        utt2spk = read_utterance_table(Path(dump_dir) / "utt2spk", sorted(runs[0].decided))
    first, second = group_systems(runs)
    result = compare_systems(first, second, utt2spk)
    table = format_comparison(result)
    if out_dir is None and of_records:
        print(table, end="")
        return result
    if out_dir is None:
        out_dir = exp_dirs[0].parent / "compare" / f"{first.name}_vs_{second.name}"
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    with atomic_write(out_dir / "compare.txt") as stream:
        stream.write(table)
    with atomic_write(out_dir / "compare.json") as stream:
        json.dump(result, stream, indent=1, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
    print(table, end="")
    print(f"\nComparison: {out_dir}/compare.json")
    return result


def load(exp_dir: Path, scores: dict[str, Any], dump_dir: Path) -> Scored:
    """Load the predictions of the scored folds, checked against the corpus."""
    experiment = open_experiment(exp_dir, dump_dir)
    fold, decided = {}, {}
    for name in experiment.require_folds(scores["folds"]["scored"]):
        path = exp_dir / name / FILE_NAME
        for p in read_predictions(path, experiment.labels, experiment.references(name)):
            fold[p.utt_id], decided[p.utt_id] = name, p
    return Scored(exp_dir, scores, fold, decided)


def load_record(path: Path, scores: dict[str, Any]) -> Scored:
    """Load the decisions in a record; utterances are named by speaker and number within it."""
    labels, count = scores["labels"], Counter()
    fold, decided = {}, {}
    for entry in scores["speakers"]:
        for ref, hyp in zip(entry["ref"], entry["hyp"], strict=True):
            count[entry["speaker"]] += 1
            utt = f"{entry['speaker']} {count[entry['speaker']]}"
            fold[utt] = entry["fold"]
            decided[utt] = Prediction(utt, labels[int(ref, 36)], labels[int(hyp, 36)], ())
    return Scored(path, scores, fold, decided)


def speakers_of(record: Scored) -> dict[str, str]:
    """The speaker of each utterance of ``load_record``."""
    return {utt: utt.rpartition(" ")[0] for utt in record.decided}


def group_systems(runs: Sequence[Scored]) -> tuple[System, System]:
    """Group ``runs`` into two systems, in the order of their first run."""
    if len(runs) == 2:
        return System([runs[0]]), System([runs[1]])
    groups: dict[tuple, list[Scored]] = {}
    for run in runs:
        s = run.scores
        groups.setdefault((_stem(s), s["protocol"], s["settings_sha256"]), []).append(run)
    if len(groups) != 2:
        found = "; ".join(" ".join(run.exp_dir.name for run in group) for group in groups.values())
        raise UserError(
            f"--exp-dir: {len(runs)} experiments of {len(groups)} systems ({found}); a comparison "
            "is of two: give one experiment of each, or those that differ in the seed only"
        )
    first, second = (
        System(sorted(group, key=lambda run: run.scores["seed"])) for group in groups.values()
    )
    return first, second


def compare_systems(
    first: System, second: System, utt2spk: Mapping[str, str], replicates: int = REPLICATES
) -> dict[str, Any]:
    """The contents of compare.json."""
    scores = first.runs[0].scores
    labels, utts = scores["labels"], sorted(first.runs[0].decided)
    right = [_right(system, utts) for system in (first, second)]  # (seeds, N) each
    trials = Trials(
        speaker=numbers([utt2spk[u] for u in utts]),
        label=np.array([labels.index(first.runs[0].decided[u].ref) for u in utts]),
        fold=np.stack(
            [numbers([_parts(s, utt2spk)[u] for u in utts]) for s in (first, second)], axis=1
        ),
        right=np.stack([r.mean(axis=0) for r in right], axis=1),
        classes=len(labels),
        known=bool(caveat(scores["protocol"])),
    )
    found, deltas = measure(trials), differences(trials, replicates)
    recalls = found["recall"][0]  # (2, C)
    return {
        "schema": 1,
        "corpus": scores["corpus"],
        "labels": labels,
        "utterances": len(utts),
        "speakers": trials.speakers,
        "level": LEVEL,
        "replicates": replicates,
        "paired": paired_over([scores]),
        "notes": [note for system in (first, second) for note in _notes(system)],
        "systems": [
            {
                "name": system.name,
                "tags": [run.scores["tag"] for run in system.runs],
                "seeds": system.seeds,
                "protocol": system.runs[0].scores["protocol"],
                "differing": differing(system.runs[0].scores),
                "commands": [run.scores["command"] for run in system.runs],
                "commits": [run.scores["commit"] for run in system.runs],
            }
            for system in (first, second)
        ],
        "scores": {name: _entry(found[name][0], deltas[name]) for name in SCORES},
        "recall": {
            label: None if change is None else _entry(recalls[:, c], change)
            for c, (label, change) in enumerate(zip(labels, deltas["recall"], strict=True))
        },
        "mcnemar": _mcnemars(first, second, right),
    }


def _parts(system: System, utt2spk: Mapping[str, str]) -> Mapping[str, str]:
    """The unit that WA and UA of a system are averaged over: each utterance's fold, or speaker."""
    run = system.runs[0]
    return run.fold if mean_over(run.scores["protocol"]) == "folds" else utt2spk


def format_comparison(result: Mapping[str, Any]) -> str:
    """Format a readable table, in percent and percentage points."""
    first, second = result["systems"]
    lines = [
        f"{result['corpus']}: {result['utterances']} utterances of {result['speakers']} speakers, "
        f"emotions {', '.join(result['labels'])}"
    ]
    for letter, system in (("A", first), ("B", second)):
        seeds = ", ".join(map(str, system["seeds"]))
        changed = f", {system['differing']}" if system["differing"] else ""
        lines.append(
            f"{letter}: {system['name']} (protocol {system['protocol']}, seed {seeds}{changed})"
        )
    lines += [*result["notes"], ""]
    rows = [["%", "A", "B", "B - A", "95%", "p"]]
    # a fold of strict and a speaker of crossed are the same utterances
    crossed = any(mean_over(s["protocol"]) == "speakers" for s in result["systems"])
    over = "speakers" if crossed else "folds"
    rows += [row(SCORES[name].format(over), entry) for name, entry in result["scores"].items()]
    rows += [row(f"recall {label}", entry) for label, entry in result["recall"].items()]
    lines += columns(rows)
    lines += [
        f"95% and p: bootstrap, {result['paired']}; p is not corrected for several comparisons",
        "",
    ]
    for test in result["mcnemar"]:
        seeds = " and ".join(map(str, dict.fromkeys(test["seeds"])))
        lines.append(
            f"McNemar, seed {seeds}: only A right {test['only_first']}, only B right "
            f"{test['only_second']}, p = {p_value(test['p'])}"
        )
    if result["mcnemar"]:
        lines.append("McNemar's test takes utterances for independent, which a speaker's are not")
    else:
        lines.append("McNemar's test: the systems have no seed in common")
    return "\n".join(lines) + "\n"


def _are_records(paths: Sequence[Path], dump_dir: Path | str | None) -> bool:
    records = [path for path in paths if path.suffix == ".json"]
    if records and len(records) < len(paths):
        raise UserError(
            f"--exp-dir: {records[0]} is a record, {next(p for p in paths if p not in records)} an "
            "experiment; give records of both, or experiments"
        )
    if not records and dump_dir is None:
        raise UserError("--dump-dir: missing; give dump/<corpus> of the experiments")
    return bool(records)


def _scores_file(path: Path) -> Path:
    return path if path.suffix == ".json" else path / "scores.json"


def _refuse_unlike(exp_dirs: Sequence[Path], scores: Sequence[Mapping[str, Any]]) -> None:
    """Reject different corpora, emotions or kinds of protocol, before anything else is read."""
    if len(exp_dirs) < 2:
        raise UserError("--exp-dir: one experiment; a comparison is of two")
    places = [directory.resolve() for directory in exp_dirs]
    repeated = [d for i, d in enumerate(exp_dirs) if places[i] in places[:i]]
    if repeated:
        raise UserError(f"--exp-dir: {repeated[0]} is given twice; name two experiments")
    for key, what in (("corpus", "corpus"), ("labels", "emotions")):
        first = scores[0][key]
        for directory, other in zip(exp_dirs[1:], scores[1:], strict=True):
            if other[key] != first:
                raise UserError(
                    f"{_scores_file(directory)}: {what} {_words(other[key])}, but {exp_dirs[0]} "
                    f"has {_words(first)}; only decisions about the same utterances and emotions "
                    "can be compared"
                )
    trains = {True: "trains on the speakers that it tests", False: "does not"}
    first = scores[0]["protocol"]
    for directory, protocol in zip(exp_dirs, (s["protocol"] for s in scores), strict=True):
        if bool(caveat(protocol)) != bool(caveat(first)):
            raise UserError(
                f"{_scores_file(directory)}: protocol {protocol} {trains[bool(caveat(protocol))]}, "
                f"{first} of {exp_dirs[0]} {trains[bool(caveat(first))]}; their difference would "
                "be that of the protocols: compare systems under one protocol"
            )


def _refuse_other_records(paths: Sequence[Path], scores: Sequence[Mapping[str, Any]]) -> None:
    for path, other in zip(paths[1:], scores[1:], strict=True):
        if not same_tests(other, scores[0]):
            raise UserError(
                f"{path}: tests other utterances than {paths[0]}, or has them in other folds; "
                "records are compared utterance by utterance, experiments (exp/<corpus>/<tag>) "
                "across folds as well"
            )


def _refuse_other_tests(runs: Sequence[Scored]) -> None:
    first = runs[0]
    for run in runs[1:]:
        problems = []
        for one, other in ((first, run), (run, first)):
            only = sorted(one.decided.keys() - other.decided.keys())
            if only:
                lacking = dict.fromkeys(one.fold[u] for u in only)
                problems.append(
                    f"{other.exp_dir} lacks {len(only)} utterances that {one.exp_dir.name} was "
                    f"tested on: {some(only)} (fold {some(lacking)})"
                )
        if problems:
            raise UserError(
                f"{'; '.join(problems)}; only what both were tested on can be compared: train and "
                "score the missing folds (./run.sh --stage 4 --stop-stage 5 with the same options)"
            )


def _words(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(value)


def _stem(scores: Mapping[str, Any]) -> str:
    return scores["tag"].removesuffix(f"_seed{scores['seed']}")


def _right(system: System, utts: Sequence[str]) -> np.ndarray:
    """Correctness of each run on each utterance, (seeds, N)."""
    rows = [[run.decided[u].hyp == run.decided[u].ref for u in utts] for run in system.runs]
    return np.array(rows, dtype=float)


def _notes(system: System) -> list[str]:
    notes = {}
    for run in system.runs:
        notes |= dict.fromkeys(f"LEAKY, not comparable: {w}" for w in run.scores["leaky"])
        if mark(run.scores) == SPEAKER_DEPENDENT:
            notes[KNOWN_SPEAKERS] = None
        notes |= dict.fromkeys(f"PARTIAL: {note}" for note in partial_notes(run.scores))
    return [f"{system.name}: {note}" for note in notes]


def _entry(values: np.ndarray, change: Difference) -> dict[str, Any]:
    """The two systems' scores (2,) and their difference."""
    return {"first": float(values[0]), "second": float(values[1]), "difference": asdict(change)}


def _mcnemars(first: System, second: System, right: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """One test for each pair of runs with the same seed, or for the only pair."""
    if len(first.runs) == len(second.runs) == 1:
        pairs = [(0, 0)]
    else:
        pairs = [
            (i, second.seeds.index(seed))
            for i, seed in enumerate(first.seeds)
            if seed in second.seeds
        ]
    return [
        {"seeds": [first.seeds[i], second.seeds[j]], **mcnemar(right[0][i], right[1][j])}
        for i, j in pairs
    ]


def row(name: str, entry: Mapping[str, Any] | None) -> list[str]:
    """Cells of an entry of ``compare_systems``: both scores, difference, interval and p."""
    if entry is None:
        return [name, *["-"] * 5]
    change = difference(Difference(**entry["difference"]))
    return [name, percent(entry["first"]), percent(entry["second"]), *change]
