"""Checkpoints: whole or absent, complete enough that nobody can tell where a training was cut.

ESPnet writes ``checkpoint.pth`` at the end of an epoch and seeds every epoch by its number. Added
here: writing it while the next epoch trains; checkpoints *within* an epoch, ``<N>epoch.step.pth``,
written when the process is asked to stop and every few minutes; and the state of the random number
generators.
"""

import logging
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.train.reporter import Reporter, SubReporter
from torch.utils._pytree import tree_map_only

from ser.cluster import preemption
from ser.files import atomic_write

CHECKPOINT = "checkpoint.pth"
WRITING = 0.1  # share of the time at most that goes into writing them in the background


def random_state() -> dict[str, Any]:
    """The state of every random number generator of this process: Python, NumPy, torch, CUDA."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),  # without arrays torch.load needs no pickle for it
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what ``random_state`` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_initialized() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([device.cpu() for device in state["cuda"]])


class EpochFiles:
    """ESPnet's files within a ``with`` block: written whole, in order, and beside the training.

    Within the block, torch.save to a path writes a temporary file and renames it: a process
    killed meanwhile leaves no file that cannot be resumed from. ``checkpoint.pth`` gets the
    random state as well.

    In the background a thread writes copies of ``checkpoint.pth`` and ``<N>epoch.pth`` while
    training goes on; whoever reads a file, and the files of the next epoch, wait for it. No more
    than ``WRITING`` of the time goes into checkpoints: where epochs take seconds and a disk is
    slow, that of an epoch is only held, until it is replaced by the next epoch's, asked for by
    ``settle``, or the block ends. Until its checkpoint is written, an epoch can be lost to a kill,
    and is then trained again. Meanwhile ESPnet removes models that are no longer among the best. If
    the new epoch ousts one that the last checkpoint on the disk needs and does not hold itself,
    training waits: trained again, the epoch could turn out worse than the model that is gone.

    Args:
        background: False lets training wait for every file.
        criteria: ``best_model_criterion`` of the training.
        keep: How many of the best models ESPnet keeps for each criterion.
    """

    def __init__(self, background: bool, criteria: Sequence[Sequence[str]], keep: int):
        self.background, self.criteria, self.keep = background, criteria, keep
        self.pending: list[Future] = []
        self.written = 0  # the epoch of the checkpoint on the disk
        self._model: tuple[Any, Any] | None = None  # of the last checkpoint, and its copy
        self._held: tuple[Any, Path] | None = None
        self._next = time.monotonic()  # from when on a checkpoint is written again

    def __enter__(self) -> "EpochFiles":
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.torch_save, self.torch_load = torch.save, torch.load
        torch.save, torch.load = self.save, self.load
        return self

    def __exit__(self, *_) -> None:
        torch.save, torch.load = self.torch_save, self.torch_load
        self.thread.shutdown()
        self.settle()

    def save(self, obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        """In place of torch.save."""
        if not isinstance(f, str | Path):
            self.torch_save(obj, f, *args, **kwargs)
            return
        path = Path(f)
        if path.name == CHECKPOINT and isinstance(obj, dict):
            self.wait()
            obj = {**obj, "random": random_state()}
            self._model = self._held = None
            if self.background and not displaces(
                obj["reporter"], self.criteria, self.keep, self.written
            ):
                copied = on_cpu(obj)
                self._model = obj["model"], copied["model"]
                if time.monotonic() < self._next:
                    self._held = copied, path
                else:
                    self._submit(copied, path)
                return
        elif self._model is not None and obj is self._model[0]:  # <N>epoch.pth, right after it
            self._submit(self._model[1], path)
            self._model = None
            return
        self.wait()
        self._write(obj, path, *args, **kwargs)

    def load(self, f: Any, *args: Any, **kwargs: Any) -> Any:
        """In place of torch.load."""
        self.wait()
        obj = self.torch_load(f, *args, **kwargs)
        if isinstance(f, str | Path) and Path(f).name == CHECKPOINT:
            self.written = _epoch(obj)
        return obj

    def wait(self) -> None:
        """Until everything is written; raises what kept it from being."""
        while self.pending:
            self.pending.pop(0).result()

    def settle(self) -> None:
        """Until everything is written, a checkpoint that was only held too."""
        self.wait()
        if self._held is not None:
            held, self._held = self._held, None
            self._write(*held)

    def _submit(self, obj: Any, path: Path) -> None:
        self.pending.append(self.thread.submit(self._write, obj, path))

    def _write(self, obj: Any, path: Path, *args: Any, **kwargs: Any) -> None:
        begin = time.monotonic()
        with atomic_write(path, "wb") as stream:
            try:
                self.torch_save(obj, stream, *args, **kwargs)
            except RuntimeError as err:
                if isinstance(err.__context__, OSError):  # which torch stumbles over once more
                    raise err.__context__ from None
                raise
        if path.name == CHECKPOINT:
            self.written, ended = _epoch(obj), time.monotonic()
            self._next = ended + (ended - begin) * (1 / WRITING - 1)


def _epoch(checkpoint: Any) -> int:
    """That a checkpoint is of; 0 if it is no whole one."""
    return checkpoint.get("reporter", {}).get("epoch", 0) if isinstance(checkpoint, dict) else 0


def displaces(
    state: dict[str, Any], criteria: Sequence[Sequence[str]], keep: int, written: int
) -> bool:
    """Whether a model is no longer among the best that a checkpoint needs and does not hold.

    Args:
        state: Of ESPnet's reporter at the end of an epoch.
        criteria, keep: As in EpochFiles.
        written: The epoch of the checkpoint, 0 if there is none.
    """
    reporter = Reporter()
    reporter.load_state_dict(state)
    for phase, key, mode in criteria:
        if reporter.has(phase, key):
            order = reporter.sort_epochs(phase, key, mode)
            needed = [epoch for epoch in order if epoch <= written][:keep]
            if set(needed) - set(order[:keep]) - {written}:
                return True
    return False


def on_cpu(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A copy that training does not change any more, its tensors in main memory."""
    copied = tree_map_only(torch.Tensor, lambda t: t.detach().to("cpu", copy=True), checkpoint)
    copied["model"]._metadata = checkpoint["model"]._metadata  # the modules' versions
    return copied


