"""The classes that a system's YAML chooses from, found in the files of this folder.

Nothing here imports torch by itself.
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

    The name is that of the class without ``suffix``, in lower case: ``SelfAttentionPooling`` is
    ``self_attention``. Abstract classes, and those whose name begins with an underscore, are left
    out.
    """
    found: dict[str, type] = {}
    for module in pkgutil.iter_modules(ser.models.__path__, "ser.models."):
        for name, cls in vars(import_module(module.name)).items():
            fits = inspect.isclass(cls) and issubclass(cls, parent) and not inspect.isabstract(cls)
            if fits and cls.__module__ == module.name and not name.startswith("_"):
                found[registered_name(name, suffix)] = cls
    return found


def registered_name(cls: str, suffix: str) -> str:
    """What a system's YAML calls a class: ``SelfAttentionPooling`` is ``self_attention``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.removesuffix(suffix)).lower()


def check_head(where: str, entry: Any, options: Mapping[str, Sequence[str]]) -> None:
    """Refuse an entry of ``aux_conf`` whose type or keys do not exist.

    Args:
        where: ``aux_conf.<name>``, for errors.
        entry: The head's mapping.
        options: type -> the keys that it takes.
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


def _hint(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = suggest(word, known)
    return f"; {near}" if near.startswith("did") else ""


def from_recipe(model: str | None) -> str | None:
    """A relative path that is no folder here but is one in the recipe, such as those of conf/."""
    if model is not None and not Path(model).is_dir() and (ROOT / model).is_dir():
        return str(ROOT / model)
    return model


def check_folder(model: str, weights: bool = False) -> None:
    """Refuse a folder that is none or holds no encoder; hub ids have the form [owner/]name."""
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
