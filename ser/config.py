"""Reading and checking the YAML that describes a system (conf/*.yaml)."""

import argparse
import difflib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ser.errors import UserError

# What YAML 1.1 reads as text although it is meant as a number: no dot before the exponent.
NUMBER_AS_TEXT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def load_config(path: Path | str) -> dict[str, Any]:
    """Read a system's YAML merged into its bases (``read_layers``).

    Mappings are merged key by key; any other value replaces that of the base; null removes the
    key, ``{}`` empties a mapping.
    """
    *changes, (_, merged) = read_layers(path)
    for _, layer in reversed(changes):
        merged = _merge(merged, layer)
    return merged


def read_layers(path: Path | str) -> list[tuple[Path, dict[str, Any]]]:
    """Read a YAML file, the file that its key ``base`` names, that file's base and so on.

    A base is relative to the file that names it. ``base`` itself is left out of the mappings.

    Raises:
        UserError: as ``read_config``; a base that does not exist or leads back to itself.
    """
    layers, here = [(Path(path), dict(read_config(path)))], Path(path)
    while (name := layers[-1][1].pop("base", None)) is not None:
        file = here.parent / str(name)
        if not file.is_file():
            raise UserError(f"{here}: base: {name}: no such file in {here.parent}")
        files = [each for each, _ in layers]
        if any(file.samefile(each) for each in files):
            chain = " -> ".join(each.name for each in (*files, file))
            raise UserError(f"{path}: base: leads back to itself: {chain}; remove one of them")
        layers.append((file, dict(read_config(file))))
        here = file
    return layers


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        if value is None and key in base:
            del merged[key]
        elif isinstance(value, dict) and value and isinstance(base.get(key), dict):
            merged[key] = _merge(base[key], value)
        else:
            merged[key] = value
    return merged


def read_config(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: no such file, not YAML, not a mapping, or a number that YAML reads as text.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(str(p) for p in sorted(path.parent.glob("*.yaml"))) or "none there"
        raise UserError(f"--config {path}: no such file; beside it: {known}") from None
    except (UnicodeDecodeError, IsADirectoryError) as err:
        raise UserError(f"--config {path}: not a text file ({err}); give a YAML file") from None
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as err:
        where = getattr(err, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        what = getattr(err, "problem", None) or err
        raise UserError(f"{path}{line}: not valid YAML: {what}; mend that line") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: found {type(config).__name__}; expected `key: value` lines")
    for key, value in _leaves(config):
        if isinstance(value, str) and NUMBER_AS_TEXT.fullmatch(value):
            mantissa, exponent = re.split("[eE]", value)
            written = f"{float(mantissa)}e{exponent}"
            raise UserError(f"{path}: {key}: YAML reads {value!r} as text; write {written}")
    return config


def check_config(path: Path | str, config: dict[str, Any], parser: argparse.ArgumentParser) -> None:
    """Refuse keys that ``parser`` does not have and values of the wrong type.

    ESPnet takes values from YAML as they are; a wrong type would surface as a traceback in the
    middle of a run.
    """
    actions = {action.dest: action for action in parser._actions}
    for key, value in config.items():
        if key not in actions:
            near = difflib.get_close_matches(key, actions, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see conf/ for examples"
            raise UserError(f"{path}: unknown key {key!r}; {hint}")
        expected = _mismatch(actions[key], value)
        if expected:
            raise UserError(f"{path}: {key}: found {value!r}; expected {expected}")


def read_numbers(value: Any) -> Any:
    """``value`` with texts such as "2e-5" as the numbers they are, for options of a shell."""
    if isinstance(value, dict):
        return {key: read_numbers(item) for key, item in value.items()}
    if isinstance(value, str) and NUMBER_AS_TEXT.fullmatch(value):
        return float(value)
    return value


def check_arguments(where: str, cls: type, conf: dict[str, Any]) -> None:
    """Refuse keys that the constructor of ``cls`` does not take, and text for its numbers."""
    parameters = inspect.signature(cls.__init__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key, value in conf.items():
        if key not in parameters:
            known = ", ".join(p for p in parameters if p != "self")
            raise UserError(f"{where}: {cls.__name__} has no option {key!r}; it takes: {known}")
        default = parameters[key].default
        is_number = isinstance(default, int | float) and not isinstance(default, bool)
        if is_number and not isinstance(value, int | float):
            raise UserError(f"{where}.{key}: found {value!r}; expected a number")
        if isinstance(default, bool) and not isinstance(value, bool):
            raise UserError(f"{where}.{key}: found {value!r}; expected true or false")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What changed from ``old`` to ``new``, a line ``key: old -> new`` each."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {before.get(key, 'not set')!r} -> {after.get(key, 'not set')!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, _ABSENT) != after.get(key, _ABSENT)
    ]


_ABSENT = object()


def _leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _mismatch(action: argparse.Action, value: Any) -> str | None:
    """What the option expects, if ``value`` is not it; None if it fits."""
    if type(action).__name__ == "NestedDictAction":
        return None if isinstance(value, dict) else "a mapping (key: value lines)"
    if action.choices is not None:
        choices = [c for c in action.choices if c is not None]
        fits = value in action.choices or str(value).lower() in choices
        return None if fits else "one of " + ", ".join(str(c) for c in choices)
    kind = getattr(action.type, "__name__", "")
    if value is None:
        return None if action.default is None or kind.endswith("_or_none") else f"a {kind}"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if action.nargs in ("*", "+"):
        return None if isinstance(value, list) else "a list"
    if kind in ("int", "int_or_none"):
        return None if is_number and isinstance(value, int) else "a whole number"
    if kind in ("float", "float_or_none"):
        return None if is_number else "a number"
    if kind == "str2bool":
        return None if isinstance(value, bool) else "true or false"
    if kind in ("str", "str_or_none"):
        return None if isinstance(value, str) else "text"
    return None