class StepCheckpoints:
    """Checkpoints within an epoch of one training, and the way back to where they were written.

    A checkpoint holds the model, optimizers, schedulers, gradient scaler, the statistics of the
    epoch so far, and for every process of the training its random state and its confusion counts.

    Args:
        directory: The fold's directory.
        model: Not wrapped for distributed training; has the confusion ``counts`` of the epoch.
        optimizers, schedulers: As ESPnet's trainer has them; a scheduler may be None.
        accum_grad: Batches of one step: within a step the gradients would be lost.
        seconds: Between two checkpoints of a training that nobody asks to stop.
        distributed: Whether torch.distributed is initialised; then all processes call the same
            methods at the same batches.
        device: Of the model.
        settle: Waits until the files of the epoch before are written, without which a checkpoint
            within the next epoch is of no use.
    """

    def __init__(
        self,
        directory: Path,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        schedulers: Sequence[Any],
        accum_grad: int,
        seconds: float,
        distributed: bool = False,
        device: str = "cpu",
        settle: Callable[[], None] = lambda: None,
    ):
        self.directory, self.model, self.settle = directory, model, settle
        self.optimizers, self.schedulers = optimizers, schedulers
        self.accum_grad, self.seconds = accum_grad, seconds
        self.distributed, self.device = distributed, device
        self.rank = torch.distributed.get_rank() if distributed else 0
        self.world_size = torch.distributed.get_world_size() if distributed else 1
        self.last = time.monotonic()

    def begin(self, reporter: SubReporter, scaler: Any) -> dict[str, Any] | None:
        """Start an epoch's training; where to go on, or None at its beginning.

        Everything but the random numbers is put back; those, ``random``, are for
        ``set_random_state`` once the data loader has drawn its own. ``batches`` says how many
        batches to leave out, ``trained`` that there is none left, only the validation.

        Raises:
            Stopped: there is nothing new to keep since the checkpoint of the last epoch.
        """
        asked, _ = self._agree(due=False)
        if asked:
            self.settle()
            if self.distributed:  # srun ends all processes as soon as one of them has stopped
                torch.distributed.barrier()
            raise preemption.Stopped(signal.Signals(asked))
        self.epoch, self.reporter, self.scaler = reporter.get_epoch(), reporter, scaler
        self.last = time.monotonic()
        state = self._load(self._path(self.epoch))
        if self.distributed:
            torch.distributed.barrier()  # before anybody removes what another still reads
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
        """Call it when ``batches`` batches of the epoch are done: checkpoints if it is time to.

        Raises:
            Stopped: this process, or another of the same training, has been asked to stop.
        """
        if batches % self.accum_grad == 0:
            self._act(batches, trained=False)

    def after_training(self, batches: int) -> None:
        """Like after_batch, for the time between an epoch's training and its checkpoint."""
        self._act(batches, trained=True)

    def remove(self, keep: int = 0) -> None:
        """Delete the checkpoints within epochs, except that of epoch ``keep``."""
        stale = set(self.directory.glob("*epoch.step.pth")) - {self._path(keep)}
        if stale:
            self.settle()
        for path in stale:
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
        """One decision for all processes: the signal (or 0) of any, the clock of the first."""
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
        self.settle()
        state = {
            "batches": batches,
            "trained": trained,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [s.state_dict() if s is not None else None for s in self.schedulers],
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "reporter": {
                "stats": dict(self.reporter.stats),
                "count": self.reporter.count,
                "total_count": self.reporter.total_count,
                "seconds": time.perf_counter() - self.reporter.start_time,
            },
            "ranks": ranks,
        }
        path = self._path(self.epoch)
        with atomic_write(path, "wb") as stream:
            torch.save(state, stream)
        logging.info(f"Checkpoint after batch {batches} of epoch {self.epoch}: {path}")

    def _load(self, path: Path) -> dict[str, Any] | None:
        """The state in ``path``; None if there is none that fits."""
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
