"""Estimate what the trainings of a sweep will take: hours, disk and memory.

The rate is that of the epochs that this sweep has trained so far; without any, that of a short
training with the same code on this machine. Both are estimates: of this machine, as busy as it was.
"""

import json
import math
import random
import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ser.console import duration
from ser.data.tables import read_lines, read_table
from ser.files import atomic_write
from ser.provenance import hardware
from ser.stage import file_digest, read_marker
from ser.training.sweep import Sweep, write_points

RATE = 16000  # samples a second
VALID_COST = 1 / 3  # of a training pass: forward without backward
STEPS = 10  # batches of each of the two timed epochs, or a few more to fill the last update


@dataclass(frozen=True)
class Work:
    """One fold of one experiment."""

    kind: str  # frontend_conf.freeze: points of one kind cost the same
    audio: float  # seconds in an epoch; validation counts as ``VALID_COST`` of training
    epochs: int  # of the whole training
    trained: int  # epochs that are done; all of them once the training is finished
    seconds: float  # that these took


@dataclass(frozen=True)
class Cost:
    """What one kind of training takes."""

    rate: float  # seconds for each second of audio in an epoch
    at_once: int  # trainings that ran side by side when it was measured
    source: str


def read_work(
    sweep: Sweep,
    directory: Path,
    dump_dir: Path,
    protocols: Sequence[str],
    seeds: Sequence[int],
    folds: Sequence[str] = (),
    max_epoch: int | None = None,
) -> list[Work]:
    """Every fold of every experiment in ``directory``, exp/<corpus>, begun or not."""
    samples = {u: int(n) for u, n in read_table(dump_dir / "utt2num_samples").items()}
    found = []
    for protocol in protocols:
        fold_dir = dump_dir / "folds" / protocol
        for fold in folds or read_lines(fold_dir / "folds"):
            audio = sum(
                weight * sum(samples[utt] for utt in read_lines(fold_dir / fold / part)) / RATE
                for part, weight in (("train", 1.0), ("valid", VALID_COST))
                if (fold_dir / fold / part).is_file()
            )
            for point in sweep.points:
                epochs = max_epoch or int(point.config["max_epoch"])
                for seed in seeds:
                    output = directory / point.experiment(sweep.name, protocol, seed) / fold
                    trained, seconds = _trained(output)
                    whole = trained if read_marker(output) is not None else epochs
                    found.append(Work(kind_of(point.config), audio, whole, trained, seconds))
    return found


def kind_of(config: Mapping[str, Any]) -> str:
    """What of the encoder is frozen or adapted, on which cost depends; ``none`` if nothing is."""
    conf = config.get("frontend_conf") or {}
    return str(conf.get("freeze", "none")) + " with lora" * bool(conf.get("lora"))


def costs_so_far(work: Sequence[Work], at_once: int) -> dict[str, Cost]:
    """The cost of each kind that has trained epochs."""
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
    """Seconds: the sum over folds of audio x epochs left x rate / how many train side by side."""
    return sum(
        w.audio * (w.epochs - w.trained) * costs[w.kind].rate / costs[w.kind].at_once
        for w in work
        if w.trained < w.epochs
    )


def describe_plan(
    work: Sequence[Work],
    experiments: int,
    costs: Mapping[str, Cost],
    timings: Mapping[str, Mapping[str, Any]],
    corpus_seconds: float,
    at_once: int,
    directory: Path,
) -> str:
    """The lines that ``--plan`` prints.

    Args:
        costs: of the kinds that are known.
        timings: what ``time_training`` found, by kind; may lack some.
        corpus_seconds: audio of the whole corpus, of which layers are kept.
        at_once: trainings side by side.
        directory: on the disk that is written to.
    """
    left = [w for w in work if w.trained < w.epochs]
    audio = sum(w.audio for w in work) / len(work) / 3600
    lines = [
        f"plan: {experiments} experiments, {len(work)} folds; {len(work) - len(left)} are trained",
        f"plan: {sum(w.epochs - w.trained for w in left)} epochs are left, each of "
        f"{audio:.2f} hours of audio on average",
    ]
    lines += [
        f"plan: freeze {kind}: {1 / cost.rate:.1f} seconds of audio a second ({cost.source})"
        for kind, cost in costs.items()
    ]
    if all(w.kind in costs for w in left):
        seconds = duration([time_left(left, costs)])
        lines.append(f"plan: an estimate: {seconds} (h:mm:ss) in all, {at_once} at a time")
    else:
        lines.append("plan: hours are not known before the first epoch has been trained")
    if timings:
        model = max(t["model"] for t in timings.values())
        kept = sum(t["kept"] for t in timings.values()) * corpus_seconds
        busy = at_once * max(t["checkpoint"] + 2 * t["model"] for t in timings.values())
        disk = len(left) * model + kept + busy
        free = shutil.disk_usage(directory).free
        lines += [
            f"plan: disk: {_size(disk)}: {_size(model)} for each fold left, {_size(kept)} for kept "
            f"outputs of frozen layers, {_size(busy)} while training; {_size(free)} are free"
            + (", WHICH IS TOO LITTLE" if free < disk else ""),
            f"plan: memory: {_size(max(t['memory'] for t in timings.values()))} for a training, "
            f"{at_once} at a time",
        ]
    return "\n".join(lines)


