"""Atomic checkpoints, from which training resumes as if it had not been interrupted.

As in ESPnet, training writes ``checkpoint.pth`` at the end of an epoch and seeds every epoch by its
number. Added here: checkpoints *within* an epoch, ``<N>epoch.step.pth``, written when the process
is asked to stop and every few minutes; and the state of the random number generators.
"""

import logging
import random
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ser.cluster import preemption
from ser.errors import UserError
from ser.files import atomic_write

CHECKPOINT = "checkpoint.pth"
ESPNET_KEYS = ("model", "reporter", "optimizers", "schedulers", "scaler")


def random_state() -> dict[str, Any]:
    """State of this process's random number generators: Python, NumPy, torch, CUDA."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),  # without arrays torch.load needs no pickle for it
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the state that ``random_state`` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_initialized() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([device.cpu() for device in state["cuda"]])


def save(obj: Any, path: Path) -> None:
    """Write ``obj`` with torch.save, atomically.

    Raises:
        OSError: the file cannot be written; an existing one is left unchanged.
    """
    with atomic_write(path, "wb") as stream:
        try:
            torch.save(obj, stream)
        except RuntimeError as err:
            if isinstance(err.__context__, OSError):  # torch raises its own error on top
                raise err.__context__ from None
            raise


def read_checkpoint(path: Path, **options: Any) -> dict[str, Any]:
    """Read the checkpoint.pth at ``path``.

    Args:
        options: Options of torch.load.

    Raises:
        UserError: the file is damaged.
    """
    try:
        state = torch.load(path, weights_only=False, **options)
        return {key: state[key] for key in (*ESPNET_KEYS, "random")}
    except OSError:
        raise
    except Exception as err:  # damaged bytes make the unpickler fail in any way
        raise UserError(
            f"{path}: cannot be read ({type(err).__name__}); remove {path.parent} and run "
            "stage 4 again to train this fold anew"
        ) from err


class StepCheckpoints:
    """Checkpoints within an epoch of one training, and resuming from them.

    A checkpoint holds the model, optimizers, schedulers, gradient scaler, the statistics of the
    epoch so far, and the random state and confusion counts of every process of the training.

    Args:
        directory: The fold's directory.
        model: Not wrapped for distributed training; has the confusion ``counts`` of the epoch.
        optimizers, schedulers: As in ESPnet's trainer; a scheduler may be None.
        options: Trainer options: ``accum_grad``, since gradients within an accumulation group
            would be lost, and ``checkpoint_seconds``, the interval between checkpoints.

    If torch.distributed is initialised, all processes call the same methods at the same batches.
    """

    def __init__(
        self,
        directory: Path,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        schedulers: Sequence[Any],
        options: Any,
    ):
        self.directory, self.model = directory, model
        self.optimizers, self.schedulers = optimizers, schedulers
        self.accum_grad, self.seconds = options.accum_grad, options.checkpoint_seconds
        self.device = "cuda" if options.ngpu > 0 else "cpu"
        self.distributed = distributed = torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if distributed else 0
        self.world_size = torch.distributed.get_world_size() if distributed else 1
        self.last = time.monotonic()

    def begin(self, statistics: Any, scaler: Any) -> dict[str, Any] | None:
        """Start training an epoch; return where to resume, or None to start from its beginning.

        ``statistics`` are those of the pass (training/passes.py).

        Everything but the random state is restored; pass ``random`` to ``set_random_state`` after
        the data loader has drawn its own numbers. ``batches`` is the number of batches to skip;
        ``trained`` means that only validation is left.

        Raises:
            Stopped: asked to stop, with nothing new since the checkpoint of the last epoch.
        """
        asked, _ = self._agree(due=False)
        if asked:
            if self.distributed:  # srun ends all processes as soon as one of them has stopped
                torch.distributed.barrier()
            raise preemption.Stopped(signal.Signals(asked))
        reporter = statistics.reporter
        self.epoch, self.statistics, self.scaler = reporter.get_epoch(), statistics, scaler
        self.last = time.monotonic()
        state = self._load(self._path(self.epoch))
        if self.distributed:
            torch.distributed.barrier()  # nobody removes what another process still reads
        if self.rank == 0:
            self.remove(keep=self.epoch)
        if state is None:
            return None
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for scheduler, saved in zip(self.schedulers, state["schedulers"], strict=True):
            if scheduler is not None:
                scheduler.load_state_dict(saved)
        if scaler is not None:
            scaler.load_state_dict(state["scaler"])
        reporter.stats = defaultdict(list, state["reporter"]["stats"])
        reporter.count = state["reporter"]["count"]
        reporter.total_count = state["reporter"]["total_count"]
        reporter.start_time = time.perf_counter() - state["reporter"]["seconds"]
        mine = state["ranks"][self.rank]
        self.model.counts.copy_(mine["counts"])
        logging.info(f"Going on after batch {state['batches']} of epoch {self.epoch}")
        return {"random": mine["random"], **{key: state[key] for key in ("batches", "trained")}}

    def after_batch(self, batches: int) -> None:
        """Write a checkpoint if due; call it after ``batches`` batches of the epoch.

        Raises:
            Stopped: this process, or another of the same training, has been asked to stop.
        """
        if batches % self.accum_grad == 0:
            self._act(batches, trained=False)

    def after_training(self, batches: int) -> None:
        """Like ``after_batch``, between the end of an epoch's training and its checkpoint."""
        self._act(batches, trained=True)

    def remove(self, keep: int = 0) -> None:
        """Delete checkpoints within epochs, except for epoch ``keep``."""
        for path in set(self.directory.glob("*epoch.step.pth")) - {self._path(keep)}:
            path.unlink(missing_ok=True)

    def _path(self, epoch: int) -> Path:
        return self.directory / f"{epoch}epoch.step.pth"

    def _act(self, batches: int, trained: bool) -> None:
        asked, due = self._agree(not trained and time.monotonic() - self.last >= self.seconds)
        if asked or due:
            self._save(batches, trained)
            if self.distributed:  # srun ends all processes as soon as one of them has stopped
                torch.distributed.barrier()
            self.last = time.monotonic()
        if asked:
            raise preemption.Stopped(signal.Signals(asked))

    def _agree(self, due: bool) -> tuple[int, bool]:
        """Agree across processes: the signal (or 0) of any, and the clock of the first."""
        asked = int(preemption.requested() or 0)
        if self.distributed:
            flags = torch.tensor([asked, int(due and self.rank == 0)], device=self.device)
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
            asked, due = flags.tolist()
        return asked, bool(due)

    def _save(self, batches: int, trained: bool) -> None:
        ranks = [{"random": random_state(), "counts": self.model.counts.cpu()}]
        if self.distributed:
            (mine,) = ranks
            ranks = [None] * self.world_size
            torch.distributed.all_gather_object(ranks, mine)
        if self.rank != 0:
            return
        reporter = self.statistics.flush()
        state = {
            "batches": batches,
            "trained": trained,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [s and s.state_dict() for s in self.schedulers],
            "scaler": self.scaler and self.scaler.state_dict(),
            "reporter": {
                "stats": dict(reporter.stats),
                "count": reporter.count,
                "total_count": reporter.total_count,
                "seconds": time.perf_counter() - reporter.start_time,
            },
            "ranks": ranks,
        }
        path = self._path(self.epoch)
        save(state, path)
        logging.info(f"Checkpoint after batch {batches} of epoch {self.epoch}: {path}")

    def _load(self, path: Path) -> dict[str, Any] | None:
        """Load the state in ``path``; None if there is no usable one."""
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=False)
            ranks = state["ranks"]
        except Exception as err:  # damaged bytes make the unpickler fail in any way
            logging.warning(f"{path}: cannot be read ({err}); going on from the epoch before")
            return None
        if len(ranks) != self.world_size:
            logging.warning(
                f"{path}: written by {len(ranks)} processes, this training has "
                f"{self.world_size}; going on from the epoch before"
            )
            return None
        return state
