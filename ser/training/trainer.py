"""ESPnet's Trainer with this recipe's additions.

Added: WA and UA over the whole epoch, fusion weights, a history that outlives the process,
progress lines, a last optimizer step for an incomplete accumulation group, fixed-epoch training
without a validation set, and checkpoints within an epoch (ser/training/checkpoint.py).
"""

import ser.training.espnet_import  # noqa: F401, I001 (has to come first)

import argparse
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from espnet2.schedulers.abs_scheduler import AbsEpochStepScheduler, AbsValEpochStepScheduler
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from espnet2.train.reporter import Reporter, SubReporter, aggregate, to_reported_value
from espnet2.train.trainer import Trainer, TrainerOptions
from espnet2.utils.build_dataclass import build_dataclass
from espnet2.utils.types import str2bool, str_or_none
from torch.amp import GradScaler
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from ser.cluster import preemption
from ser.training.checkpoint import CHECKPOINT, StepCheckpoints, read_checkpoint, set_random_state
from ser.training.outputs import EpochOutputs
from ser.training.passes import Batches, Statistics, Training, train_pass, valid_pass
from ser.console import progress
from ser.files import atomic_write
from ser.models.concordance import MOMENTS, concordance
from ser.models.ssl import HFFrontend
from ser.training.experiment import HISTORY
from ser.training.heads_first import warm_start
from ser.models.model import SERModel
from ser.lang.units import tag_stripper

PARAMETERS = "parameters.json"


@dataclass
class SERTrainerOptions(TrainerOptions):
    """ESPnet's options and this trainer's own."""

    has_valid: bool = True
    run_label: str = ""
    checkpoint_seconds: float = 600.0
    layer_cache: str | None = None
    warm_start: str | None = None
    token_type: str = ""


