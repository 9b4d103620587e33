"""Low-rank adapters of a frozen speech encoder (LoRA; Hu et al., ICLR 2022), using peft.

    frontend_conf:
      lora:
        r: 8                        # rank of each update
        alpha: 16                   # the update is multiplied by alpha / r
        targets: [q_proj, v_proj]   # linear layers of every transformer layer
        dropout: 0.0                # on the input of the update, in training

A target W of shape (out, in) computes W x + b + (alpha / r) B A x, with A (r, in) initialised
randomly and B (out, r) to zero. Besides the fusion and the heads only A and B are trained; a model
file holds a digest of the encoder instead of its weights, to detect adapters of a different one.
For prediction adapters are merged into the weights, which does not need peft.

torch and peft are imported lazily: a YAML is checked before either is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ser.config import check_arguments, encoder_confs
from ser.errors import UserError
from ser.models.registry import from_recipe, is_whole

if TYPE_CHECKING:
    import torch

OPTION = "frontend_conf.lora"
# Parts of the tensor names in a model file, as peft names them.
A, B = ".lora_A.default.weight", ".lora_B.default.weight"
ENCODER, DIGEST, WRAPPED = "encoder.", "encoder_digest", ".base_layer."
# May be missing from a checkpoint; then they are random and unused.
NOT_DIGESTED = ("masked_spec_embed",)


@dataclass(frozen=True)
class Lora:
    """Options of ``frontend_conf.lora``."""

    r: int = 8
    alpha: float = 16
    targets: Sequence[str] = ("q_proj", "v_proj")
    dropout: float = 0.0

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.alpha / self.r


def read_lora(given: Any) -> Lora | None:
    """Read and check ``frontend_conf.lora``; None if not given.

    Raises:
        UserError: not a mapping, an unknown key, a value out of range.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise UserError(
            f"{OPTION}: found {given!r}; expected a mapping, such as {{r: 8, alpha: 16}}"
        )
    check_arguments(OPTION, Lora, dict(given))
    lora = Lora(**given)
    if not is_whole(lora.r):
        raise UserError(f"{OPTION}.r: found {lora.r!r}; expected a whole number from 1")
    if isinstance(lora.alpha, bool) or not 0 < lora.alpha < float("inf"):
        raise UserError(f"{OPTION}.alpha: found {lora.alpha!r}; expected a number above 0")
    if isinstance(lora.dropout, bool) or not 0 <= lora.dropout < 1:
        raise UserError(f"{OPTION}.dropout: found {lora.dropout!r}; expected 0.0 to below 1")
    names = lora.targets
    listed = isinstance(names, list | tuple) and all(isinstance(n, str) and n for n in names)
    if not listed or not names:
        raise UserError(
            f"{OPTION}.targets: found {names!r}; expected a list of linear layers, such as "
            "[q_proj, v_proj]"
        )
    return lora


def check_lora(conf: Mapping[str, Any]) -> None:
    """Reject a ``frontend_conf`` whose adapters could not be trained, before any job starts.

    Raises:
        UserError: as ``read_lora``; peft is not installed; a random encoder (``init: random``),
            whose weights no model file would hold; ``freeze: all`` or ``unfreeze_after``, which
            contradict adapters.
    """
    if read_lora(conf.get("lora")) is None:
        return
    require_peft()
    if conf.get("init", "pretrained") != "pretrained":
        raise UserError(
            f"{OPTION}: with init: {conf['init']} the encoder is nowhere but in this training, and "
            "model files hold adapters only; name a pretrained model, or remove lora"
        )
    if conf.get("freeze") == "all":
        raise UserError(
            f"{OPTION}: freeze: all leaves no layer to adapt; set freeze: 0, which keeps only what "
            "enters the first transformer layer, or remove lora"
        )
    if conf.get("unfreeze_after"):
        raise UserError(
            f"{OPTION}: unfreeze_after: {conf['unfreeze_after']} would train the encoder itself, "
            "which model files do not hold; remove one of the two"
        )


