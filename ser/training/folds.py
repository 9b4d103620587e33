"""Stage 4: train the folds of experiments, each resumable, several in one process.

Importing ESPnet takes seconds, so one process trains several folds in turn.
"""

import argparse
import contextlib
import gc
import math
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet2.samplers.build_batch_sampler import build_batch_sampler

from ser.cluster import preemption
from ser.cluster.locks import held
from ser.cluster.logged import fold_log
from ser.console import explain
from ser.data.audit import training_list
from ser.data.labels import fold_labels, label_path
from ser.data.prepare import require_current
from ser.data.tables import read_lines, read_table
from ser.errors import UserError
from ser.lang.units import token_tables
from ser.models.cpu.malloc import keep_freed_memory
from ser.models.heads import UNITS, label_tables, read_heads
from ser.stage import is_done, mark_done, require_done
from ser.training.declared import check_folds
from ser.training.devices import lacks_bfloat16, require_gpu
from ser.training.distributed import Processes, this_process
from ser.training.experiment import LAYER_CACHE
from ser.training.heads_first import phases
from ser.training.linear_fit import fit_fold
from ser.training.records import (
    check_end,
    discard_checkpoints,
    named_again,
    names_model,
    summary,
    write_record,
)
from ser.training.register import claim, register_run
from ser.training.settings import BEST_ON_TEST, TrainingOptions, describe, resolve
from ser.training.settings import OWN_OPTIONS as OWN_OPTIONS  # the reference lists them
from ser.training.task import GRADIENT, SERTask


@dataclass(frozen=True)
class Training:
    """One training of all folds: output directory, system and seed."""

    exp_dir: Path  # exp/<corpus>/<tag>
    config: Path  # the system's YAML
    seed: int


def train_folds(
    trainings: Sequence[Training],
    data_dir: Path,
    dump_dir: Path,
    protocol: str,
    folds: Sequence[str] = (),
    share: tuple[int, int] = (1, 1),
    check_only: bool = False,
    **options: Any,
) -> None:
    """Train ``folds`` (all of the protocol if empty) in every training.

    Finished folds are skipped, interrupted ones resume from their last checkpoint. A fold's
    output goes to exp_dir/log/stage4.<fold>.log.

    Args:
        data_dir, dump_dir: data/<corpus> and dump/<corpus>, as written by stages 1 to 3.
        share: (k, n) trains the k-th, (k + n)-th, ... pair of experiment and fold, from 1.
        check_only: Write the settings to every run.yaml without training.
        options: Fields of TrainingOptions.

    Raises:
        UserError: stage 3 is missing, an unknown fold, an invalid configuration, an experiment of
            the same tag with other settings, a fold that another run is training, or folds that
            failed (named with their logs).
        Stopped: on a signal, after writing the fold's checkpoint.
    """
    asked = TrainingOptions(protocol, **options)
    fold_dir = dump_dir / "folds" / protocol
    require_done(fold_dir, 3, f"the folds of protocol {protocol}")
    require_current(data_dir, dump_dir)
    folds = check_folds(fold_dir, folds)
    pairs = [(training, fold) for training in trainings for fold in folds]
    pairs = pairs[share[0] - 1 :: share[1]]
    if not check_only:  # checks may run on a submit host
        require_gpu(asked.ngpu)
    processes = Processes(asked.num_nodes, 0) if check_only else this_process(asked.num_nodes)
    failed: list[Path] = []
    for training in trainings:
        mine = [fold for owner, fold in pairs if owner == training]
        if not mine and not check_only:
            continue
        args = resolve(training.config, asked, training.seed)
        run = describe(args, dump_dir, asked)
        labels = fold_labels(label_tables(args.aux_conf), dump_dir, fold_dir, folds)
        if processes.first:
            register_run(training.exp_dir, run, asked.overwrite)
        if not check_only:
            processes.set_arguments(args)
            work = _Work(training.exp_dir, dump_dir, asked, run.settings, labels, processes)
            failed += work.train(args, mine)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(pairs)} folds failed; see "
            + ", ".join(str(log) for log in failed)
        )


@dataclass(frozen=True)
class _Work:
    """Training of folds with the same settings."""

    exp_dir: Path
    dump_dir: Path
    options: TrainingOptions
    settings: dict[str, Any]
    labels: Mapping[str, dict[str, Any]]  # of auxiliary heads, by fold
    processes: Processes

    def train(self, args: argparse.Namespace, folds: Sequence[str]) -> list[Path]:
        """Train ``folds`` in turn; return the logs of failed ones."""
        bfloat16 = args.model_conf.get("amp_dtype") == "bfloat16"
        if bfloat16 and (device := lacks_bfloat16(self.options.ngpu)):
            self.processes.say(
                f"warning: this {device} only emulates bfloat16, which is slower than float32; "
                "-- --model_conf amp_dtype=float32 trains without"
            )
        failed = []
        fold_dir = self.dump_dir / "folds" / self.options.protocol
        for fold in folds:
            preemption.check()
            fold_args = fold_arguments(
                args, self.dump_dir, fold_dir, fold, self.exp_dir / fold, self.options.select
            )
            fold_args.aux_labels = self.labels[fold]
            log = self.exp_dir / f"log/stage4.{fold}{self.processes.suffix}.log"
            if not self.train_fold(fold_args, log):
                failed.append(log)
        return failed

    def train_fold(self, args: argparse.Namespace, log: Path) -> bool:
        """Train one fold unless already trained; return False if it failed (see its log)."""
        output_dir, fold, processes = Path(args.output_dir), args.run_label, self.processes
        if is_done(output_dir, self.settings) and (names_model(output_dir) or named_again(args)):
            if processes.first and not args.keep_checkpoints:
                discard_checkpoints(output_dir)
            processes.say(f"[fold] {fold}: already trained")
            return True
        with contextlib.ExitStack() as stack:
            if processes.first:
                stack.enter_context(held(output_dir.parent / f".{fold}.lock", str(output_dir)))
                claim(output_dir, self.settings, self.options.overwrite)
            try:
                with fold_log(log, sys.argv):
                    _run(args, self.settings, processes)
                if processes.first:
                    print(f"[fold] {fold}: {summary(output_dir)}", flush=True)
            except preemption.Stopped as stop:
                processes.say(f"[fold] {fold}: {stop}")
                raise
            except Exception as err:  # one fold's failure must not cost the others
                preemption.check()  # ESPnet's child processes fail on signals
                print(f"[fold] {fold}: FAILED: {explain(err)}; see {log}", flush=True)
                return False
        return True


