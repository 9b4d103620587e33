"""Learning rates by part of the model: pretrained layers move slowly, new ones fast.

    lr_conf:
      heads: 20.0        # emotion head, auxiliary heads, encoder and pooling after the frontend
      fusion: 100.0      # the scalars of eq. 4
      layer_decay: 0.9   # speech encoder: 1 for the top layer, 0.9 for the next, then 0.81 ...

Each is a factor on ``optim_conf.lr``, 1 where it is not given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ser.errors import UserError

if TYPE_CHECKING:
    import torch

LAYER = re.compile(r"^frontend\.encoder\.(?:encoder\.)?layers\.(\d+)\.")
UPSTREAM = re.compile(r"^frontend\.upstreams\.(\d+)\.")  # one of several speech encoders
FACTORS = ("heads", "fusion", "layer_decay")


def lr_factor(name: str, num_layers: int, conf: Mapping[str, float]) -> float:
    """Learning rate factor of the parameter ``name`` of a SERModel.

    Layer-wise decay (Howard and Ruder, 2018; Clark et al., 2020): layer i of N, from 1, has
    decay^(N - i); parameters below the first layer have decay^N, a norm after the last has 1.
    """
    if name.startswith("frontend.fusion."):
        return conf.get("fusion", 1.0)
    if not name.startswith("frontend.") or name.startswith("frontend.projections."):
        return conf.get("heads", 1.0)
    layer = LAYER.match(name)
    if layer:
        depth = num_layers - 1 - int(layer.group(1))
    else:
        final = re.match(r"^frontend\.encoder\.layer_norm\.", name)  # Whisper's, after all layers
        depth = 0 if final else num_layers
    return conf.get("layer_decay", 1.0) ** depth


def check_factors(conf: Mapping[str, Any]) -> None:
    """Raise UserError for an unknown factor of ``lr_conf``, or one that is no number above 0."""
    for key, value in conf.items():
        if key not in FACTORS:
            raise UserError(f"lr_conf.{key}: unknown; choose from {', '.join(FACTORS)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise UserError(f"lr_conf.{key}: {value!r}; give a number above 0")


def parameter_groups(
    model: torch.nn.Module, lr: float, conf: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Assign every parameter to an optimizer group, one group per learning rate.

    Raises:
        UserError: as ``check_factors``.
    """
    check_factors(conf)
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        owner = model.frontend
        if upstream := UPSTREAM.match(name):
            owner = owner.upstreams[int(upstream.group(1))]
            name = UPSTREAM.sub("frontend.", name)
        factor = lr_factor(name, getattr(owner, "num_layers", 0), conf)
        groups.setdefault(factor, []).append(parameter)
    return [{"params": groups[factor], "lr": lr * factor} for factor in sorted(groups)]
