"""Weights of a part of a network from a file."""

from pathlib import Path

import torch

from ser.errors import UserError
from ser.files import expand_home


def load_weights(module: torch.nn.Module, path: str, option: str, within: str = "") -> None:
    """Load all weights of ``module`` from what ``path`` holds.

    Args:
        module: The names of its state are those of the file.
        path: A state dict that torch.save wrote, or a safetensors file.
        option: Named in errors.
        within: What the names begin with in the file; others are left alone.

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
        found = {name[len(within) :]: v for name, v in state.items() if name.startswith(within)}
    except Exception as err:  # of pickle, zip, safetensors, and whatever else may be in the file
        raise UserError(
            f"{option}: {Path(path).name}: not a file of weights ({str(err).splitlines()[0]}); "
            "give a state dict of torch.save or a safetensors file"
        ) from None
    own = module.state_dict()
    for name, value in own.items():
        if name not in found and name.endswith("num_batches_tracked"):  # older files lack it
            found[name] = value
        if name not in found or found[name].shape != value.shape:
            size = tuple(found[name].shape) if name in found else "nothing"
            raise UserError(
                f"{option}: {Path(path).name}: {within}{name}: found {size}, expected "
                f"{tuple(value.shape)}; these weights are of another network"
            )
    module.load_state_dict({name: found[name] for name in own})
