"""Estimate the remaining time, disk and memory of any set of trainings, stage by stage.

Rates come from the epochs trained so far, or, where there are none, from a short training with the
same code on this machine (ser/training/timing.py). All figures are estimates, for this machine
under the load that it had.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ser.console import duration
from ser.data.audio import SAMPLE_RATE
from ser.data.tables import read_lines, read_table
from ser.files import atomic_write
from ser.provenance import hardware
from ser.stage import read_marker, require_done
from ser.training.experiment import LAYER_CACHE, PREDICTIONS_MARKER, history_so_far
from ser.training.timing import STEPS, VALID_COST, Kind, time_training


@dataclass(frozen=True)
class Work:
    """One phase of one fold of one experiment."""

    kind: str  # Kind.key
    audio: float  # seconds per epoch; validation counts as ``VALID_COST`` of training
    epochs: int  # of the whole training
    trained: int  # finished epochs; all of them once the training is finished
    seconds: float  # time that these took
    last: bool = True  # the phase whose model is tested
    test: float = 0.0  # seconds of audio still to be inferred in stage 5


@dataclass(frozen=True)
class Cost:
    """Cost of one kind of training."""

    rate: float  # seconds per second of audio in an epoch
    at_once: int  # concurrent trainings when it was measured
    source: str


@dataclass(frozen=True)
class Plan:
    """Remaining work, and what is known about its cost."""

    experiments: int
    work: Sequence[Work]
    kinds: Mapping[str, Kind]
    costs: Mapping[str, Cost]  # by kind, where known
    timings: Mapping[str, Mapping[str, Any]]  # results of ``time_training``, by kind
    corpus_seconds: float  # audio of the whole corpus, whose layer outputs are cached
    at_once: int  # concurrent trainings
    done: Mapping[str, float]  # bytes written by stages 1 and 2, and by stage 3
    free: float  # free bytes on the disk

    @property
    def left(self) -> list[Work]:
        return [w for w in self.work if w.trained < w.epochs]

    @property
    def folds_left(self) -> int:
        return sum(w.last for w in self.left)


def read_work(
    trainings: Mapping[str, Sequence[Any]],
    dump_dir: Path,
    options: Mapping[str, Any],
    folds: Sequence[str] = (),
) -> tuple[list[Work], dict[str, Kind]]:
    """List every phase of every fold, started or not, and the kinds of training among them.

    Args:
        trainings: By protocol; each has ``exp_dir``, ``config`` and ``seed``.
        options: Fields of TrainingOptions.

    Raises:
        UserError: the folds are missing, or a configuration is invalid.
    """
    from ser.training.declared import check_folds
    from ser.training.heads_first import phases
    from ser.training.settings import TrainingOptions, resolve

    samples = {u: int(n) for u, n in read_table(dump_dir / "utt2num_samples").items()}
    work, kinds = [], {}
    for protocol, chosen in trainings.items():
        fold_dir = dump_dir / "folds" / protocol
        require_done(fold_dir, 3, f"the folds of protocol {protocol}")
        names = check_folds(fold_dir, folds)
        audio = {fold: audio_of(fold_dir / fold, samples) for fold in names}
        for training in chosen:
            args = resolve(training.config, TrainingOptions(protocol, **options), training.seed)
            for fold in names:
                output = training.exp_dir / fold
                inferred = (output / PREDICTIONS_MARKER).is_file()
                own = {**vars(args), "output_dir": str(output), "run_label": fold}
                whole = argparse.Namespace(**own)
                for phase in (*phases(whole), whole):
                    label = f"{training.config.stem} {Path(phase.output_dir).name}"
                    last = phase is whole
                    kind = Kind(training.config.stem if last else label, phase, protocol)
                    kinds.setdefault(kind.key, kind)
                    test = audio[fold]["test"] if last and not inferred else 0.0
                    work.append(_work(kind, audio[fold]["epoch"], last, test))
    return work, kinds


def _work(kind: Kind, audio: float, last: bool, test: float) -> Work:
    """Describe a phase of a fold by the contents of its folder."""
    output = Path(kind.args.output_dir)
    history = history_so_far(output)
    passes = [entry[name] for entry in history for name in ("train", "valid") if name in entry]
    seconds = sum(each["seconds"] for each in passes)
    epochs = kind.args.max_epoch if kind.args.fit == "gradient" else 1
    if read_marker(output) is not None:
        epochs = len(history)
    return Work(kind.key, audio, epochs, len(history), seconds, last, test)


def audio_of(fold: Path, samples: Mapping[str, int]) -> dict[str, float]:
    """Seconds of audio of a fold's ``epoch``, with weighted validation, and of its ``test``."""
    seconds = {
        part: sum(samples[utt] for utt in read_lines(fold / part)) / SAMPLE_RATE
        for part in ("train", "valid", "test")
        if (fold / part).is_file()
    }
    epoch = seconds["train"] + VALID_COST * seconds.get("valid", 0.0)
    return {"epoch": epoch, "test": seconds.get("test", 0.0)}