def plan(
    sweep: Sweep,
    directory: Path,
    dump_dir: Path,
    protocols: Sequence[str],
    seeds: Sequence[int],
    folds: Sequence[str] = (),
    ngpu: int = 0,
    at_once: int = 1,
    max_epoch: int | None = None,
    ssl: str | None = None,
    timed_here: bool = True,
    extra_args: Sequence[str] = (),
) -> str:
    """Say what is left of a sweep in ``directory``, exp/<corpus>, and what it will take.

    Args:
        at_once: Trainings that run side by side.
        timed_here: Time a few batches on this machine where no epoch has been trained yet.
    """
    work = read_work(sweep, directory, dump_dir, protocols, seeds, folds, max_epoch)
    at_once = min(at_once, len(work))
    costs = costs_so_far(work, at_once)
    left = {w.kind for w in work if w.trained < w.epochs} - costs.keys()
    timings = timings_of(
        sweep,
        directory / "paper",
        sorted(left) if timed_here else None,
        dump_dir=dump_dir,
        protocol=protocols[0],
        ssl=ssl,
        ngpu=min(ngpu, 1),
        extra_args=extra_args,
    )
    source = f"an estimate from {2 * STEPS} batches on this machine"
    timed = {
        kind: Cost(timings[kind]["rate"], max(ngpu, 1), source) for kind in left & timings.keys()
    }
    samples = read_table(dump_dir / "utt2num_samples").values()
    seconds = sum(map(int, samples)) / RATE
    experiments = len(protocols) * len(sweep.points) * len(seeds)
    return describe_plan(work, experiments, costs | timed, timings, seconds, at_once, directory)


def timings_of(
    sweep: Sweep,
    directory: Path,
    missing: Sequence[str] | None,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """What short trainings have found for each kind, from ``directory``/timing.json or anew.

    Args:
        directory: exp/<corpus>/paper.
        missing: the kinds to be timed unless they are known; None times nothing.
        options: of ``time_training``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path, found = directory / "timing.json", {}
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    files = write_points(sweep, directory.parent / f"{sweep.name}_points")
    for point in reversed(sweep.points):  # lambda 0, which costs a little less, comes first
        kind = kind_of(point.config)
        made_of = [file_digest(files[point.name]), hardware(options["ngpu"]), str(options)]
        if kind in found:
            continue
        if known.get(kind, {}).get("made_of") == made_of:
            found[kind] = known[kind]
        elif missing is not None and kind in missing:
            print(f"plan: timing some {2 * STEPS} batches with freeze {kind}", flush=True)
            timing = time_training(files[point.name], directory=directory, **options)
            found[kind] = {"made_of": made_of, **timing}
    with atomic_write(path) as stream:
        json.dump(known | found, stream, indent=1)
    return found


def time_training(
    config: Path,
    directory: Path,
    dump_dir: Path,
    protocol: str,
    ssl: str | None,
    ngpu: int,
    extra_args: Sequence[str],
) -> dict[str, float]:
    """Train two short epochs of the first fold in a folder that is removed; the second is timed.

    Returns:
        ``rate`` (seconds for each second of audio), and in bytes ``memory`` (of the process, or of
        the GPU), ``model``, ``checkpoint`` and ``kept`` (of frozen layers, for a second of audio).
    """
    from ser.cluster.runlog import fold_log
    from ser.data.labels import fold_labels
    from ser.models.heads import label_tables
    from ser.training.folds import fold_arguments
    from ser.training.settings import TrainingOptions, resolve
    from ser.training.trainer import HISTORY

    options = TrainingOptions(protocol, ngpu, max_epoch=2, ssl=ssl, extra_args=extra_args)
    args = resolve(config, options)
    real = dump_dir / "folds" / protocol
    fold = read_lines(real / "folds")[0]
    with TemporaryDirectory(prefix="timing.", dir=directory) as name:
        scratch = Path(name)
        shutil.copytree(real / fold, scratch / "folds" / fold)
        (scratch / "folds" / fold / "valid").unlink(missing_ok=True)
        shapes = read_lines(real / fold / "train.shape")
        steps = math.ceil(STEPS / args.accum_grad) * args.accum_grad
        sample = random.Random(0).sample(shapes, min(len(shapes), steps * args.batch_size))
        text = "".join(f"{line}\n" for line in sorted(sample))
        (scratch / "folds" / fold / "train.shape").write_text(text, encoding="utf-8")
        args = fold_arguments(args, dump_dir, scratch / "folds", fold, scratch / "exp" / fold)
        args.aux_labels = fold_labels(label_tables(args.aux_conf), dump_dir, real, [fold])[fold]
        args.layer_cache = str(scratch / "layers")
        with fold_log(directory / "log/timing.log", sys.argv):
            memory = _train(args)
        history = json.loads((scratch / "exp" / fold / HISTORY).read_text(encoding="utf-8"))
        samples = read_table(dump_dir / "utt2num_samples")
        audio = sum(int(samples[line.split()[0]]) for line in sample) / RATE
        kept = sum(path.stat().st_size for path in (scratch / "layers").rglob("*.npy"))
        return {
            "rate": history[-1]["train"]["seconds"] / audio,
            "memory": memory,
            "model": (scratch / "exp" / fold / "2epoch.pth").stat().st_size,
            "checkpoint": (scratch / "exp" / fold / "checkpoint.pth").stat().st_size,
            "kept": kept / audio,
        }


def _train(args: Any) -> int:
    """Train; the most memory that was taken, in bytes."""
    import torch

    from ser.training.task import SERTask

    SERTask.main(args=args)
    if args.ngpu:
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _trained(output: Path) -> tuple[int, float]:
    """Epochs in a fold's history, and the seconds that they took."""
    try:
        history = json.loads((output / "history.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0, 0.0
    phases = [entry[name] for entry in history for name in ("train", "valid") if name in entry]
    return len(history), sum(phase["seconds"] for phase in phases)


def _size(count: float) -> str:
    """Bytes in a unit in which they have one to three digits."""
    for unit in ("MB", "GB"):
        count /= 1e6 if unit == "MB" else 1e3
        if count < 999.5:
            break
    return f"{count:.1f} {unit}" if count < 10 else f"{count:.0f} {unit}"
