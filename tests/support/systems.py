"""The systems of conf/ as models."""

from pathlib import Path

import torch

from ser.config import encoder_confs
from ser.models.build import build_model
from ser.models.model import SERModel
from ser.training.settings import TrainingOptions, resolve
from ser.training.task import SERTask
from tests.support import ROOT
from tests.support.tiny import EMOTIONS, ENCODERS, SHORT

CONF = ROOT / "conf"
SYSTEMS = sorted(path.stem.removeprefix("train_") for path in CONF.glob("train_s*.yaml"))
BLSTM = {"rnn_type": "lstm", "bidirectional": True, "hidden_size": 4}
# What ``tiny_system`` makes smaller in encoder_conf.
TINY_CONFS = {
    "s6_raw": {"kernel2": 200, "hidden_size": 4},
    "s6_small": {"hidden_size": 4},
    "s8_parallel": {"channels": [4, 8, 8], "hidden_size": 4},
    "s9_co_attention": {"hidden_size": 4, "picture": [63, 63]},
    "s11_modular": {"channels": 8, "scale": 4, "squeeze": 4, "output_size": 8},
    "s13_graph": {"size": 8, "rnn_conf": BLSTM},
    "s15_key_segments": {"segment": 8, "depth": 18, "width": 8, "picture": [32, 32]},
    "s15_small": {"segment": 8, "width": 8, "picture": [32, 32], "hidden_size": 4},
    "s17_capsules": {"channels": 4, "last_channels": 4},
    "s18_xvector": {"depth": 18, "width": 8},
}


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


def tiny_system(name: str) -> tuple[SERModel, str]:
    """A system with random weights, its encoders of one layer; and its ``feats_type``."""
    thawed = ("--encoder_conf", "freeze=false") if name == "s15_key_segments" else ()
    args = arguments(CONF / f"train_{name}.yaml", *thawed)
    for conf in encoder_confs(args.frontend, args.frontend_conf):
        model = conf.pop("model")
        kind = next((k for k in ("whisper", "hubert") if k in model), "wav2vec2-base-like")
        model_type, config = ENCODERS[kind]
        small = {"encoder_layers": 1} if kind == "whisper" else {"num_hidden_layers": 1, **SHORT}
        conf |= {"init": "random", "model_type": model_type, "config": {**config, **small}}
        if isinstance(conf["layers"], list):
            conf |= {"layers": [0, 1], "freeze": 1}
    args.encoder_conf |= TINY_CONFS.get(name, {})
    torch.manual_seed(0)
    labels = {head: known["values"] for head, known in args.aux_labels.items()}
    model = build_model(args, ["<blank>", "S", "V"], labels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.float().eval(), args.feats_type