def require_peft() -> None:
    """Raise UserError unless peft is installed."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(
            f"{OPTION}: the package peft is not installed; make install APPS=1, or pip install -r "
            "requirements-apps.txt"
        )


def add_adapters(frontend: torch.nn.Module, lora: Lora, first: int) -> None:
    """Add adapters to the transformer layers from index ``first`` on, counted from 0.

    Afterwards state dicts of ``frontend``, an HFFrontend, hold only the adapters of the encoder,
    and such state dicts can be loaded.

    Raises:
        UserError: a target that the transformer layers do not have, or no layer to adapt.
    """
    import torch

    encoder, layers = frontend.encoder, frontend.stages.layers
    # 32 bytes as floats, which averaging several models does not change
    frontend.register_buffer(DIGEST, torch.zeros(32))
    frontend.register_state_dict_post_hook(_leave_out)
    frontend.register_load_state_dict_pre_hook(_complete)
    names = {id(module): name for name, module in encoder.named_modules()}
    linear = [
        {name.rpartition(".")[2]: names[id(module)] for name, module in layer.named_modules()
         if isinstance(module, torch.nn.Linear)}
        for layer in layers
    ]  # fmt: skip
    unknown = [target for target in lora.targets if target not in linear[0]]
    if unknown:
        raise UserError(
            f"{OPTION}.targets: {unknown[0]}: no linear layer of {encoder.config.model_type}; "
            f"choose from {', '.join(linear[0])}"
        )
    if first == len(layers):  # the heads are trained first, on the encoder as it is
        return
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    chosen = [layer[target] for layer in linear[first:] for target in lora.targets]
    options = {"r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    inject_adapter_in_model(LoraConfig(target_modules=chosen, **options), encoder)
    for module in encoder.modules():
        if isinstance(module, LoraLayer):  # autocast chooses the input precision
            module.cast_input_dtype_enabled = False
    if encoder.config.model_type == "wavlm":
        _attend_by_modules(layers)


def is_adapter(name: str) -> bool:
    """Whether a parameter, or a tensor of a state dict, belongs to an adapter."""
    return ".lora_" in name


def merge(
    weights: Mapping[str, torch.Tensor],
    encoder: Mapping[str, torch.Tensor],
    frontend: str,
    conf: Mapping[str, Any],
    where: str,
) -> dict[str, torch.Tensor]:
    """Merge adapters into an equivalent state dict of a model without adapters.

    Args:
        weights: State dict of a fold; W' = W + (alpha / r) B A for every adapter in it. Its
            tensors are not modified, and those without an adapter are shared.
        encoder: Frozen weights, named as in a model without adapters.
        frontend, conf: ``frontend`` and ``frontend_conf``.
        where: Prefix of error messages.

    Raises:
        UserError: the adapters belong to a different encoder, or do not fit.
    """
    check_encoder(weights, encoder, frontend, conf, where)
    merged = {name: value for name, value in weights.items() if not is_adapter(name)} | encoder
    for prefix, lora in adapted(frontend, conf).items():
        del merged[prefix + DIGEST]
        for name, a in weights.items():
            if not (name.startswith(prefix) and name.endswith(A)):
                continue
            target, b = f"{name.removesuffix(A)}.weight", weights.get(name.replace(A, B))
            if target not in merged or b is None or (b.size(0), a.size(1)) != merged[target].shape:
                raise UserError(f"{where}: {name} fits nothing in the encoder; get both again")
            merged[target] = merged[target].float() + lora.scale * (b.float() @ a.float())
    return merged


def check_encoder(
    weights: Mapping[str, torch.Tensor],
    encoder: Mapping[str, torch.Tensor],
    frontend: str,
    conf: Mapping[str, Any],
    where: str,
) -> None:
    """Raise UserError if ``weights`` adapt a different encoder; arguments as for ``merge``."""
    for prefix in adapted(frontend, conf):
        start = prefix + ENCODER
        own = {n.removeprefix(start): v for n, v in encoder.items() if n.startswith(start)}
        _same_encoder(weights.get(prefix + DIGEST), digest(own), where)


def without_adapters(conf: Mapping[str, Any]) -> dict[str, Any]:
    """``frontend_conf`` for the weights that ``merge`` returns."""
    conf = {key: value for key, value in conf.items() if key != "lora"}
    if isinstance(conf.get("upstreams"), list):
        conf["upstreams"] = [without_adapters(each) for each in conf["upstreams"]]
    return conf


def adapted(frontend: str, conf: Mapping[str, Any]) -> dict[str, Lora]:
    """Options of the adapters of each speech encoder that has any, by tensor name prefix."""
    read = ((prefix, read_lora(own.get("lora"))) for prefix, own in _encoders(frontend, conf))
    return {prefix: lora for prefix, lora in read if lora is not None}


def _encoders(frontend: str, conf: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Tensor name prefix and options of each speech encoder."""
    return [
        ("frontend." if frontend == "hf" else f"frontend.upstreams.{number}.", options)
        for number, options in enumerate(encoder_confs(frontend, dict(conf)))
    ]


