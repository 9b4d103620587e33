"""Load Hugging Face speech encoders from the hub or a folder, or build them untrained."""

import ser.models.transformers_import  # noqa: F401, I001 (has to come first)

import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from ser.config import encoder_confs
from ser.errors import UserError
from ser.models.registry import check_folder, from_recipe

# convolutions over samples, a projection, a transformer: wav2vec 2.0 and its relatives
WAV2VEC2_FAMILY = ("wav2vec2", "hubert", "wavlm", "data2vec-audio")  # XLS-R is a wav2vec2
# Masking and LayerDrop of pre-training.
OFF = {"apply_spec_augment": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0}
# Weights that only pre-training uses; they may be missing from a checkpoint.
UNUSED_WEIGHTS = ("masked_spec_embed",)
# Keys of a model's configuration that do not describe its architecture.
NOT_ARCHITECTURE = (
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "model_type",
    "transformers_version",
)

transformers_logging.disable_progress_bar()


def wants_normalized(model: str | None) -> bool:
    """``do_normalize`` of the model's preprocessor_config.json; True without one."""
    if model is None:
        return True
    try:
        path = cached_file(model, "preprocessor_config.json")
    except OSError:
        return True
    return json.loads(Path(path).read_text(encoding="utf-8")).get("do_normalize", True)


def load_encoder_config(
    model: str | None, init: str, model_type: str | None, overrides: dict[str, Any]
) -> PretrainedConfig:
    if model is None:
        if init != "random" or model_type is None:
            raise UserError(
                "frontend_conf.model: not given; name a hub id or a folder (or --ssl on run.sh), "
                "or set init: random and model_type"
            )

        def load(**settings: Any) -> PretrainedConfig:
            return AutoConfig.for_model(model_type, **settings)
    else:
        check_folder(model)

        def load(**settings: Any) -> PretrainedConfig:
            return AutoConfig.from_pretrained(model, **settings)

    try:
        default = load()
    except (OSError, ValueError) as err:
        raise (_unsupported(model_type) if model is None else _not_found(model, err)) from err
    if default.model_type not in (*WAV2VEC2_FAMILY, "whisper"):
        raise _unsupported(default.model_type)
    for key in overrides:
        # such as _attn_implementation, which may name code on the hub
        if key.startswith("_") or not hasattr(default, key):
            raise UserError(f"frontend_conf.config: {default.model_type} has no setting {key!r}")
    settings = {key: value for key, value in OFF.items() if hasattr(default, key)}
    try:
        config = load(**{**settings, **overrides})
    except (TypeError, ValueError) as err:
        raise UserError(f"frontend_conf.config: {str(err).splitlines()[0]}") from err
    for key in ("conv_kernel", "conv_stride"):  # PyTorch would fail at the first utterance
        if min(getattr(config, key, [1]), default=1) < 1:
            raise UserError(f"frontend_conf.config: {key}: {getattr(config, key)}; 1 is the least")
    return config


def embedded_conf(
    model: str | None = None,
    init: str = "pretrained",
    model_type: str | None = None,
    config: dict[str, Any] | None = None,
    normalize: bool | str = "auto",
    **options: Any,
) -> dict[str, Any]:
    """``frontend_conf`` that builds the same encoder, untrained, without other files.

    Settings of the architecture and its input in the hub or folder of ``model`` are copied into
    ``config`` and ``normalize``. Arguments as in HFFrontend.

    Raises:
        UserError: no such model, or an unsupported architecture.
    """
    model = from_recipe(model)
    own = load_encoder_config(model, init, model_type, config or {})
    default = AutoConfig.for_model(own.model_type).to_dict()
    settings = {
        key: value
        for key, value in own.to_diff_dict().items()
        if key in default and value != default[key] and key not in NOT_ARCHITECTURE
    }
    if normalize == "auto":
        normalize = own.model_type != "whisper" and wants_normalized(model)
    own_conf = {"init": "random", "model_type": own.model_type, "config": settings}
    return {**own_conf, "normalize": bool(normalize), **options}


def embedded_frontend(frontend: str, conf: dict[str, Any]) -> dict[str, Any]:
    """Apply ``embedded_conf`` to each speech encoder of a ``frontend_conf``.

    Raises:
        UserError: as in ``embedded_conf``.
    """
    embedded = [embedded_conf(**options) for options in encoder_confs(frontend, conf)]
    if frontend == "hf":
        return embedded[0]
    return {**conf, "upstreams": embedded} if embedded else conf


def _unsupported(model_type: str) -> UserError:
    known = ", ".join((*WAV2VEC2_FAMILY, "whisper"))
    return UserError(f"frontend_conf: {model_type!r} is not a supported encoder; choose {known}")


def _not_found(model: str, err: Exception) -> UserError:
    if Path(model).is_dir():
        return UserError(f"frontend_conf.model: {model}: {str(err).splitlines()[0]}")
    return UserError(
        f"frontend_conf.model: {model}: neither a folder here nor to be had from the Hugging Face "
        "hub; check the name and the network, or download it elsewhere and give the folder (--ssl)"
    )


def load_encoder(model: str | None, init: str, config: PretrainedConfig) -> torch.nn.Module:
    whisper = config.model_type == "whisper"
    if whisper:  # a slow import
        from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperModel
    if init == "random":
        return WhisperEncoder(config) if whisper else AutoModel.from_config(config)
    options = {"config": config, "dtype": torch.float32, "output_loading_info": True}
    encoder_only = "WhisperEncoder" in (config.architectures or [])
    try:
        if whisper and not encoder_only:
            full, info = WhisperModel.from_pretrained(model, **options)
            encoder = full.get_encoder()
        else:
            cls = WhisperEncoder if whisper else AutoModel
            encoder, info = cls.from_pretrained(model, **options)
    except (OSError, ValueError, RuntimeError) as err:
        raise _not_found(model, err) from err
    missing = [k for k in info["missing_keys"] if not k.endswith(UNUSED_WEIGHTS)]
    if missing:
        raise UserError(
            f"frontend_conf.model: {model}: {len(missing)} weights of the encoder are not in the "
            f"checkpoint (first: {sorted(missing)[0]}); it is incomplete or of another architecture"
        )
    logging.info(f"Loaded {config.model_type} weights from {model}")
    return encoder
