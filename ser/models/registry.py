"""The classes that a system's YAML can choose, found in this folder, and checks of their options.

This module does not import torch itself.
"""

import functools
import inspect
import pkgutil
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import ser.models
from ser.config import suggest
from ser.errors import UserError
from ser.files import ROOT, expand_home

_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")


@functools.cache
def find_classes(parent: type, suffix: str) -> dict[str, type]:
    """Collect the subclasses of ``parent`` in ser/models by name, file by file.

    Names are class names without ``suffix``, in snake case: ``SelfAttentionPooling`` is
    ``self_attention``. Abstract classes and names with a leading underscore are excluded.
    """
    found: dict[str, type] = {}
    for module in pkgutil.iter_modules(ser.models.__path__, "ser.models."):
        for name, cls in vars(import_module(module.name)).items():
            fits = inspect.isclass(cls) and issubclass(cls, parent) and not inspect.isabstract(cls)
            if fits and cls.__module__ == module.name and not name.startswith("_"):
                found[registered_name(name, suffix)] = cls
    return found


def registered_name(cls: str, suffix: str) -> str:
    """Name of a class in a system's YAML: ``SelfAttentionPooling`` is ``self_attention``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.removesuffix(suffix)).lower()


def check_head(where: str, entry: Any, options: Mapping[str, Sequence[str]]) -> None:
    """Reject an entry of ``aux_conf`` with an unknown type or key.

    Args:
        where: ``aux_conf.<name>``, for error messages.
        entry: The head's mapping.
        options: Accepted keys of each type.
    """
    if not isinstance(entry, Mapping):
        raise UserError(
            f"{where}: found {entry!r}; expected a mapping such as {{type: label, weight: 0.5}}"
        )
    kind = entry.get("type")
    if not isinstance(kind, str) or kind not in options:
        keys = [str(key) for key in entry] if kind is None else []
        hints = [_hint(key, ["type"]) for key in keys] + [_hint(str(kind), options)]
        raise UserError(
            f"{where}.type: {kind!r}; choose one of {', '.join(options)}{max(hints, key=len)}"
        )
    for key in entry:
        if key not in options[kind]:
            raise UserError(
                f"{where}.{key}: a head of type {kind} has no such option; it takes: "
                f"{', '.join(options[kind])}{_hint(str(key), options[kind])}"
            )


def check_whole(option: str, value: Any, least: int = 1) -> None:
    """Raise UserError unless ``value`` of ``option`` is a whole number of ``least`` or more."""
    if not is_whole(value, least):
        raise UserError(f"{option}: found {value!r}; expected a whole number, {least} or more")


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether ``value`` is a whole number of ``least`` or more, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _hint(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = suggest(word, known)
    return f"; {near}" if near.startswith("did") else ""


def from_recipe(model: str | None) -> str | None:
    """Resolve a relative path that is a folder only in the recipe, such as those in conf/."""
    if model is not None and not Path(model).is_dir() and (ROOT / model).is_dir():
        return str(ROOT / model)
    return model


def check_folder(model: str, weights: bool = False) -> None:
    """Reject a folder that is missing or holds no encoder; hub ids have the form [owner/]name."""
    path = expand_home(from_recipe(model))
    if path.is_dir():
        lacks = [] if (path / "config.json").is_file() else ["config.json"]
        if weights and not any(next(path.glob(name), None) for name in _WEIGHTS):
            lacks.append(f"weights ({', '.join(_WEIGHTS)})")
        if lacks:
            raise UserError(
                f"frontend_conf.model: {model}: no {' and no '.join(lacks)} in this folder; point "
                "--ssl at the folder that a Hugging Face model was saved in"
            )
    elif model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UserError(
            f"frontend_conf.model: {model}: no such folder; give an existing folder or a hub id "
            "such as facebook/wav2vec2-base (--ssl on run.sh)"
        )
