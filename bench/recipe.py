"""This recipe's S1 training step, built from its YAML, and the effect of single switches."""

import atexit
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.system import EMOTIONS, MODEL, UNITS, System
from bench.workload import Batch, durations, random_batches
from ser.config import load_config
from ser.models.build import build_model
from ser.models.model import SERModel
from ser.training.batches import JitteredSampler

CONFIG = Path(__file__).parent.parent / "conf/train_s1_mtl_phoneme.yaml"
UTTERANCES = 16  # per round
OFF = {  # switch -> its replacement in the YAML
    "convolutions": {"frontend_conf": {"fast": ["dropout", "attention"]}},
    "dropout": {"frontend_conf": {"fast": ["convolutions", "attention"]}},
    "attention": {"frontend_conf": {"fast": ["convolutions", "dropout"]}},
    "bfloat16": {"model_conf": {"amp_dtype": "float32"}},
    "batches by length": {"batch_type": "unsorted"},
    "length jitter": {"length_jitter": 0.0},
    "accumulation": {"batch_size": 16, "accum_grad": 1},
    "fused optimiser": {"optim_conf": {"fused": False}},
}
FROZEN = {  # frozen part, and whether its outputs are cached
    "convolutions frozen": {"frontend_conf": {"freeze": "cnn"}},
    "convolutions frozen, kept": {"frontend_conf": {"freeze": "cnn"}, "layer_cache": True},
    "encoder frozen": {"frontend_conf": {"freeze": "all"}},
    "encoder frozen, kept": {"frontend_conf": {"freeze": "all"}, "layer_cache": True},
}


def read_system(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read conf/train_s1_mtl_phoneme.yaml with ``changes``, mappings merged."""
    config = load_config(CONFIG)
    for key, value in (changes or {}).items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    return config


def make_model(config: dict[str, Any], encoder: dict[str, Any] = MODEL) -> SERModel:
    """Make the system with random weights; ``encoder`` has the differences from wav2vec2-base."""
    torch.manual_seed(0)
    own = {"model": None, "init": "random", "model_type": "wav2vec2", "config": encoder}
    args = Namespace(
        emotions=" ".join(f"e{i}" for i in range(EMOTIONS)),
        **{"encoder_conf": {}, "pooling_conf": {}, **config},
    )
    args.frontend_conf = {**args.frontend_conf, **own}
    return build_model(args, ["<blank>", *(f"u{i}" for i in range(1, UNITS))], {})


def make_optimizer(config: dict[str, Any], model: SERModel) -> torch.optim.Optimizer:
    """Make the optimiser of the YAML, since bench.gpu has no ESPnet to do so."""
    kinds = {"adam": torch.optim.Adam}
    return kinds[config["optim"]](model.parameters(), **config["optim_conf"])


def build(device: str, name: str = "", changes: dict[str, Any] | None = None) -> System:
    """Build the system of conf/train_s1_mtl_phoneme.yaml with ``changes`` and random weights."""
    config = read_system(changes)
    model = make_model(config).to(device)
    if "layer_cache" in config:
        folder = tempfile.TemporaryDirectory(prefix="ser-bench-")
        atexit.register(folder.cleanup)
        model.frontend.cache_dir = Path(folder.name)
    model.train()
    model.begin_epoch(1)
    optimizer = make_optimizer(config, model)
    accumulate = config["accum_grad"]

    def step(batch: dict[str, torch.Tensor]) -> None:
        # in training these stay on the CPU; the peers need the whole batch on the device
        on_cpu = {key: batch[key].cpu() for key in ("speech_lengths", "text", "text_lengths")}
        loss, _, _ = model(**{**batch, **on_cpu})
        (loss / accumulate).backward()

    def update() -> None:
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config["grad_clip"])
        if torch.isfinite(norm):  # training waits for it too
            optimizer.step()
        optimizer.zero_grad()

    def infer(speech: torch.Tensor, lengths: torch.Tensor) -> object:
        model.eval()
        try:
            return model.infer(speech, lengths)
        finally:
            model.train()

    by_length = config["batch_type"] == "sorted"
    epoch = (
        jittered_batches(config["batch_size"], config["length_jitter"], durations())
        if by_length
        else random_batches(durations(), config["batch_size"])
    )
    return System(
        name=f"this recipe, S1{', ' if name else ''}{name}",
        epoch=epoch,
        count=UTTERANCES // config["batch_size"],
        step=step,
        update=update,
        accumulate=accumulate,
        infer=infer,
        warm_up="layer_cache" in config,
        notes=f"{config['model_conf']['amp_dtype']}, "
        f"{'' if by_length else 'random '}batches of {config['batch_size']}"
        f"{' by length' if by_length else ''}, an update (Adam) after every "
        f"{accumulate * config['batch_size']} utterances"
        f"{', ' if name else ''}{name}",
    )


def jittered_batches(size: int, jitter: float, seconds: np.ndarray) -> list[Batch]:
    """First epoch of a training with batches of similar length."""
    lengths = {str(i): value for i, value in enumerate(seconds)}
    batches = JitteredSampler(lengths, size, jitter).generate(0)
    return [tuple(lengths[utt] for utt in batch) for batch in batches]


def build_frozen(device: str) -> System:
    """Frozen without cached outputs, since the peer with the same freezing computes them too."""
    name = "convolutions frozen"
    return build(device, name, FROZEN[name])


def build_variant(name: str) -> System:
    """Build a variant: a switch of OFF turned off, or a row of FROZEN."""
    if name in FROZEN:
        return build("cpu", name, FROZEN[name])
    return build("cpu", f"without {name}", OFF[name])
