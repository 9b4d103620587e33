"""One pass over the training or validation batches, with as few GPU synchronisations as possible.

Nothing is read back from the device while it computes: lengths and transcripts stay on the CPU, and
statistics on the device until they are logged. A fused optimizer checks on the device whether the
gradient is finite. Only for other optimizers, and if a scheduler counts actual steps, the host
waits for that result, once per update.

ESPnet is imported only where it is needed: the bench times this module without it.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ser.console import progress
from ser.models.model import SERModel, to_device
from ser.training.checkpoint import set_random_state

if TYPE_CHECKING:
    from espnet2.train.reporter import SubReporter

PROGRESS_SECONDS = 5.0  # between two lines within an epoch
FIRST_LOG, LOGS = 10, 20  # fewest batches between log lines, and log lines per epoch


@dataclass(frozen=True)
class Training:
    """The model and everything needed to train it."""

    model: SERModel
    network: torch.nn.Module  # the model, wrapped if several processes train it
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[Any]
    scaler: torch.amp.GradScaler | None
    options: Any  # trainer options
    distributed: bool
    writer: Any = None  # TensorBoard writer


class Statistics:
    """Statistics of a pass, fetched from the device for many batches at once.

    Args:
        reporter: ESPnet reporter, to which they are handed.
    """

    def __init__(self, reporter: "SubReporter"):
        self.reporter = reporter
        self._batches: list[list[tuple[dict[str, Any], Any]]] = []  # not yet reported
        self._batch: list[tuple[dict[str, Any], Any]] = []

    def register(self, stats: dict[str, Any], weight: Any = None) -> None:
        """Record numbers or one-element tensors of the current batch."""
        self._batch.append((stats, weight))

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Record the seconds that the block takes."""
        start = time.perf_counter()
        yield
        self.register({name: time.perf_counter() - start})

    def next(self) -> None:
        """End the current batch."""
        self._batches.append(self._batch)
        self._batch = []

    def flush(self) -> "SubReporter":
        """Hand everything to the reporter and return it; waits for the device.

        A non-finite gradient norm is logged and left out, as its step was.
        """
        batches, self._batches = self._batches, []
        values = [
            value
            for batch in batches
            for stats, weight in batch
            for value in (*stats.values(), weight)
            if isinstance(value, torch.Tensor)
        ]
        fetched = iter(_fetch(values))

        def number(value: Any) -> Any:
            return next(fetched) if isinstance(value, torch.Tensor) else value

        for batch in batches:
            for stats, weight in batch:
                numbers = {key: number(value) for key, value in stats.items()}
                weight = number(weight)
                norm = numbers.get("grad_norm", 0.0)
                if math.isfinite(norm):
                    self.reporter.register(numbers, weight)
                else:
                    logging.warning(f"The grad norm is {norm}. The model was not updated.")
            self.reporter.next()
        return self.reporter


def _fetch(values: list[torch.Tensor]) -> list[float]:
    """Values of one-element tensors, copied from a device in one transfer."""
    if not values:
        return []
    return torch.stack([value.detach().reshape(()).double() for value in values]).tolist()


