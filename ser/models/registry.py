"""The classes that a system's YAML chooses from, found in the files of this folder."""

import functools
import inspect
import pkgutil
import re
from importlib import import_module

import ser.models


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
                words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix(suffix))
                found[words.lower()] = cls
    return found
