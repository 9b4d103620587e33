"""Stage 4: train the folds of experiments, each resumable, several in one process.

Importing ESPnet takes about ten seconds, so one process trains its folds in turn.
"""

import argparse
import contextlib
import gc
import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from espnet2.samplers.build_batch_sampler import build_batch_sampler
from espnet2.tasks import abs_task
from espnet2.tasks.abs_task import optim_classes

from ser.cluster import preemption
from ser.cluster.locks import held
from ser.cluster.runlog import fold_log
from ser.config import (
    check_arguments,
    check_config,
    differences,
    load_config,
    read_layers,
    read_numbers,
)
from ser.console import explain
from ser.data.folds import LEAKY
from ser.data.labels import fold_labels
from ser.data.prepare import require_current
from ser.data.tables import read_lines, read_table
from ser.errors import UserError
from ser.files import atomic_write
from ser.lang.units import token_tables
from ser.models.build import check_network
from ser.models.heads import UNITS, label_tables, read_heads
from ser.models.registry import check_folder
from ser.provenance import git_commit, hardware
from ser.stage import MARKER, file_digest, is_done, mark_done, read_marker, require_done
from ser.training.checkpoint import CHECKPOINT
from ser.training.declared import check_folds
from ser.training.devices import lacks_bfloat16, require_gpu
from ser.training.distributed import Processes, this_process
from ser.training.experiment import data_state
from ser.training.heads_first import phases, read_heads_first
from ser.training.linear_fit import check_fit, fit_fold
from ser.training.task import GRADIENT, SERTask
from ser.training.trainer import HISTORY, PARAMETERS

BEST_ON_TEST = "best-on-test"
RUN_FILE = "run.yaml"
SYSTEM_FILE = "system.yaml"  # the configuration, merged with its bases
FOLD_FILE = "run.json"
SETTINGS_FILE = "settings.json"
LAYER_CACHE = "layers"  # folder in dump/<corpus>
# Options without influence on the result.
NOT_SETTINGS = (
    "config",
    "ngpu",
    "stated",
    "paper",
    "sweep",
    "num_workers",
    "max_cache_size",
    "log_interval",
    "use_matplotlib",
    "use_tensorboard",
    "use_wandb",
    "wandb_project",
    "wandb_id",
    "wandb_entity",
    "wandb_name",
    "wandb_model_log_interval",
    "background_checkpoints",
    "checkpoint_seconds",
    "keep_checkpoints",
    "layer_cache",
)
# Options that this stage sets itself, fold by fold.
OWN_OPTIONS = (
    "output_dir",
    "seed",
    "ngpu",
    "resume",
    "emotions",
    "units",
    "max_cache_fd",
    "class_counts",
    "aux_labels",
    "has_valid",
    "run_label",
    "untagged",
    "warm_start",
)


@dataclass(frozen=True)
class Training:
    """One training of all folds: where it goes, of which system, from which seed."""

    exp_dir: Path  # exp/<corpus>/<tag>
    config: Path  # the system's YAML
    seed: int


