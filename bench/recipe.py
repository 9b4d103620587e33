"""This recipe's S1 training step, built from its YAML, and what single switches do to it."""

import atexit
import tempfile
from pathlib import Path
from typing import Any

import torch
from espnet2.tasks.abs_task import optim_classes

from bench.system import EMOTIONS, MODEL, UNITS, System
from bench.workload import Batch, durations, random_batches
from ser.config import load_config
from ser.models.encoders import IdentityEncoder
from ser.models.heads import read_heads
from ser.models.model import SERModel
from ser.models.pooling import MeanPooling
from ser.models.ssl import HFFrontend
from ser.training.batches import JitteredSampler

CONFIG = Path(__file__).parent.parent / "conf/train_s1_mtl_phoneme.yaml"
UTTERANCES = 16  # of a round
OFF = {  # switch -> what replaces it in the YAML
    "convolutions": {"frontend_conf": {"fast": ["dropout", "attention"]}},
    "dropout": {"frontend_conf": {"fast": ["convolutions", "attention"]}},
    "attention": {"frontend_conf": {"fast": ["convolutions", "dropout"]}},
    "bfloat16": {"model_conf": {"amp_dtype": "float32"}},
    "batches by length": {"batch_type": "unsorted"},
    "length jitter": {"length_jitter": 0.0},
    "accumulation": {"batch_size": 16, "accum_grad": 1},
    "fused optimiser": {"optim_conf": {"fused": False}},
}
ON_CPU = {"convolutions", "dropout", "attention"}  # on a GPU frontend_conf.fast changes nothing
FROZEN = {  # what is frozen, and whether its outputs are kept
    "convolutions frozen": {"frontend_conf": {"freeze": "cnn"}},
    "convolutions frozen, kept": {"frontend_conf": {"freeze": "cnn"}, "layer_cache": True},
    "encoder frozen": {"frontend_conf": {"freeze": "all"}},
    "encoder frozen, kept": {"frontend_conf": {"freeze": "all"}, "layer_cache": True},
}


def build(device: str, name: str = "", changes: dict[str, Any] | None = None) -> System:
    """The system of conf/train_s1_mtl_phoneme.yaml with random weights, and ``changes`` to it."""
    torch.manual_seed(0)
    torch.backends.cudnn.deterministic = True  # as ESPnet sets it
    config = load_config(CONFIG)
    for key, value in (changes or {}).items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    frontend_conf = {**config["frontend_conf"], "model": None, "init": "random"}
    frontend = HFFrontend(model_type="wav2vec2", config=MODEL, **frontend_conf)
    if "layer_cache" in config:
        folder = tempfile.TemporaryDirectory(prefix="ser-bench-")
        atexit.register(folder.cleanup)
        frontend.cache_dir = Path(folder.name)
    size = frontend.output_size()
    inventory = ["<blank>", *(f"u{i}" for i in range(1, UNITS))]
    heads = read_heads(config["aux_conf"])
    model = SERModel(
        emotions=[f"e{i}" for i in range(EMOTIONS)],
        frontend=frontend,
        encoder=IdentityEncoder(size),
        pooling=MeanPooling(size),
        aux_heads={key: head.cls(size, size, inventory) for key, head in heads.items()},
        aux_weights={key: head.weight for key, head in heads.items()},
        **config["model_conf"],
    ).to(device)
    model.train()
    model.begin_epoch(1)
    optimizer = optim_classes[config["optim"]](model.parameters(), **config["optim_conf"])
    accumulate = config["accum_grad"]

    def step(batch: dict[str, torch.Tensor]) -> None:
        # in training they have never left the CPU; the peers want all of a batch on the device
        on_cpu = {key: batch[key].cpu() for key in ("speech_lengths", "text", "text_lengths")}
        loss, _, _ = model(**{**batch, **on_cpu})
        (loss / accumulate).backward()

    def update() -> None:
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config["grad_clip"])
        if torch.isfinite(norm):  # which training waits for as well
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
        jittered_batches(config["batch_size"], config["length_jitter"])
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


def jittered_batches(size: int, jitter: float) -> list[Batch]:
    """The first epoch of a training in batches of similar length."""
    seconds = {str(i): value for i, value in enumerate(durations())}
    batches = JitteredSampler(seconds, size, jitter).generate(0)
    return [tuple(seconds[utt] for utt in batch) for batch in batches]


def build_16(device: str) -> System:
    """A step in one batch, as a large GPU likes it."""
    return build(device, "batches of 16", OFF["accumulation"])


def build_frozen(device: str) -> System:
    """Without the outputs kept, as the peer that freezes the same computes them too."""
    name = "convolutions frozen"
    return build(device, name, FROZEN[name])


def build_variant(device: str, name: str) -> System:
    """A switch of OFF turned off, or a row of FROZEN."""
    if name in FROZEN:
        return build(device, name, FROZEN[name])
    return build(device, f"without {name}", OFF[name])