def costs_so_far(work: Sequence[Work], at_once: int) -> dict[str, Cost]:
    """Cost of each kind that has trained epochs."""
    found = {}
    for kind in dict.fromkeys(each.kind for each in work):
        mine = [each for each in work if each.kind == kind and each.trained]
        audio = sum(each.audio * each.trained for each in mine)
        if audio:
            epochs = sum(each.trained for each in mine)
            rate = sum(each.seconds for each in mine) / audio
            found[kind] = Cost(rate, at_once, f"{epochs} epochs trained so far")
    return found


def time_left(work: Sequence[Work], costs: Mapping[str, Cost]) -> float:
    """Seconds: the sum over folds of audio x epochs left x rate / concurrent trainings."""
    return sum(
        w.audio * (w.epochs - w.trained) * costs[w.kind].rate / costs[w.kind].at_once
        for w in work
        if w.trained < w.epochs
    )


def once(plan: Plan, of: str) -> float:
    """One-off cost of caching outputs of frozen layers, for all folds that share them.

    Args:
        of: ``seconds`` (extra time of the epoch in which they are computed) or ``bytes``.
    """
    found: dict[str, float] = {}
    for key in {w.kind for w in plan.left} & plan.timings.keys():
        timing, name = plan.timings[key], plan.kinds[key].kept_as
        more = max(0.0, timing["first"] - timing["rate"]) if timing["kept"] else 0.0
        found[name] = max(found.get(name, 0.0), timing["kept"] if of == "bytes" else more)
    return plan.corpus_seconds * sum(found.values())


def stage_4(plan: Plan) -> list[str]:
    """Time, disk and memory of the remaining trainings."""
    if not plan.left:
        return ["done", "-", "-"]
    time = "not known before the first epoch"
    if all(w.kind in plan.costs for w in plan.left):
        time = duration([time_left(plan.work, plan.costs) + once(plan, "seconds")])
    if not plan.timings:
        return [time, "not known", "not known"]
    memory = max(t["memory"] for t in plan.timings.values())
    return [time, _size(disk_of(plan)), f"{plan.at_once} x {_size(memory)}"]


def disk_of(plan: Plan) -> float:
    """Bytes: a model for each fold left, cached outputs, and checkpoints of running trainings."""
    sizes = plan.timings.values()
    busy = plan.at_once * max((t["checkpoint"] + 2 * t["model"] for t in sizes), default=0.0)
    model = max((t["model"] for t in sizes), default=0.0)
    return plan.folds_left * model + once(plan, "bytes") + busy


def stage_5(plan: Plan) -> list[str]:
    """Time, disk and memory of inference, one training after the other."""
    due = [w for w in plan.work if w.test]
    if not due:
        return ["done", "-", "-"]
    if any(w.kind not in plan.costs for w in due):
        return ["not known", "little", "-"]
    seconds = sum(w.test * forward_rate(plan, w.kind) for w in due)
    return [duration([seconds]), "little", "less than one training"]


def forward_rate(plan: Plan, kind: str) -> float:
    """Seconds of inference per second of audio."""
    timing = plan.timings.get(kind)
    return timing["forward"] if timing else VALID_COST * plan.costs[kind].rate