def frozen_weights(frontend: str, conf: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Load the encoders that adapters were trained on from hub ids or folders, for ``merge``.

    Raises:
        UserError: an encoder is no longer available.
    """
    from ser.models.pretrained import load_encoder, load_encoder_config

    prefixes, weights = adapted(frontend, conf), {}
    for prefix, options in _encoders(frontend, conf):
        if prefix in prefixes:
            model, init = from_recipe(options.get("model")), options.get("init", "pretrained")
            kind, overrides = options.get("model_type"), options.get("config") or {}
            encoder = load_encoder(model, init, load_encoder_config(model, init, kind, overrides))
            for name, value in encoder.state_dict().items():
                weights[f"{prefix}{ENCODER}{name}"] = value
    return weights


def digest(encoder: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """SHA-256 of an encoder's weights and their names, as a tensor of 32 byte values."""
    import torch

    found = hashlib.sha256()
    for name in sorted(encoder):
        if name not in NOT_DIGESTED:
            value = encoder[name].detach().cpu().float().contiguous()
            found.update(f"{name} {tuple(value.shape)}".encode())
            found.update(value.reshape(-1).view(torch.uint8).numpy())
    return torch.tensor(list(found.digest()), dtype=torch.float32)


def _frozen(frontend: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The encoder's own weights, named as in an encoder without adapters."""
    state = frontend.encoder.state_dict()
    return {n.replace(WRAPPED, "."): value for n, value in state.items() if not is_adapter(n)}


def _own_digest(frontend: torch.nn.Module) -> torch.Tensor:
    """The digest of the encoder that ``frontend`` was built with, computed once."""
    if not frontend.encoder_digest.any():
        frontend.encoder_digest.copy_(digest(_frozen(frontend)))
    return frontend.encoder_digest


def _leave_out(frontend: torch.nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """state_dict hook that drops the encoder's own weights."""
    for name in [n for n in state if n.startswith(prefix + ENCODER) and not is_adapter(n)]:
        del state[name]
    state[prefix + DIGEST] = _own_digest(frontend).clone()


def _complete(
    frontend: torch.nn.Module, state: dict[str, Any], prefix: str, *_: Any, **__: Any
) -> None:
    """load_state_dict hook that keeps the encoder's own weights."""
    _same_encoder(state.get(prefix + DIGEST), _own_digest(frontend), "the weights of this model")
    for name, value in frontend.encoder.state_dict().items():
        if not is_adapter(name):
            state[f"{prefix}{ENCODER}{name}"] = value


def _same_encoder(told: torch.Tensor | None, found: torch.Tensor, where: str) -> None:
    if told is None or not bool((told.float().cpu() == found.float().cpu()).all()):
        raise UserError(
            f"{where}: the adapters (lora) in it were trained on another encoder "
            f"({_short(told)}) than the one at hand ({_short(found)}); give the encoder of that "
            "training (frontend_conf.model, --ssl; of a packed model, its encoder.safetensors), or "
            "train the fold again"
        )


def _short(value: torch.Tensor | None) -> str:
    return "unknown" if value is None else bytes(int(v) for v in value.tolist()).hex()[:12]


def _attend_by_modules(layers: Sequence[Any]) -> None:
    """Make WavLM's attention call its projection modules instead of reading their weights."""
    from functools import partial

    for layer in layers:
        attention = layer.attention
        attention.torch_multi_head_self_attention = partial(_wavlm_attention, attention)


def _wavlm_attention(
    attention: Any, hidden: torch.Tensor, mask: torch.Tensor | None, bias: torch.Tensor
) -> tuple[torch.Tensor, None]:
    """Softmax attention with a bias, (B, T, D) -> (B, T, D).

    Args:
        attention: A WavLMAttention of transformers.
        mask: None or (B, T), True for real frames.
        bias: (B H, T, T), added to the scaled scores.
    """
    import torch.nn.functional as F

    batch, frames, _ = hidden.shape
    heads = (batch, frames, attention.num_heads, attention.head_dim)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (project(hidden).view(heads).transpose(1, 2) for project in projections)
    bias = bias.view(batch, attention.num_heads, frames, frames).to(query.dtype)
    if mask is not None:
        bias = bias.masked_fill(~mask.bool()[:, None, None], float("-inf"))
    p = attention.dropout if attention.training else 0.0
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=p)
    return attention.out_proj(mixed.transpose(1, 2).reshape(hidden.shape)), None
