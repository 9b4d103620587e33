"""The systems of conf/ as models."""

from pathlib import Path

import torch

from ser.models.model import SERModel
from ser.training.settings import TrainingOptions, resolve
from ser.training.task import SERTask
from tests.support import ROOT
from tests.support.tiny import EMOTIONS

CONF = ROOT / "conf"


def arguments(config: Path, *options: str):
    """The task's arguments for ``config`` with what stage 4 adds for a fold."""
    args = resolve(config, TrainingOptions(extra_args=options))
    args.emotions = " ".join(EMOTIONS)
    args.aux_labels = {
        name: {"values": [3.0, 1.0] if head["type"] == "value" else ["f", "m"]}
        for name, head in args.aux_conf.items()
    }
    return args


def system(name: str, *options: str) -> SERModel:
    torch.manual_seed(0)
    return SERTask.build_model(arguments(CONF / f"train_{name}.yaml", *options))
