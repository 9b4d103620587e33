"""Stage 4 for real in seconds: ESPnet's trainer on a few tones with a tiny encoder."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest
import torch
import yaml

from ser.data.prepare import prepare_dump
from ser.lang.prepare import prepare_lang
from ser.training import checkpoint
from ser.training.folds import Training, train_folds
from tests.support import ROOT
from tests.support.tiny import TINY, write_tone_corpus

SYSTEM = {
    "token_type": "tagged_class",
    "frontend_conf": {
        "init": "random",
        "model_type": "wav2vec2",
        "config": {**TINY, "num_hidden_layers": 1},
        "normalize": False,
    },
    "aux_conf": {"pr": {"type": "ctc", "weight": 0.1}},
    "optim": "adam",
    "optim_conf": {"lr": 1.0e-3},
    "max_epoch": 3,
    "batch_type": "sorted",
    "batch_size": 3,
    "accum_grad": 2,
    "best_model_criterion": [["valid", "UA", "max"]],
    "keep_nbest_models": [1],
    "num_workers": 0,
    "use_matplotlib": False,
    "keep_checkpoints": True,  # tests compare what every epoch leaves
}


def forked_processes() -> BaseContext:
    """Processes that start within moments, since they are forked from one that has ESPnet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.training"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        forkserver.ensure_running()
    return context


def make_corpus(root: Path) -> Path:
    """Stages 1 to 3 in ``root``, with the YAML of the system."""
    data = write_tone_corpus(root)
    prepare_lang(data, "tagged_class", 100)
    for protocol in ("strict", "paper"):
        prepare_dump(data, root / "dump/tones", "tagged_class", "raw", protocol, nj=1)
    (root / "system.yaml").write_text(yaml.safe_dump(SYSTEM))
    return root


def train(corpus: Path, exp_dir: Path, folds=("Ses01F",), **options) -> None:
    settings = {"protocol": "strict", **options}
    config = settings.pop("config", corpus / "system.yaml")
    train_folds(
        [Training(exp_dir, config, settings.pop("seed", 1))],
        data_dir=corpus / "data/tones",
        dump_dir=corpus / "dump/tones",
        folds=list(folds),
        **settings,
    )


def train_where_writing_takes_long(corpus: Path, exp_dir: Path, **options) -> None:
    """Like train; all checkpoints after the first are only held. For a process of its own."""
    checkpoint.WRITING = 1e-9
    train(corpus, exp_dir, **options)


def weights(fold_dir: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(fold_dir / name, weights_only=True)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def interrupted_at(corpus: Path, exp_dir: Path, moment: str, config: str = "system.yaml") -> None:
    """Train in a process of its own and kill -9 it when its log first shows ``moment``."""
    command = [sys.executable, "-m", "ser", "train", "--share=1/1"]
    command += ["--data-dir", str(corpus / "data/tones")]
    command += ["--dump-dir", str(corpus / "dump/tones"), "--exp-dir", str(exp_dir)]
    command += ["--config", str(corpus / config), "--folds", "Ses01F"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    log = exp_dir / "log/stage4.Ses01F.log"
    while process.poll() is None:
        if log.exists() and moment in log.read_text():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.005)
    raise AssertionError(f"training ended before {moment!r}")