def train_folds(
    trainings: Sequence[Training],
    data_dir: Path,
    dump_dir: Path,
    protocol: str,
    folds: Sequence[str] = (),
    ngpu: int = 0,
    num_nodes: int = 1,
    max_epoch: int | None = None,
    ssl: str | None = None,
    extra_args: Sequence[str] = (),
    overwrite: bool = False,
    share: tuple[int, int] = (1, 1),
    select: str = "protocol",
    check_only: bool = False,
) -> None:
    """Train ``folds`` (all of the protocol if empty) in every training.

    Finished folds are left alone, interrupted ones go on from their last checkpoint. A fold's
    output goes to exp_dir/log/stage4.<fold>.log.

    Args:
        data_dir, dump_dir: data/<corpus> and dump/<corpus>, as stages 1 to 3 leave them.
        ngpu, num_nodes: GPUs of one training on each node, and how many nodes it runs on.
        max_epoch, ssl: Replace ``max_epoch`` and ``frontend_conf.model`` of the YAML.
        extra_args: More ESPnet options, such as ``--optim_conf lr=1.0e-5``.
        overwrite: Train anew where an experiment was run with other settings.
        share: (k, n) trains the k-th, (k + n)-th, ... pair of experiment and fold, from 1.
        select: ``protocol`` tests the epoch that the protocol says; ``best-on-test`` the one that
            is best on the test speaker, to measure what that mistake is worth.
        check_only: Settle the settings in every run.yaml, train nothing.

    Raises:
        UserError: stage 3 is missing, an unknown fold, an unfit configuration, an experiment of
            the same tag with other settings, a fold that another run is at work on, or folds that
            failed (named with their logs).
        Stopped: a signal asked for it; the fold's checkpoint has been written.
    """
    fold_dir = dump_dir / "folds" / protocol
    require_done(fold_dir, 3, f"the folds of protocol {protocol}")
    require_current(data_dir, dump_dir)
    known = check_folds(fold_dir, folds)
    pairs = [(training, fold) for training in trainings for fold in known]
    pairs = pairs[share[0] - 1 :: share[1]]
    if not check_only:  # which may run where jobs are submitted
        require_gpu(ngpu)
    processes = Processes(num_nodes, 0) if check_only else this_process(num_nodes)
    failed: list[Path] = []
    for training in trainings:
        mine = [fold for owner, fold in pairs if owner == training]
        if not mine and not check_only:
            continue
        args = resolve(training.config, ssl, max_epoch, extra_args, training.seed, ngpu)
        run = describe(
            args, dump_dir, training.config, protocol, ssl, max_epoch, extra_args, num_nodes
        )
        mark_leaks(run, protocol, select)
        labels = fold_labels(label_tables(args.aux_conf), dump_dir, fold_dir, known)
        if processes.first:
            register_run(training.exp_dir, run, overwrite)
            with atomic_write(training.exp_dir / SYSTEM_FILE) as stream:
                yaml.safe_dump(load_config(training.config), stream, sort_keys=False)
        if check_only:
            continue
        if args.model_conf.get("amp_dtype") == "bfloat16" and (device := lacks_bfloat16(ngpu)):
            processes.say(
                f"warning: this {device} only emulates bfloat16, which is slower than float32; "
                "-- --model_conf amp_dtype=float32 trains without"
            )
        processes.set_arguments(args)
        for fold in mine:
            preemption.check()
            output_dir = training.exp_dir / fold
            fold_args = fold_arguments(args, dump_dir, fold_dir, fold, output_dir, select)
            fold_args.aux_labels = labels[fold]
            log = training.exp_dir / f"log/stage4.{fold}{processes.suffix}.log"
            if not _train_fold(fold_args, run["settings"], overwrite, log, processes):
                failed.append(log)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(pairs)} folds failed; see "
            + ", ".join(str(log) for log in failed)
        )


def _train_fold(
    args: argparse.Namespace,
    settings: dict[str, Any],
    overwrite: bool,
    log: Path,
    processes: Processes,
) -> bool:
    """Train one fold unless it is trained; False if that failed, which its log explains."""
    output_dir, fold = Path(args.output_dir), args.run_label
    trained_with = read_marker(output_dir)
    if trained_with is not None and _deciding(trained_with) == _plain(settings) != trained_with:
        mark_done(output_dir, settings)  # an earlier version noted more than decides
    if is_done(output_dir, settings) and (_names_model(output_dir) or _named_again(args)):
        if processes.first and not args.keep_checkpoints:
            discard_checkpoints(output_dir)
        processes.say(f"[fold] {fold}: already trained")
        return True
    with contextlib.ExitStack() as stack:
        if processes.first:
            stack.enter_context(held(output_dir.parent / f".{fold}.lock", str(output_dir)))
            claim(output_dir, settings, overwrite)
        try:
            with fold_log(log, sys.argv):
                _run(args, settings, processes)
            if processes.first:
                print(f"[fold] {fold}: {summary(output_dir)}", flush=True)
        except preemption.Stopped as stop:
            processes.say(f"[fold] {fold}: {stop}")
            raise
        except Exception as err:  # one fold's failure must not cost the others
            preemption.check()  # processes that ESPnet has started answer signals by failing
            print(f"[fold] {fold}: FAILED: {explain(err)}; see {log}", flush=True)
            return False
    return True


