"""Stage 4 for real in seconds: ESPnet's trainer on a few tones with a tiny encoder."""

import json
import multiprocessing
import time
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ser.data.prepare import prepare_dump
from ser.lang.prepare import prepare_lang
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
    write_system(root / "system.yaml")
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


def write_system(path: Path, **changes: Any) -> Path:
    """Write the YAML of SYSTEM with ``changes``; its path."""
    path.write_text(yaml.safe_dump({**SYSTEM, **changes}))
    return path


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def weights(fold_dir: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(fold_dir / name, weights_only=True)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def interrupted_at(
    processes: BaseContext, corpus: Path, exp_dir: Path, moment: str, config: str = "system.yaml"
) -> None:
    """Train in a process of its own and kill -9 it when its log first shows ``moment``."""
    options = {"config": corpus / config}
    process = processes.Process(target=train, args=(corpus, exp_dir), kwargs=options)
    process.start()
    log = exp_dir / "log/stage4.Ses01F.log"
    while process.is_alive():
        if log.exists() and moment in log.read_text():
            process.kill()
            process.join()
            return
        time.sleep(0.002)
    raise AssertionError(f"training ended before {moment!r}")
