"""Encoders in folders, and trained models that hold adapters of one."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ser.predict.package import build_network_model
from tests.support.packable import FOLDS, UNITS, make_experiment, make_network, speakers, train_fold
from tests.support.tiny import ENCODERS

LORA = {"r": 4, "alpha": 6, "targets": ["q_proj", "v_proj"]}


def save_encoder(
    folder: Path, name: str = "wav2vec2-base-like", seed: int = 0, **changes: Any
) -> str:
    """A folder of Hugging Face with one of ``ENCODERS``, of random weights."""
    torch.manual_seed(seed)
    model_type, config = ENCODERS[name]
    config = AutoConfig.for_model(model_type, **{**config, **changes})
    made = WhisperEncoder(config) if name == "whisper" else AutoModel.from_config(config)
    made.save_pretrained(folder)
    return str(folder)


def adapted_model(fold: str, **network: Any):
    """A model of ``make_network`` whose trained parts, adapters among them, are random."""
    model = build_network_model(make_network(**network), UNITS, {"who": speakers(fold)})
    generator = torch.Generator().manual_seed(FOLDS.index(fold) + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def adapted_experiment(root: Path, encoder: str, **frontend: Any) -> Path:
    """``make_experiment`` with folds that hold adapters of the encoder in a folder."""
    conf = {"model": encoder, "freeze": 0, "lora": LORA, **frontend}
    exp_dir = make_experiment(root, frontend_conf={"model": encoder})
    for fold in FOLDS:
        weights = adapted_model(fold, frontend_conf=conf).state_dict()
        train_fold(exp_dir / fold, weights, frontend_conf=conf)
    return exp_dir
