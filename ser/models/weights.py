"""Weights of a part of a network from a file."""

from pathlib import Path

import torch

from ser.errors import UserError
from ser.files import expand_home


def load_weights(module: torch.nn.Module, path: str, option: str, prefix: str = "") -> None:
    """Load what ``path`` holds for the parameters of ``module`` whose names begin with ``prefix``.

    Args:
        module: The names of its state are those of the file.
        path: A state dict that torch.save wrote, or a safetensors file.
        option: Named in errors.
        prefix: Of the names in ``module``, and in the file; others are left alone.

    Raises:
        UserError: no such file, not a state dict, a missing name or another size.
    """
    file = expand_home(path)
    if not file.is_file():
        raise UserError(f"{option}: {path}: no such file; give a file of weights, or leave it out")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        found = {name: value for name, value in state.items() if name.startswith(prefix)}
    except Exception as err:  # of pickle, zip, safetensors, and whatever else may be in the file
        raise UserError(
            f"{option}: {Path(path).name}: not a file of weights ({str(err).splitlines()[0]}); "
            "give a state dict of torch.save or a safetensors file"
        ) from None
    own = {name: value for name, value in module.state_dict().items() if name.startswith(prefix)}
    for name, value in own.items():
        if name not in found or found[name].shape != value.shape:
            size = tuple(found[name].shape) if name in found else "nothing"
            raise UserError(
                f"{option}: {Path(path).name}: {name}: found {size}, expected "
                f"{tuple(value.shape)}; these weights are of another network"
            )
    module.load_state_dict({**module.state_dict(), **{name: found[name] for name in own}})