def describe_plan(plan: Plan) -> str:
    """Format the output of ``--plan``: remaining work, rates, and a row for each stage."""
    folds = sum(w.last for w in plan.work)
    audio = sum(w.audio for w in plan.work) / len(plan.work) / 3600
    lines = [
        f"plan: {plan.experiments} experiment{'s' * (plan.experiments != 1)}, {folds} folds; "
        f"{folds - plan.folds_left} are trained",
        f"plan: {sum(w.epochs - w.trained for w in plan.left)} epochs are left, each of "
        f"{audio:.2f} hours of audio on average",
    ]
    lines += [
        f"plan: {plan.kinds[key].label}: {1 / cost.rate:.1f} seconds of audio a second "
        f"({cost.source})"
        for key, cost in plan.costs.items()
    ]
    model = max((t["model"] for t in plan.timings.values()), default=0.0)
    packed = _size(2 * model * folds) if model else "not known"
    rows = [
        ["stage", "time (h:mm:ss)", "disk", "memory"],
        ["1, 2 data, lang", "done", _size(plan.done["data"]), "-"],
        ["3 dump", "done", _size(plan.done["dump"]), "-"],
        ["4 train", *stage_4(plan)],
        ["5 score", *stage_5(plan)],
        ["6 report", "not estimated", "little", "-"],
        ["7 pack", "not estimated", packed, "only if asked for"],
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("plan:   " + "  ".join([*cells, row[3]]).rstrip())
    lack = ", WHICH IS TOO LITTLE" if plan.timings and plan.free < disk_of(plan) else ""
    lines.append(
        f"plan: an estimate, {plan.at_once} at a time; starting processes, saving models and "
        f"scores come on top; {_size(plan.free)} of the disk are free{lack}"
    )
    return "\n".join(lines)


def make_plan(
    trainings: Mapping[str, Sequence[Any]],
    data_dir: Path,
    dump_dir: Path,
    at_once: int = 1,
    timed_here: bool = True,
    folds: Sequence[str] = (),
    **options: Any,
) -> Plan:
    """Estimate the remaining work and its cost; see ``read_work`` for the arguments.

    Args:
        at_once: Concurrent trainings.
        timed_here: Time a few batches on this machine if no epoch has been trained yet.
    """
    work, kinds = read_work(trainings, dump_dir, options, folds)
    at_once = min(at_once, sum(w.last for w in work))
    costs = costs_so_far(work, at_once)
    left = {w.kind for w in work if w.trained < w.epochs} - costs.keys()
    due = [key for key in kinds if key in left] if timed_here else []
    timings = timings_of(kinds, due, dump_dir, options.get("ngpu", 0))
    source = f"an estimate from {STEPS} batches on this machine"
    side_by_side = max(options.get("ngpu", 0), 1)
    costs |= {key: Cost(timings[key]["rate"], side_by_side, source) for key in left & {*timings}}
    samples = read_table(dump_dir / "utt2num_samples").values()
    return Plan(
        experiments=sum(map(len, trainings.values())),
        work=work,
        kinds=kinds,
        costs=costs,
        timings=timings,
        corpus_seconds=sum(map(int, samples)) / SAMPLE_RATE,
        at_once=at_once,
        done={"data": bytes_in(data_dir), "dump": bytes_in(dump_dir)},
        free=shutil.disk_usage(dump_dir).free,
    )


def bytes_in(directory: Path) -> int:
    """Total size of the files below ``directory``, without the feature cache and links."""
    files = (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    kept = directory / LAYER_CACHE
    return sum(path.stat().st_size for path in files if kept not in path.parents)


def timings_of(
    kinds: Mapping[str, Kind], due: Sequence[str], dump_dir: Path, ngpu: int
) -> dict[str, dict[str, Any]]:
    """Results of short trainings by kind, from dump/<corpus>/plan or measured now.

    Args:
        due: Kinds to time unless already known.
    """
    directory = dump_dir / "plan"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "timing.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    machine = json.loads(json.dumps(hardware(min(ngpu, 1))))
    found = {k: known[k] for k in kinds if known.get(k, {}).get("hardware") == machine}
    for key in due:
        if key in found:
            continue
        print(f"plan: timing {STEPS} batches of {kinds[key].label}", flush=True)
        found[key] = {"hardware": machine, **time_training(kinds[key], directory, dump_dir)}
        with atomic_write(path) as stream:
            json.dump(known | found, stream, indent=1)
    return found


def _size(count: float) -> str:
    """Format bytes in a unit that gives one to three digits."""
    for unit in ("MB", "GB"):
        count /= 1e6 if unit == "MB" else 1e3
        if count < 999.5:
            break
    return f"{count:.1f} {unit}" if count < 10 else f"{count:.0f} {unit}"
