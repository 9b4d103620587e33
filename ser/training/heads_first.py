"""Heads first, then everything: linear probing, then fine-tuning (Kumar et al., ICLR 2022).

    heads_first_conf:
      untagged_epoch: 5   # the CTC head over its units without their tags, from which it starts
      max_epoch: 8        # all heads and layer weights, on the frozen encoder
      lr: 1.0e-3          # of both
      batch_size: 16      # of both, in utterances

New heads on a pretrained encoder start far from anything useful: at a learning rate that suits the
encoder they hardly learn, at one that suits them they pass noise to the encoder. So each fold is
trained in phases, each initialised with the weights of the previous one and run in a subfolder of
the fold: ``untagged`` and ``heads``, with the encoder frozen and its outputs cached for all epochs
and folds (models/layer_cache.py); then the training that the rest of the configuration describes.

A unit such as Vs2 combines a phoneme class and an emotion, which are hard to learn at once. The
``untagged`` phase learns the classes (Vs); the next one starts with each row of that head copied
to every tag, so that initially the tags of a class share its probability equally.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ser.config import check_arguments
from ser.errors import UserError
from ser.lang.units import read_untagged
from ser.models.heads import UNITS, read_heads
from ser.models.lora import is_adapter
from ser.models.model import SERModel
from ser.models.registry import check_whole
from ser.training.experiment import HEADS, UNTAGGED


@dataclass(frozen=True)
class HeadsFirst:
    """``heads_first_conf``. Both phases use the last epoch, even with validation speakers."""

    untagged_epoch: int = 0
    max_epoch: int = 0
    lr: float = 1.0e-3
    batch_size: int = 16


def read_heads_first(args: argparse.Namespace) -> HeadsFirst:
    """Read and check ``args.heads_first_conf``.

    Raises:
        UserError: an unknown key, a value out of range, a frontend without an encoder to freeze,
            or ``untagged_epoch`` for a system without a CTC head over tagged units.
    """
    where, given = "heads_first_conf", args.heads_first_conf
    check_arguments(where, HeadsFirst, given)
    conf = HeadsFirst(**given)
    for key, least in (("untagged_epoch", 0), ("max_epoch", 0), ("batch_size", 1)):
        check_whole(f"{where}.{key}", getattr(conf, key), least)
    if not conf.lr > 0:
        raise UserError(f"{where}.lr: found {conf.lr!r}; expected a number above 0")
    if given and args.frontend != "hf":
        raise UserError(
            f"{where}: frontend {args.frontend} has no pretrained encoder that could wait for the "
            "heads; remove the section"
        )
    heads = read_heads(args.aux_conf).values()
    tagged = args.token_type.startswith("tagged_") and any(h.cls.targets == UNITS for h in heads)
    if conf.untagged_epoch and not tagged:
        raise UserError(
            f"{where}.untagged_epoch: found {conf.untagged_epoch}, but there is no CTC head over "
            f"tagged units here (token_type {args.token_type}); set it to 0 and give its epochs "
            "to max_epoch"
        )
    return conf


def phases(args: argparse.Namespace) -> list[argparse.Namespace]:
    """Arguments of the phases that precede the training of a fold described by ``args``.

    Time masking is disabled in them, since it would change the frozen layers' outputs in every
    epoch.
    """
    conf = read_heads_first(args)
    return [
        _phase(args, conf, name, epochs)
        for name, epochs in ((UNTAGGED, conf.untagged_epoch), (HEADS, conf.max_epoch))
        if epochs
    ]


def _phase(
    args: argparse.Namespace, conf: HeadsFirst, name: str, max_epoch: int
) -> argparse.Namespace:
    frontend_conf = {**args.frontend_conf, "freeze": "all", "unfreeze_after": 0}
    frontend_conf.pop("time_mask", None)
    changes = {
        "output_dir": str(Path(args.output_dir) / name),
        "run_label": f"{args.run_label} {name}",
        "heads_first_conf": {},
        "untagged": name == UNTAGGED,
        "frontend_conf": frontend_conf,
        "max_epoch": max_epoch,
        "batch_size": conf.batch_size,
        "accum_grad": 1,
        "optim_conf": {**args.optim_conf, "lr": conf.lr},
        "lr_conf": {},
        "scheduler": None,
        "scheduler_conf": {},
        "patience": None,
    }
    return argparse.Namespace(**{**vars(args), **changes})


def warm_start(
    model: SERModel,
    state: Mapping[str, torch.Tensor],
    strip_tag: Callable[[str], str] | None = None,
) -> None:
    """Initialise ``model`` with the weights of the previous phase.

    Args:
        model: Model of the new phase.
        state: Weights of the previous phase. If a unit head of ``model`` has tags that ``state``
            lacks, the row of a unit is copied to each of its n tagged units, and log n is
            subtracted from the bias, which preserves the probability of the untagged unit.
        strip_tag: Unit -> unit without its tag; needed only for that.
    """
    state = dict(state)
    new = {name: value for name, value in model.state_dict().items() if is_adapter(name)}
    state = {**new, **state}  # adapters are new in this phase and keep their initial values
    for name, units in model.aux_units.items():
        weight, bias = f"aux_heads.{name}.linear.weight", f"aux_heads.{name}.linear.bias"
        if len(state[bias]) == len(units):
            continue
        names, row = read_untagged(units, strip_tag)
        rows = [row[unit] for unit in units]
        tags = torch.tensor([float(rows.count(i)) for i in rows]).log().to(state[bias])
        state[weight], state[bias] = state[weight][rows], state[bias][rows] - tags
    model.load_state_dict(state)