class SERTrainer(Trainer):
    """Trainer of SERModel; like its parent, a collection of class methods, never instantiated."""

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--has_valid",
            type=str2bool,
            default=True,
            help="False trains a fixed number of epochs and never looks at the validation set",
        )
        parser.add_argument(
            "--run_label", type=str, default="", help="What progress lines call this training"
        )
        parser.add_argument(
            "--checkpoint_seconds",
            type=float,
            default=600.0,
            help="Between two checkpoints within an epoch; what a killed process loses at most",
        )
        parser.add_argument(
            "--keep_checkpoints",
            type=str2bool,
            default=False,
            help="Keep a finished fold's checkpoint.pth and all models that inference does not use",
        )
        parser.add_argument(
            "--warm_start",
            type=str_or_none,
            help="Weights to begin with, of the phase before (heads_first.py); set by stage 4",
        )
        parser.add_argument(
            "--layer_cache",
            type=str_or_none,
            default="auto",
            help="Folder for the outputs of a frozen encoder, or of its frozen convolutions, which "
            "are then computed once for all epochs and folds; auto: dump/<corpus>/layers, none: "
            "compute them every time",
        )

    @classmethod
    def build_options(cls, args: argparse.Namespace) -> "SERTrainerOptions":
        return build_dataclass(SERTrainerOptions, args)

    @classmethod
    def run(
        cls, model, optimizers, schedulers, train_iter_factory, valid_iter_factory,
        plot_attention_iter_factory, trainer_options, distributed_option,
    ) -> None:  # fmt: skip
        """Train to ``max_epoch``, resuming from a checkpoint in the output directory if any.

        It replaces ESPnet's method, whose files a kill could leave half written. FairScale,
        attention plots and uploading models to Weights & Biases are left out.

        Raises:
            Stopped: on a signal, after writing a checkpoint.
        """
        options, reporter = trainer_options, Reporter()
        directory, distributed = Path(options.output_dir), distributed_option.distributed
        first = not distributed or distributed_option.dist_rank == 0
        scaler = GradScaler("cuda") if options.use_amp else None
        _prepare(model, options, first)
        options.steps = StepCheckpoints(directory, model, optimizers, schedulers, options)
        if options.resume and (directory / CHECKPOINT).exists():
            cls.resume(
                directory / CHECKPOINT, model=model, optimizers=optimizers, schedulers=schedulers,
                scaler=scaler, reporter=reporter, ngpu=options.ngpu,
            )  # fmt: skip
        outputs = EpochOutputs(directory, options, reporter) if first else None
        training = Training(
            model,
            _distributed(model, options) if distributed else model,
            list(optimizers),
            list(schedulers),
            scaler,
            options,
            distributed,
            outputs and outputs.writers.get("train"),
        )
        with preemption.listening():
            for epoch in range(reporter.get_epoch() + 1, options.max_epoch + 1):
                logging.info(f"{epoch}/{options.max_epoch}epoch started")
                set_all_random_seed(options.seed + epoch)
                reporter.set_epoch(epoch)
                torch.cuda.empty_cache()
                with reporter.observe("train") as observed:
                    batches = train_iter_factory.build_iter(epoch)
                    invalid = cls.train_one_epoch(training, batches, observed)
                torch.cuda.empty_cache()
                with reporter.observe("valid") as observed:
                    batches = valid_iter_factory.build_iter(epoch)
                    cls.validate_one_epoch(training, batches, observed)
                _end_epoch(schedulers, reporter, options)
                if outputs is not None:
                    outputs.write(training)
                if invalid or _stops_early(reporter, options):
                    break
        if outputs is not None:
            outputs.close()
            options.steps.remove()

    @classmethod
    def resume(cls, checkpoint, *, optimizers, **kwargs) -> None:
        """Load ``checkpoint.pth`` including its random state (ESPnet reseeds every epoch).

        Raises:
            UserError: the file is damaged.
        """
        # memory-mapped, since only the random state is read a second time
        state = read_checkpoint(checkpoint, map_location="cpu", mmap=True)
        super().resume(checkpoint, optimizers=optimizers, **kwargs)
        for optimizer in optimizers:
            place_step_counts(optimizer)
        set_random_state(state["random"])

    @classmethod
    def train_one_epoch(cls, training: Training, iterator, reporter: SubReporter) -> bool:
        """Train on the (rest of the) training set; return True if no step was valid."""
        epoch, options, model = reporter.get_epoch(), training.options, training.model
        model.begin_epoch(epoch)
        batches = Batches(iterator, f"{options.run_label} epoch {epoch}/{options.max_epoch}")
        statistics = Statistics(reporter)
        state = options.steps.begin(statistics, training.scaler)
        if state is not None:
            batches.skip(state["batches"], state["random"])
        if state is None or not state["trained"]:
            batches.after_each = options.steps.after_batch
            train_pass(training, batches, statistics)
            _announce("train", _finish(training, reporter), reporter, options)
        options.served = batches.served
        norms = reporter.stats.get("grad_norm", ())  # including steps before a restart
        return not any(math.isfinite(norm.value) for norm in norms)

    @classmethod
    def validate_one_epoch(cls, training: Training, iterator, reporter: SubReporter) -> None:
        """Validate one epoch; does nothing if the protocol has no validation set."""
        options = training.options
        if not options.has_valid:
            return
        training.model.counts.zero_()
        batches = Batches(iterator, f"{options.run_label} epoch {reporter.get_epoch()} valid")
        batches.after_each = lambda _: options.steps.after_training(options.served)
        valid_pass(training, batches, Statistics(reporter))
        _announce("valid", _finish(training, reporter), reporter, options)


def _announce(phase: str, stats: dict[str, float], reporter: SubReporter, options) -> None:
    progress(
        f"{options.run_label} epoch {reporter.get_epoch()}/{options.max_epoch} {phase} "
        f"loss {stats['loss']:.3f} WA {stats['WA']:.1%} UA {stats['UA']:.1%}"
    )


def _prepare(model: SERModel, options: SERTrainerOptions, first: bool) -> None:
    """Set up the model for the first epoch of this process, and record its size."""
    for module in model.modules() if options.layer_cache else ():
        if isinstance(module, HFFrontend):
            module.cache_dir = Path(options.layer_cache)
    if options.warm_start:
        state = torch.load(options.warm_start, map_location="cpu", weights_only=True)
        warm_start(model, state, tag_stripper(options.token_type))
    model.begin_epoch(options.max_epoch)  # everything that is ever trained
    if first:
        with atomic_write(Path(options.output_dir) / PARAMETERS) as stream:
            json.dump(count_parameters(model), stream)


def _distributed(model: SERModel, options: SERTrainerOptions) -> torch.nn.Module:
    """Wrap ``model`` for distributed training."""
    wrapped = torch.nn.parallel.DistributedDataParallel(
        model,  # without device_ids, which would move lengths to the device as well
        # DDP must see all parameters that will ever be trained when it is created, and know that
        # not all of them take part in every step.
        find_unused_parameters=True,
        gradient_as_bucket_view=options.gradient_as_bucket_view,
    )
    if options.ddp_comm_hook is not None:
        hook = getattr(default_hooks, f"{options.ddp_comm_hook}_compress_hook")
        wrapped.register_comm_hook(None, hook)
    return wrapped