def resolve(
    config: Path,
    ssl: str | None,
    max_epoch: int | None,
    extra_args: Sequence[str],
    seed: int,
    ngpu: int,
) -> argparse.Namespace:
    """The task's arguments from the YAML and the command line; UserError if they do not fit."""
    parser = SERTask.get_parser()
    parser.error = _refuse
    content = load_config(config)
    check_config(config, content, parser)
    for key in OWN_OPTIONS:
        if key in content:
            raise UserError(f"{config}: {key} is set by run.sh for each fold; remove the line")
    parser.set_defaults(**content)
    command = ["--seed", str(seed), "--ngpu", str(ngpu), *extra_args]
    if max_epoch is not None:
        command += ["--max_epoch", str(max_epoch)]
    if ssl:
        command += ["--frontend_conf", f"model={json.dumps(ssl)}"]
        command += ["--frontend_conf", "init=pretrained"]
    args = parser.parse_args(command)
    args.config = str(config)
    for key, value in vars(args).items():
        if isinstance(value, dict):
            setattr(args, key, read_numbers(value))
    if ssl and content.get("frontend_conf", {}).get("init") == "random":
        for key in ("model_type", "config"):  # of the untrained encoder that --ssl replaces
            args.frontend_conf.pop(key, None)
    if args.frontend == "hf" and isinstance(args.frontend_conf.get("model"), str):
        check_folder(args.frontend_conf["model"])  # once, not fold by fold
    try:
        for choices in SERTask.class_choices_list:
            cls = choices.get_class(getattr(args, choices.name))
            check_arguments(f"{choices.name}_conf", cls, getattr(args, f"{choices.name}_conf"))
        check_network(args)
        read_heads(args.aux_conf)
        read_heads_first(args)
        check_fit(args)
        check_arguments("optim_conf", optim_classes[args.optim], args.optim_conf)
    except UserError as err:
        where = f"{config} with the options after --" if extra_args else config
        raise UserError(f"{where}: {err}") from None
    if args.use_wandb and abs_task.wandb is None:
        raise UserError(
            "--use_wandb true: Weights & Biases (wandb) is not installed here; pip install -r "
            "requirements-apps.txt, or leave the option out: TensorBoard logs all the same"
        )
    if args.batch_size < 1:
        raise UserError(f"{config}: batch_size: found {args.batch_size}; expected 1 or more")
    if args.length_jitter < 0 or (args.length_jitter and args.batch_type != "sorted"):
        raise UserError(
            f"{config}: length_jitter: found {args.length_jitter} with batch_type "
            f"{args.batch_type}; it is a share from 0.0 on, and needs batch_type: sorted"
        )
    if "best_model_criterion" in content:
        _check_criterion(config, content["best_model_criterion"][0], list(args.aux_conf))
    return args


def _check_criterion(config: Path, criterion: Any, heads: Sequence[str]) -> None:
    """Refuse what would fail only after the last epoch: the choice of the model to infer with."""
    keys = ["loss", "loss_er", "WA", "UA", *(f"loss_{head}" for head in heads)]
    expected = [("train", "valid"), keys, ("min", "max")]
    fits = isinstance(criterion, list) and len(criterion) == len(expected)
    if not fits or any(c not in known for c, known in zip(criterion, expected, strict=True)):
        raise UserError(
            f"{config}: best_model_criterion: found {criterion}; expected train or valid, one of "
            f"{', '.join(keys)}, and min or max"
        )


def _refuse(message: str) -> None:
    raise UserError(f"training options: {message}; see conf/ for examples")


def describe(
    args: argparse.Namespace,
    dump_dir: Path,
    config: Path,
    protocol: str,
    ssl: str | None,
    max_epoch: int | None,
    extra_args: Sequence[str],
    num_nodes: int = 1,
) -> dict[str, Any]:
    """What run.yaml says: what was asked for, and the settings that decide the result."""
    defaults = SERTask.get_parser().parse_args([])
    settings = {
        key: value
        for key, value in vars(args).items()
        if value != getattr(defaults, key) and key not in NOT_SETTINGS
    }
    settings["seed"] = args.seed
    processes = num_nodes * max(args.ngpu, 1)
    if args.batch_size < processes:  # which divide every batch
        raise UserError(
            f"{config}: batch_size: found {args.batch_size} for {processes} processes "
            f"(--num-nodes {num_nodes} --ngpu {args.ngpu}), each of which takes a part of every "
            f"batch; give {processes} or more and fewer batches to a step, such as "
            f"-- --batch_size {2 * processes} --accum_grad 1"
        )
    if processes > 1 and args.fit != GRADIENT:
        raise UserError(
            f"--num-nodes {num_nodes} --ngpu {args.ngpu}: fit: {args.fit} of {config} takes one "
            "process, which needs seconds; use one node and no more than one GPU"
        )
    if processes > 1:  # how a batch is divided decides the order of additions and the dropout
        settings["processes"] = processes
    settings = _plain(settings)
    tables = ["emotions", "utt2emo", "utt2num_samples", *token_tables(args.token_type)]
    inputs = [] if args.feats_type == "raw" else [f"{args.feats_type}/feats.scp"]
    for name in tables + inputs:
        if not (dump_dir / name).is_file():
            raise UserError(
                f"{dump_dir / name}: no such file, but {config} has token_type "
                f"{args.token_type} and feats_type {args.feats_type}; make it first: "
                "./run.sh --stage 2 --stop-stage 3 with this --config"
            )
    _check_transcripts(args, dump_dir)
    settings["data"] = data_state(dump_dir, protocol, args.token_type, label_tables(args.aux_conf))
    return {
        "corpus": dump_dir.name,
        "protocol": protocol,
        "config": str(config),
        "bases": [str(file) for file, _ in read_layers(config)[1:]],
        "commit": git_commit(),
        "hardware": hardware(args.ngpu),
        "seed": args.seed,
        "ssl": ssl,
        "max_epoch": max_epoch,
        "extra_args": list(extra_args),
        "token_type": args.token_type,
        "feats_type": args.feats_type,
        "stated": args.stated,
        "sweep": args.sweep or None,
        "settings": settings,
    }