def fold_arguments(
    args: argparse.Namespace,
    dump_dir: Path,
    fold_dir: Path,
    fold: str,
    output_dir: Path,
    select: str = "protocol",
) -> argparse.Namespace:
    """Build the task's arguments for one fold.

    They are set on the namespace, not on a command line, where ESPnet splits values at commas,
    which a path may contain.
    """
    args = argparse.Namespace(**vars(args))
    args.output_dir, args.run_label, args.resume = str(output_dir), fold, True
    if args.use_wandb and args.wandb_name is None:  # otherwise random
        args.wandb_name = f"{output_dir.parent.name}/{fold}"
    if args.layer_cache == "auto":
        args.layer_cache = str(dump_dir / LAYER_CACHE)
    args.max_cache_fd = 0  # with cached descriptors kaldiio reads a wav file only once
    args.emotions = " ".join(read_lines(dump_dir / "emotions"))
    speech = dump_dir / ("wav.scp" if args.feats_type == "raw" else f"{args.feats_type}/feats.scp")
    data = [(str(speech), "speech", "kaldi_ark"), (str(dump_dir / "utt2emo"), "emotion", "text")]
    if any(head.cls.targets == UNITS for head in read_heads(args.aux_conf).values()):
        text, units = token_tables(args.token_type)
        args.units = str(dump_dir / units)
        data.append((str(dump_dir / text), "text", "text"))
    valid = "test" if select == BEST_ON_TEST else "valid"
    for targets in label_tables({}, args.soft_targets).values():
        args.soft_targets = str(label_path(targets.table, dump_dir))
    args.has_valid = (fold_dir / fold / valid).exists()
    valid = valid if args.has_valid else "train"  # never read if there is none
    args.train_data_path_and_name_and_type = data
    args.valid_data_path_and_name_and_type = data
    utt2emo, told = read_table(dump_dir / "utt2emo"), read_lines(fold_dir / fold / "train")
    if args.label_share < 1:
        utt2spk, every = read_table(dump_dir / "utt2spk"), told
        speakers = sorted({utt2spk[utt] for utt in every})
        count = max(1, round(args.label_share * len(speakers)))
        kept = set(random.Random(args.seed).sample(speakers, count))
        told = [utt for utt in every if utt2spk[utt] in kept]
        args.unlabelled = " ".join(utt for utt in every if utt2spk[utt] not in kept)
    counts = Counter(utt2emo[utt] for utt in told)
    args.class_counts = " ".join(str(counts[e]) for e in read_lines(dump_dir / "emotions"))
    trained = training_list(fold_dir / fold, soft=bool(args.soft_targets))
    args.train_shape_file = [f"{trained}.shape"]
    args.valid_shape_file = [str(fold_dir / fold / f"{valid}.shape")]
    if args.scheduler_conf.get("max_steps") == "auto":
        args.scheduler_conf = {**args.scheduler_conf, "max_steps": count_steps(args)}
    if not args.has_valid:
        # fixed number of epochs, no model selection: only the test speaker is held out
        args.best_model_criterion = [("train", "loss", "min")]
        args.val_scheduler_criterion = ("train", "loss")
        args.patience = None
    return args


def count_steps(args: argparse.Namespace) -> int:
    """Optimizer steps of a whole training, for schedules defined relative to it."""
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
    """Train one fold, phase by phase, and record the result."""
    output_dir = Path(args.output_dir)
    for phase in phases(args):
        phase.warm_start, args.warm_start = args.warm_start, f"{phase.output_dir}/latest.pth"
        if not (is_done(phase.output_dir, settings) and Path(args.warm_start).is_file()):
            _train_phase(phase, settings, processes)
        if processes.first:
            print(f"[fold] {phase.run_label}: {summary(Path(phase.output_dir))}", flush=True)
    _train_phase(args, settings, processes)
    if processes.first and not args.keep_checkpoints:
        discard_checkpoints(output_dir)


def _train_phase(args: argparse.Namespace, settings: dict[str, Any], processes: Processes) -> None:
    """Run one training or fit in ``args.output_dir``; write its record, then the done-marker."""
    output_dir = Path(args.output_dir)
    try:
        if args.fit == GRADIENT:
            if not args.ngpu and args.frontend != "hf":  # hf sets its own policy
                keep_freed_memory()
            SERTask.main(args=args)
        else:
            fit_fold(args)
    finally:
        processes.leave()
    gc.collect()
    if not processes.first:
        return
    if args.fit == GRADIENT:
        check_end(args)
    write_record(args)
    mark_done(output_dir, settings)