def _end_epoch(schedulers, reporter: Reporter, options: SERTrainerOptions) -> None:
    """Step the epoch-based schedulers."""
    for scheduler in schedulers:
        if isinstance(scheduler, AbsValEpochStepScheduler):
            scheduler.step(reporter.get_value(*options.val_scheduler_criterion))
        elif isinstance(scheduler, AbsEpochStepScheduler):
            scheduler.step()


def _stops_early(reporter: Reporter, options: SERTrainerOptions) -> bool:
    criterion = options.early_stopping_criterion
    return options.patience is not None and reporter.check_early_stopping(
        options.patience, *criterion
    )


def place_step_counts(optimizer: torch.optim.Optimizer) -> None:
    """Move Adam's step counts to the device that they are on without resuming.

    Unless the optimizer is fused, this is the CPU. ESPnet loads them to the GPU, which would
    synchronise at every step, once for each parameter.
    """
    for group in optimizer.param_groups:
        if group.get("fused") or group.get("capturable"):
            continue
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].cpu()


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Count a model's parameters: in ``total``, and those currently ``trained``."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"total": sum(n for n, _ in sizes), "trained": sum(n for n, grad in sizes if grad)}


def wa_ua(counts: torch.Tensor) -> tuple[float, float]:
    """Weighted and unweighted accuracy of counts[reference, hypothesis] (C, C).

    WA is the share of correct decisions (eq. 9 for one fold), UA the mean recall over the
    classes that occur in the reference (eq. 10 for one fold).
    """
    counts = counts.double()
    support = counts.sum(dim=1)
    recall = counts.diagonal()[support > 0] / support[support > 0]
    return (counts.diagonal().sum() / counts.sum()).item(), recall.mean().item()


def _finish(training: Training, reporter: SubReporter) -> dict[str, float]:
    """Add statistics of the whole epoch to the reporter and the history.

    WA, UA, accuracies of label heads and CCC of value heads over known values, fusion weights.
    """
    model = training.model
    counts = model.counts.clone()
    if training.distributed:
        torch.distributed.all_reduce(counts)
    if counts.sum() > 0:
        wa, ua = wa_ua(counts)
        epoch_stats = {"WA": wa, "UA": ua}
    else:
        epoch_stats = {"WA": float("nan"), "UA": float("nan")}
    for i, weight in enumerate(model.layer_weights()):
        epoch_stats[f"layer_weight_{i}"] = weight
    for name in model.aux_labels:
        shares = [reporter.stats.get(f"{key}_{name}") for key in ("correct", "skipped")]
        correct, skipped = (float(aggregate(share)) if share else 1.0 for share in shares)
        if skipped < 1:  # no accuracy without known values, e.g. a validation speaker's name
            epoch_stats[f"accuracy_{name}"] = correct / (1 - skipped)
    for name in (n for n in model.aux_values if f"skipped_{n}" in reporter.stats):
        keys = [f"{key}_{name}" for key in (*MOMENTS, "skipped")]
        *moments, skipped = (float(aggregate(reporter.stats.pop(key))) for key in keys)
        above, below = concordance(1 - skipped, *moments) if skipped < 1 else (0.0, 0.0)
        epoch_stats[f"ccc_{name}"] = above / below if below > 0 else 0.0
        epoch_stats[f"skipped_{name}"] = skipped
    for key, value in epoch_stats.items():
        reporter.stats[key] = [to_reported_value(value)]
    stats = {key: float(aggregate(values)) for key, values in reporter.stats.items()}
    stats["seconds"] = time.perf_counter() - reporter.start_time
    if not training.distributed or torch.distributed.get_rank() == 0:
        path = Path(training.options.output_dir) / HISTORY
        _record(path, reporter.get_epoch(), reporter.key, stats)
    return stats


def _record(path: Path, epoch: int, phase: str, stats: dict[str, float]) -> None:
    """Set the entry of ``epoch`` and ``phase`` in the history and drop later epochs."""
    history = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    history = [entry for entry in history if entry["epoch"] <= epoch]
    if not history or history[-1]["epoch"] != epoch:
        history.append({"epoch": epoch})
    history[-1][phase] = {key: round(value, 6) for key, value in stats.items()}
    with atomic_write(path) as stream:
        json.dump(history, stream, indent=1)
