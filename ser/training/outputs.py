"""Outputs of a training at the end of an epoch: models, the checkpoint, plots and logs."""

import logging
from pathlib import Path
from typing import Any

from espnet2.main_funcs.average_nbest_models import average_nbest_models
from espnet2.train.reporter import Reporter

from ser.training.checkpoint import CHECKPOINT, random_state, save
from ser.training.passes import Training


class EpochOutputs:
    """Files of ESPnet's trainer, under the same names, each written atomically.

    Args:
        directory: The fold's directory.
        options: Trainer options.
        reporter: Statistics of the epochs so far.
    """

    def __init__(self, directory: Path, options: Any, reporter: Reporter):
        self.directory, self.options, self.reporter = directory, options, reporter
        keep = options.keep_nbest_models
        self.keep = [keep] if isinstance(keep, int) else keep or [1]
        self.writers = {}
        if options.use_tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            logs = directory / "tensorboard"
            self.writers = {p: SummaryWriter(str(logs / p)) for p in ("train", "valid")}

    def write(self, training: Training) -> None:
        """Log the finished epoch, and write its files in an order that tolerates a kill.

        The model, ``<N>epoch.pth``, and the links to the latest and best ones come before
        ``checkpoint.pth``: if killed in between, the epoch is trained again and rewrites them.
        Models that are no longer among the best are removed last, when they cannot be needed
        for resuming.
        """
        self._log()
        epoch, best = self.reporter.get_epoch(), set()
        model, scaler = training.model.state_dict(), training.scaler
        save(model, self.directory / f"{epoch}epoch.pth")
        self._link("latest.pth", epoch)
        for phase, key, mode in self.options.best_model_criterion:
            if self.reporter.has(phase, key):
                order = self.reporter.sort_epochs(phase, key, mode)
                best.update(order[: max(self.keep)])
                self._link(f"{phase}.{key}.best.pth", order[0])
        state = {
            "model": model,
            "reporter": self.reporter.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in training.optimizers],
            "schedulers": [s and s.state_dict() for s in training.schedulers],
            "scaler": scaler and scaler.state_dict(),
            "random": random_state(),
        }
        save(state, self.directory / CHECKPOINT)
        for earlier in range(1, epoch):
            if earlier not in best:
                (self.directory / f"{earlier}epoch.pth").unlink(missing_ok=True)

    def close(self) -> None:
        """Average the best models, for inference."""
        for writer in self.writers.values():
            writer.close()
        average_nbest_models(
            output_dir=self.directory,
            reporter=self.reporter,
            best_model_criterion=self.options.best_model_criterion,
            nbest=self.keep,
        )

    def _log(self) -> None:
        logging.info(self.reporter.log_message())
        if self.options.use_matplotlib:
            self.reporter.matplotlib_plot(self.directory / "images")
        for phase, writer in self.writers.items():
            self.reporter.tensorboard_add_scalar(writer, key1=phase)
        if self.options.use_wandb:
            self.reporter.wandb_log()

    def _link(self, name: str, epoch: int) -> None:
        link = self.directory / name
        link.unlink(missing_ok=True)
        link.symlink_to(f"{epoch}epoch.pth")