def _check_transcripts(args: argparse.Namespace, dump_dir: Path) -> None:
    """Refuse a head of units on a corpus without any: it would train on nothing, in silence."""
    text = dump_dir / token_tables(args.token_type)[0]
    for name, head in read_heads(args.aux_conf).items():
        if head.cls.targets == UNITS and not any(read_table(text, allow_empty=True).values()):
            raise UserError(
                f"aux_conf.{name}: a head of type {args.aux_conf[name]['type']} learns from "
                f"transcripts, but {text} holds none; give the transcripts of {dump_dir.name} "
                "with --text FILE and run stages 1 to 3 again, or choose a --config without "
                "such a head"
            )


def mark_leaks(run: dict[str, Any], protocol: str, select: str) -> None:
    """Note in ``run`` what makes its scores too good, for every table that will show them."""
    run["leaky"] = [f"--protocol {protocol}: {LEAKY[protocol]}"] if protocol in LEAKY else []
    if select == BEST_ON_TEST:
        run["leaky"].append(f"--select {select}: the epoch was chosen by the test utterances")
        run["select"] = run["settings"]["select"] = select


def register_run(exp_dir: Path, run: dict[str, Any], overwrite: bool) -> None:
    """Write run.yaml, or refuse if the experiment exists with other settings.

    A training that goes on, or is finished, keeps the commit and the machine that began it.
    """
    path = exp_dir / RUN_FILE
    if path.exists() and not overwrite and _holds_training(exp_dir, "*/"):
        try:
            old = yaml.safe_load(path.read_text(encoding="utf-8"))
            settings = old["settings"]
        except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as err:
            raise _damaged(path, err) from None
        changes = differences(_deciding(settings), run["settings"])
        if changes:
            raise UserError(
                f"{path}: this experiment was run with other settings:\n  "
                + "\n  ".join(changes)
                + "\nchoose another --tag, or train it anew with --overwrite true"
            )
        run |= {key: old[key] for key in ("commit", "hardware") if key in old}
    exp_dir.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        yaml.safe_dump(run, stream, sort_keys=False, allow_unicode=True)


