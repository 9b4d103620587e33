"""Load weights of part of an encoder from a file: ``encoder_conf.weights``."""

import torch

from ser.errors import UserError
from ser.files import expand_home

OPTION = "encoder_conf.weights"


def start_from(
    module: torch.nn.Module, weights: str | None, within: str = "", freeze: bool = False
) -> None:
    """Load all weights of ``module`` from a file, if given, and freeze them if requested.

    Args:
        module: Its state names match those in the file.
        weights: A state dict written by torch.save, or a safetensors file.
        within: Prefix of the names in the file; other names are ignored.
        freeze: Exclude all parameters of ``module`` from training.

    Raises:
        UserError: no such file, not a state dict, a missing name or a different shape; ``freeze``
            without ``weights``.
    """
    if freeze and weights is None:
        raise UserError(
            f"{OPTION}: not given, and freeze is true; name a file of weights, or set freeze: false"
        )
    if weights is not None:
        module.load_state_dict(_fitting(module, weights, within))
    module.requires_grad_(not freeze)


def _fitting(module: torch.nn.Module, path: str, within: str) -> dict[str, torch.Tensor]:
    file = expand_home(path)
    if not file.is_file():
        raise UserError(f"{OPTION}: {path}: no such file; give a file of weights, or leave it out")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        found = {name[len(within) :]: v for name, v in state.items() if name.startswith(within)}
    except Exception as err:  # from pickle, zip, safetensors or any other content
        raise UserError(
            f"{OPTION}: {file.name}: not a file of weights ({str(err).splitlines()[0]}); "
            "give a state dict of torch.save or a safetensors file"
        ) from None
    own = module.state_dict()
    for name, value in own.items():
        if name.endswith("num_batches_tracked"):  # older files lack it
            found.setdefault(name, value)
        if name not in found or found[name].shape != value.shape:
            size = tuple(found[name].shape) if name in found else "nothing"
            raise UserError(
                f"{OPTION}: {file.name}: {within}{name}: found {size}, expected "
                f"{tuple(value.shape)}; these weights are of another network"
            )
    return {name: found[name] for name in own}