def train_pass(training: Training, batches: "Batches", statistics: Statistics) -> None:
    """Train on ``batches``; an incomplete last gradient accumulation group makes its own step.

    ESPnet would carry its gradient over to the next epoch, where a resumed run no longer has it.
    """
    options = training.options
    interval = options.log_interval or max(len(batches) // LOGS, FIRST_LOG)
    training.network.train()
    begun = waited = time.perf_counter()
    for batch in batches:
        statistics.register({"iter_time": time.perf_counter() - waited})
        with statistics.measure("forward_time"):
            loss, stats, weight = _forward(training, batch)
        statistics.register(stats, weight)
        with statistics.measure("backward_time"):
            loss = loss / options.accum_grad
            (loss if training.scaler is None else training.scaler.scale(loss)).backward()
        if batches.served % options.accum_grad == 0 or batches.served == len(batches):
            _update(training, statistics)
            now = time.perf_counter()
            statistics.register({**_learning_rates(training), "train_time": now - begun})
            begun = now
        statistics.next()
        if batches.served % interval == 0:
            reporter = statistics.flush()
            logging.info(reporter.log_message(-interval))
            if training.writer is not None:
                reporter.tensorboard_add_scalar(training.writer, -interval)
            if options.use_wandb:
                reporter.wandb_log()
        waited = time.perf_counter()
    statistics.flush()


def _learning_rates(training: Training) -> dict[str, float]:
    return {
        f"optim{i}_lr{j}": group["lr"]
        for i, optimizer in enumerate(training.optimizers)
        for j, group in enumerate(optimizer.param_groups)
        if "lr" in group
    }


@torch.no_grad()
def valid_pass(training: Training, batches: "Batches", statistics: Statistics) -> None:
    """Compute the losses on ``batches``."""
    training.network.eval()
    for batch in batches:
        _, stats, weight = _forward(training, batch)
        statistics.register(stats, weight)
        statistics.next()
    statistics.flush()


def _forward(training: Training, batch: dict[str, Any]) -> tuple[torch.Tensor, dict, torch.Tensor]:
    """Loss (1,), statistics and weight of a batch, averaged over all processes if several train.

    DistributedDataParallel divides gradients by the number of processes, so the loss is multiplied
    by it.
    """
    batch = to_device(batch, training.model)
    bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    dtype = torch.bfloat16 if bfloat16 else torch.float16
    with torch.autocast("cuda", dtype, enabled=training.scaler is not None):
        loss, stats, weight = training.network(**batch)
        if not training.distributed:
            return loss, stats, weight
        total = weight.clone()
        torch.distributed.all_reduce(total)
        values = torch.stack(list(stats.values())) * weight
        torch.distributed.all_reduce(values)
        stats = dict(zip(stats, (values / total).unbind(), strict=True))
        share = (loss * weight).sum() / total
        return share * torch.distributed.get_world_size(), stats, total


def _update(training: Training, statistics: Statistics) -> None:
    """One step of the optimizers, unless the gradient is not finite."""
    options, scaler = training.options, training.scaler
    if scaler is not None:
        for optimizer in training.optimizers:
            scaler.unscale_(optimizer)
    if options.grad_noise:
        from espnet2.torch_utils.add_gradient_noise import add_gradient_noise

        count = statistics.reporter.get_total_count()
        add_gradient_noise(training.model, count, duration=100, eta=1.0, scale_factor=0.55)
    norm = torch.nn.utils.clip_grad_norm_(
        training.model.parameters(), options.grad_clip, options.grad_clip_type
    )
    scale = 1.0 if scaler is None else scaler.get_scale()
    clipped = 100.0 * (norm > options.grad_clip)
    statistics.register({"grad_norm": norm, "clip": clipped, "loss_scale": scale})
    by_batch = [_steps_by_batch(scheduler) for scheduler in training.schedulers]
    with statistics.measure("optim_step_time"):
        if scaler is None and not any(by_batch) and all(map(_is_fused, training.optimizers)):
            for optimizer in training.optimizers:
                optimizer.found_inf = (~torch.isfinite(norm)).float()  # skips the step if True
                optimizer.step()
        elif torch.isfinite(norm):  # waits for the device
            for optimizer in training.optimizers:
                optimizer.step() if scaler is None else scaler.step(optimizer)
            for scheduler, steps in zip(training.schedulers, by_batch, strict=True):
                if steps:
                    scheduler.step()
    if scaler is not None:
        scaler.update()
    for optimizer in training.optimizers:
        optimizer.zero_grad()


def _is_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its step honours ``found_inf``, as set by torch's GradScaler."""
    return all(group.get("fused") for group in optimizer.param_groups)


def _steps_by_batch(scheduler: Any) -> bool:
    if scheduler is None:
        return False
    from espnet2.schedulers.abs_scheduler import AbsBatchStepScheduler

    return isinstance(scheduler, AbsBatchStepScheduler)


class Batches:
    """Batches of an epoch, with progress lines; can start in the middle."""

    def __init__(self, batches, label: str):
        self.batches, self.label, self.served, self.total = batches, label, 0, len(batches)
        self.random_state: dict[str, Any] | None = None
        self.after_each: Callable[[int], None] = lambda served: None

    def __len__(self) -> int:
        """Number of batches in the whole epoch."""
        return self.total

    def skip(self, count: int, random_state: dict[str, Any]) -> None:
        """Skip the first ``count`` batches, and resume with ``random_state``."""
        self.served, self.random_state = count, random_state

    def __iter__(self):
        last = time.monotonic()
        skipped = self.served
        if isinstance(getattr(self.batches, "batch_sampler", None), list):
            del self.batches.batch_sampler[:skipped]  # this epoch's own list; nothing is loaded
            skipped = 0
        batches = (batch for _, batch in itertools.islice(iter(self.batches), skipped, None))
        if self.random_state is not None:  # only now: a DataLoader draws from torch's generator
            set_random_state(self.random_state)
        for batch in batches:
            self.served += 1
            yield batch
            self.after_each(self.served)
            if time.monotonic() - last > PROGRESS_SECONDS:
                last = time.monotonic()
                progress(f"{self.label} batch {self.served}/{self.total}")
