"""Build a system's network from its settings, for training and prediction.

ESPnet's own encoders are imported only if a system names one; nothing else here needs ESPnet.
"""

import contextlib
import io
from argparse import Namespace
from collections.abc import Mapping, Sequence

import torch

from ser.config import encoder_confs
from ser.data.features import FEATS_SIZES, FUNCTIONALS
from ser.errors import UserError
from ser.models.base import AbsEncoder, AbsFrontend
from ser.models.heads import UNITS, VALUES, read_heads
from ser.models.model import AMP_DTYPES, SERModel
from ser.models.pooling import AbsPooling
from ser.models.registry import find_classes
from ser.models.spectral import FeatsFrontend

KINDS = {"frontend": AbsFrontend, "encoder": AbsEncoder, "pooling": AbsPooling}
ESPNET_ENCODERS = ("rnn", "transformer")


def build_model(
    args: Namespace,
    units: Sequence[str] | None,
    labels: Mapping[str, Sequence[str]],
    class_counts: list[int] | None = None,
) -> SERModel:
    """Build the untrained model that ``args`` describe.

    Args:
        args: Namespace with ``emotions``, ``frontend``, ``frontend_conf`` ... ``model_conf``.
        units: Output units of a CTC head, blank first.
        labels: For each label head its classes; for each value head the training mean and
            standard deviation, or no entry if weights are loaded.
        class_counts: Number of training utterances of each class.

    Raises:
        UserError: an option that the chosen class does not accept, or an invalid value.
    """
    frontend, encoder, pooling = build_network(args)
    heads, weights = {}, {}
    sizes = encoder.output_size(), pooling.output_size()
    for name, head in read_heads(args.aux_conf).items():
        known = {name: (), **labels} if head.cls.targets == VALUES else labels
        inventory = units if head.cls.targets == UNITS else known[name]
        heads[name] = head.cls(*sizes, inventory, **head.options)
        weights[name] = head.weight
    amp_dtype = args.model_conf.get("amp_dtype", "float32")
    if amp_dtype not in AMP_DTYPES:
        raise UserError(f"model_conf.amp_dtype: {amp_dtype!r}; choose {' or '.join(AMP_DTYPES)}")
    return SERModel(
        emotions=args.emotions.split(),
        frontend=frontend,
        encoder=encoder,
        pooling=pooling,
        aux_heads=heads,
        aux_weights=weights,
        class_counts=class_counts,
        **args.model_conf,
    )


def build_network(args: Namespace) -> tuple[AbsFrontend, AbsEncoder, AbsPooling]:
    """Build frontend, encoder and pooling; UserError as for ``build_model``."""
    frontend = _build("frontend", args)
    encoder = _build("encoder", args, input_size=frontend.output_size())
    return frontend, encoder, _build("pooling", args, input_size=encoder.output_size())


def check_network(args: Namespace) -> None:
    """Reject a network that cannot be built or does not match its input, before training a fold.

    A network with speech encoders is not built here: pretrained weights take a while to load.

    Raises:
        UserError: as for ``build_network``; a frontend that does not read ``feats_type``.
    """
    readable = getattr(network_class("frontend", args.frontend), "reads", tuple(FEATS_SIZES))
    if args.feats_type not in readable:
        raise UserError(
            f"feats_type: found {args.feats_type}; frontend {args.frontend} reads "
            f"{' or '.join(readable)}"
        )
    heads = read_heads(args.aux_conf).items()
    aligned = [name for name, head in heads if head.cls.targets == UNITS]
    if aligned and getattr(network_class("encoder", args.encoder), "one_frame", False):
        raise UserError(
            f"aux_conf.{aligned[0]}: encoder {args.encoder} gives one frame for an utterance, to "
            "which no units can be aligned; remove this head or choose another encoder"
        )
    if encoder_confs(args.frontend, args.frontend_conf):
        return
    frontend, _, _ = build_network(args)
    if args.feats_type == "raw":
        return
    size = FEATS_SIZES[args.feats_type]
    if args.feats_type in FUNCTIONALS and not (
        isinstance(frontend, FeatsFrontend) and frontend.is_plain()
    ):
        raise UserError(
            f"feats_type: {args.feats_type} is one vector for an utterance, of which nothing would "
            "be left after normalising over its frames; set frontend: feats with frontend_conf: "
            "norm_means: false and norm_vars: false"
        )
    if frontend.output_size() != size:
        raise UserError(
            f"frontend_conf.input_size: found {frontend.output_size()}; a frame of feats_type "
            f"{args.feats_type} has {size} values; set input_size: {size}"
        )


def network_class(kind: str, name: str) -> type:
    """Look up the class that ``frontend``, ``encoder`` or ``pooling`` names, or raise UserError."""
    classes = find_classes(KINDS[kind], kind.capitalize())
    if kind == "encoder" and name in ESPNET_ENCODERS:
        classes = _espnet_encoders()
    if name not in classes:
        known = ", ".join([*classes, *(ESPNET_ENCODERS if kind == "encoder" else ())])
        raise UserError(f"{kind}: found {name!r}; choose one of {known}")
    return classes[name]


def _espnet_encoders() -> dict[str, type]:
    with contextlib.redirect_stdout(io.StringIO()):  # prints that Flash Attention is missing
        from espnet2.asr.encoder.rnn_encoder import RNNEncoder
        from espnet2.asr.encoder.transformer_encoder import TransformerEncoder

    return {"rnn": RNNEncoder, "transformer": TransformerEncoder}


def _build(kind: str, args: Namespace, **sizes: int) -> torch.nn.Module:
    cls = network_class(kind, getattr(args, kind))
    conf = getattr(args, f"{kind}_conf")
    try:
        return cls(**sizes, **conf)
    except (TypeError, ValueError) as err:
        raise UserError(f"{kind}_conf: {err}") from err