def claim(output_dir: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Note in a fold's directory what it is trained with, before the first checkpoint.

    A checkpoint of other settings must not be gone on from: ``overwrite`` removes it.
    """
    path = output_dir / SETTINGS_FILE
    if path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            changes = differences(_deciding(old), _plain(settings))
        except (ValueError, AttributeError) as err:
            if not overwrite:
                raise _damaged(path, err) from None
            changes = [str(err)]
        if changes and not overwrite and _holds_training(output_dir):
            raise UserError(
                f"{output_dir}: holds a training with other settings:\n  "
                + "\n  ".join(changes)
                + "\nchoose another --tag, or train it anew with --overwrite true"
            )
        if changes:
            shutil.rmtree(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        json.dump(settings, stream, indent=1)


def _holds_training(directory: Path, pattern: str = "") -> bool:
    """False where every attempt failed before it had anything to go on from."""
    return any(any(directory.glob(pattern + name)) for name in (CHECKPOINT, MARKER))


def _names_model(output_dir: Path) -> bool:
    """Whether run.json is what stage 5 asks for."""
    try:
        return (output_dir / _read_record(output_dir)["inference_model"]).is_file()
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _named_again(args: argparse.Namespace) -> bool:
    """Make a finished fold's lost run.json again; False if its model or history is lost too."""
    output_dir = Path(args.output_dir)
    try:
        _write_record(args, json.loads((output_dir / HISTORY).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False
    return _names_model(output_dir)


def _damaged(path: Path, err: Exception) -> UserError:
    what = f"{type(err).__name__}: {' '.join(str(err).split())}"
    return UserError(
        f"{path}: damaged ({what}); choose another --tag, or train it anew with --overwrite true"
    )


def _deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """``settings`` without what earlier versions counted among them and this one does not."""
    return {key: value for key, value in settings.items() if key not in NOT_SETTINGS}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """``settings`` as they come back from JSON, where tuples are lists."""
    return json.loads(json.dumps(settings))


def fold_arguments(
    args: argparse.Namespace,
    dump_dir: Path,
    fold_dir: Path,
    fold: str,
    output_dir: Path,
    select: str = "protocol",
) -> argparse.Namespace:
    """The task's arguments for one fold.

    Set on the namespace, not on a command line: ESPnet splits those values at commas, and a path
    may hold one.
    """
    args = argparse.Namespace(**vars(args))
    args.output_dir, args.run_label, args.resume = str(output_dir), fold, True
    if args.use_wandb and args.wandb_name is None:  # else a random one
        args.wandb_name = f"{output_dir.parent.name}/{fold}"
    if args.layer_cache == "auto":
        args.layer_cache = str(dump_dir / LAYER_CACHE)
    args.max_cache_fd = 0  # with cached descriptors kaldiio reads a wav file once only
    args.emotions = " ".join(read_lines(dump_dir / "emotions"))
    speech = dump_dir / ("wav.scp" if args.feats_type == "raw" else f"{args.feats_type}/feats.scp")
    data = [(str(speech), "speech", "kaldi_ark"), (str(dump_dir / "utt2emo"), "emotion", "text")]
    if any(head.cls.targets == UNITS for head in read_heads(args.aux_conf).values()):
        text, units = token_tables(args.token_type)
        args.units = str(dump_dir / units)
        data.append((str(dump_dir / text), "text", "text"))
    valid = "test" if select == BEST_ON_TEST else "valid"
    args.has_valid = (fold_dir / fold / valid).exists()
    valid = valid if args.has_valid else "train"  # without one it is named but never read
    args.train_data_path_and_name_and_type = data
    args.valid_data_path_and_name_and_type = data
    utt2emo = read_table(dump_dir / "utt2emo")
    trained = Counter(utt2emo[utt] for utt in read_lines(fold_dir / fold / "train"))
    args.class_counts = " ".join(str(trained[e]) for e in read_lines(dump_dir / "emotions"))
    args.train_shape_file = [str(fold_dir / fold / "train.shape")]
    args.valid_shape_file = [str(fold_dir / fold / f"{valid}.shape")]
    if args.scheduler_conf.get("max_steps") == "auto":
        args.scheduler_conf = {**args.scheduler_conf, "max_steps": count_steps(args)}
    if not args.has_valid:
        # a fixed number of epochs, nothing selected: the test speaker is all there is to select on
        args.best_model_criterion = [("train", "loss", "min")]
        args.val_scheduler_criterion = ("train", "loss")
        args.patience = None
    return args


def count_steps(args: argparse.Namespace) -> int:
    """Optimizer steps of a whole training, for schedules that are given as shares of it."""
    batches = build_batch_sampler(
        type=args.batch_type,
        shape_files=args.train_shape_file,
        fold_lengths=args.fold_length,
        batch_size=args.batch_size,
        batch_bins=args.batch_bins,
        sort_in_batch=args.sort_in_batch,
        sort_batch=args.sort_batch,
        drop_last=args.drop_last_iter,
    )
    per_epoch = args.num_iters_per_epoch or len(list(batches))
    return math.ceil(per_epoch / args.accum_grad) * args.max_epoch


def _run(args: argparse.Namespace, settings: dict[str, Any], processes: Processes) -> None:
    """One fold's training, phase by phase, and the record of how it ended."""
    output_dir = Path(args.output_dir)
    for phase in phases(args):
        phase.warm_start, args.warm_start = args.warm_start, f"{phase.output_dir}/latest.pth"
        if not is_done(phase.output_dir, settings):
            _train_phase(phase, settings, processes)
        if processes.first:
            print(f"[fold] {phase.run_label}: {summary(Path(phase.output_dir))}", flush=True)
    _train_phase(args, settings, processes)
    if processes.first and not args.keep_checkpoints:
        discard_checkpoints(output_dir)


def _train_phase(args: argparse.Namespace, settings: dict[str, Any], processes: Processes) -> None:
    """One training or fit, in ``args.output_dir``; done with its record and the marker."""
    output_dir = Path(args.output_dir)
    try:
        if args.fit == GRADIENT:
            SERTask.main(args=args)
        else:
            fit_fold(args)
    finally:
        processes.leave()
    gc.collect()
    if not processes.first:
        return
    if args.fit == GRADIENT:
        _check_end(args)
    history = json.loads((output_dir / HISTORY).read_text(encoding="utf-8"))
    _write_record(args, history)
    mark_done(output_dir, settings)


def _check_end(args: argparse.Namespace) -> None:
    """Raise UserError if ESPnet gave up before the last epoch."""
    output_dir = Path(args.output_dir)
    history = json.loads((output_dir / HISTORY).read_text(encoding="utf-8"))
    stopped = len(history) < args.max_epoch and args.patience is None
    if stopped or not math.isfinite(history[-1]["train"]["loss"]):
        raise UserError(
            f"{output_dir}: stopped after epoch {len(history)} of {args.max_epoch}, since no step "
            "had a finite gradient; lower the learning rate (-- --optim_conf lr=...) or look for "
            "the cause in the losses above"
        )


def _write_record(args: argparse.Namespace, history: list[dict[str, Any]]) -> None:
    """run.json: which model to infer with, and what the training took."""
    output_dir = Path(args.output_dir)
    phase, key, mode = args.best_model_criterion[0]
    if args.has_valid and args.fit == GRADIENT:
        chosen = (min if mode == "min" else max)(history, key=lambda entry: entry[phase][key])
        model = f"{phase}.{key}.ave.pth"
    else:
        chosen, model = history[-1], "latest.pth"
    before = {Path(p.output_dir).name: _read_record(Path(p.output_dir)) for p in phases(args)}
    seconds = sum(_seconds(entry) for entry in history)
    seconds += sum(record["train_seconds"] for record in before.values())
    record = {
        "inference_model": model,
        "model_sha256": file_digest(output_dir / model),
        "epochs": len(history),
        "best_epoch": chosen["epoch"],
        "train_seconds": round(seconds, 1),
        "phases_before": {name: record["epochs"] for name, record in before.items()},
        "parameters": json.loads((output_dir / PARAMETERS).read_text(encoding="utf-8")),
    }
    with atomic_write(output_dir / FOLD_FILE) as stream:
        json.dump(record, stream, indent=1)


def discard_checkpoints(output_dir: Path) -> None:
    """Leave of a finished fold's models the one that run.json names: ten folds fill a disk."""
    used = (output_dir / _read_record(output_dir)["inference_model"]).resolve()
    models = [*output_dir.glob("*.pth"), *output_dir.glob("*/*.pth")]
    for path in models:
        if not path.is_symlink() and path.resolve() != used:
            path.unlink()
    for path in models:
        if path.is_symlink() and not path.exists():
            path.unlink()


def _read_record(output_dir: Path) -> dict[str, Any]:
    return json.loads((output_dir / FOLD_FILE).read_text(encoding="utf-8"))


def _seconds(entry: dict[str, Any]) -> float:
    return sum(entry[phase]["seconds"] for phase in ("train", "valid") if phase in entry)


def summary(output_dir: Path) -> str:
    """One line about a finished fold."""
    record = _read_record(output_dir)
    history = json.loads((output_dir / HISTORY).read_text(encoding="utf-8"))
    entry = next(e for e in history if e["epoch"] == record["best_epoch"])
    text = f"{record['epochs']} epochs in {record['train_seconds']:.0f} s"
    if "C" in entry["train"]:
        split = "valid" if "valid" in entry else "train"
        return (
            f"fitted in {record['train_seconds']:.1f} s, C {entry['train']['C']:g}, "
            f"{split} UA {entry[split]['UA']:.1%}"
        )
    if "valid" in entry:
        return f"{text}, best valid UA {entry['valid']['UA']:.1%} at epoch {entry['epoch']}"
    return f"{text}, last train UA {entry['train']['UA']:.1%}"
