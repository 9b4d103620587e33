"""Strict reading of YAML written by users: systems and sweeps (conf/), corpora (egs/).

YAML 1.1, as read by PyYAML, takes ``no`` for false, ``03`` for 3, ``12:30`` for 750 and ``2e-5``
for text. Here a corpus is read as text throughout, and its model (``parse``) converts to numbers
where expected; in other files, values that YAML 1.1 and 1.2 read differently are rejected.
"""

import argparse
import difflib
import inspect
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml

from ser.errors import UserError, join_problems, not_utf8

if TYPE_CHECKING:
    from pydantic import BaseModel

# A number that YAML 1.1 reads as text: no dot before the exponent.
NUMBER_AS_TEXT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_YAML_12 = {  # types of plain scalars in YAML 1.2
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?(0|[1-9]\d*)"),
    "float": re.compile(
        r"[-+]?(\.\d+|(0|[1-9]\d*)(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}
Model = TypeVar("Model", bound="BaseModel")


def load_config(path: Path | str) -> dict[str, Any]:
    """Read a system's YAML merged into its bases (``read_layers``).

    Mappings are merged key by key; any other value replaces the base's value; null removes the
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
        UserError: As ``read_config``; a base that does not exist or a cycle of bases.
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


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.2 reads as a number, such as 1e-05."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    quote = "'" if any(form.fullmatch(text) for form in _YAML_12.values()) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=quote)


_Dumper.add_representer(str, _represent_text)


def dump_config(content: Mapping[str, Any]) -> str:
    """Write YAML that ``read_config`` reads as ``content``."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_config(path: Path | str) -> dict[str, Any]:
    """Read the mapping in one YAML file of a system or a sweep, without its bases.

    Raises:
        UserError: As ``read_yaml``.
    """
    try:
        return read_yaml(path)[0]
    except FileNotFoundError:
        known = ", ".join(str(p) for p in sorted(Path(path).parent.glob("*.yaml"))) or "none there"
        raise UserError(f"--config {path}: no such file; beside it: {known}") from None


def read_yaml(path: Path | str, as_text: bool = False) -> tuple[dict[str, Any], dict[str, int]]:
    """Read the mapping in a YAML file, and the line of each of its keys.

    Args:
        path: UTF-8 text.
        as_text: Keep every scalar except null as text, as written in the file.

    Returns:
        The mapping, and dotted key (``counts.total``, ``emotions.0``) -> line, from 1.

    Raises:
        UserError: No such file, not YAML, not a mapping, a duplicate key, or a value that
            YAML readers interpret differently.
    """
    path = Path(path)
    lines: dict[str, int] = {}
    text = _read_text(path)
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            found = "a list" if isinstance(node, yaml.SequenceNode) else "none"
            raise UserError(f"{path}: expected `key: value` lines, found {found}")
        _check_nodes(node, path, "", as_text, lines)
        return yaml.SafeLoader("").construct_document(node), lines
    except RecursionError:
        raise UserError(f"{path}: an alias that holds itself; write the values out") from None
    except yaml.reader.ReaderError as err:
        line, found = text.count("\n", 0, err.position) + 1, chr(err.character)
        raise UserError(f"{path}:{line}: the character {found!r}; take it out") from None
    except yaml.YAMLError as err:
        what = getattr(err, "problem", None) or err
        # a key without its colon is reported in the next line
        marks = (
            ("context_mark", "problem_mark") if "could not find" in str(what) else ("problem_mark",)
        )
        where = next(filter(None, (getattr(err, mark, None) for mark in marks)), None)
        line = f":{where.line + 1}" if where else ""
        raise UserError(f"{path}{line}: not valid YAML: {what}; correct that line") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; give a YAML file") from None
    except UnicodeDecodeError as err:
        raise not_utf8(path, err) from None


def parse(
    model: type[Model], content: Mapping[str, Any], path: Path, lines: Mapping[str, int]
) -> Model:
    """Validate ``content`` against a pydantic model.

    Raises:
        UserError: Each invalid value with file, line, key, the value and what was expected.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(content)
    except ValidationError as err:
        found = err.errors()
    problems = []
    missing = [_key(error, content) for error in found if error["type"] == "missing"]
    if missing:
        problems.append(f"{path}: missing keys: {', '.join(missing)}")
    for error in found:
        key = _key(error, content)
        line = next((lines[k] for k in _and_parents(key) if k in lines), None)
        where = f"{path}:{line}" if line else str(path)
        if error["type"] == "extra_forbidden":
            problems.append(f"{where}: unknown key {key!r}; {_nearest(model, error['loc'])}")
        elif error["type"] == "value_error":
            problems.append(f"{where}: {f'{key}: ' if key else ''}{error['ctx']['error']}")
        elif error["type"] != "missing":
            shown = "nothing" if error["input"] is None else repr(error["input"])
            problems.append(f"{where}: {key}: found {shown}; expected {_expected(error)}")
    raise UserError(join_problems(problems))


def suggest(word: str, known: Iterable[Any]) -> str:
    """List the ``known`` names similar to ``word``, or all of them."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]}?" if near else f"expected {', '.join(names)}"


def _check_nodes(node: Any, path: Path, key: str, as_text: bool, lines: dict[str, int]) -> None:
    """Record lines, reject duplicate keys, and resolve plain scalars."""
    lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _check_nodes(item, path, _join(key, number), as_text, lines)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for name, value in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                raise UserError(f"{path}:{line}: a key that is no text; write `key: value`")
            if name.tag == "tag:yaml.org,2002:merge":
                continue
            whole = _join(key, name.value)
            plain = unicodedata.normalize("NFC", name.value).strip()  # as in comparisons of text
            if plain in first:
                raise UserError(
                    f"{path}:{line}: {whole}: given a second time, first in line {first[plain]}; "
                    "keep one"
                )
            first[plain] = line
            _settle(name, path, whole, as_text, is_key=True)
            lines[whole] = line
            _check_nodes(value, path, whole, as_text, lines)
    else:
        _settle(node, path, key, as_text)


def _settle(
    node: yaml.ScalarNode, path: Path, key: str, as_text: bool, is_key: bool = False
) -> None:
    if node.style is not None or not node.tag.startswith("tag:yaml.org,2002:"):
        return
    kind = next((k for k, form in _YAML_12.items() if form.fullmatch(node.value)), "str")
    if as_text:
        node.tag = f"tag:yaml.org,2002:{'null' if kind == 'null' and not is_key else 'str'}"
    elif node.tag != f"tag:yaml.org,2002:{kind}":
        text, where = node.value, f"{path}:{node.start_mark.line + 1}: {key}"
        if kind == "float":
            mantissa, _, exponent = text.lower().partition("e")
            number = f"{float(mantissa)}e{exponent}" if exponent else float(text)
            raise UserError(f"{where}: YAML reads {text!r} as text; write {number}")
        truth = "true or false, or " if node.tag.endswith("bool") else ""
        raise UserError(
            f"{where}: {text} means one thing in YAML 1.1 and another in YAML 1.2; write "
            f"{truth}{text!r} in quotes if it is text"
        )


def _join(key: str, part: str | int) -> str:
    return f"{key}.{part}" if key else str(part)


def _and_parents(key: str) -> Iterator[str]:
    while key:
        yield key
        key = key.rpartition(".")[0]


def _key(error: Mapping[str, Any], content: Any) -> str:
    """Dotted key of an error, without the marks that pydantic adds for keys and unions."""
    parts: list[Any] = []
    here = content
    for part in error["loc"]:
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            if error["type"] not in ("missing", "extra_forbidden") or part != error["loc"][-1]:
                continue
        parts.append(part)
    return ".".join(map(str, parts))


def _nearest(model: Any, loc: tuple[Any, ...]) -> str:
    """Known keys similar to the unknown one at ``loc``."""
    for part in loc[:-1]:
        field = model.model_fields.get(part)
        inner = [field.annotation, *get_args(field.annotation)] if field else []
        inner += [a for arg in inner for a in get_args(arg)]
        model = next((a for a in inner if hasattr(a, "model_fields")), model)
    return suggest(str(loc[-1]), model.model_fields)


def _expected(error: Mapping[str, Any]) -> str:
    kind = error["type"]
    if kind == "literal_error":
        return "one of " + error["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
    for part, words in {
        "list": "a list, such as [a, b]",
        "dict": "`key: value` lines",
        "model": "`key: value` lines",
        "string": "text",
        "int": "a whole number",
        "greater": "0 or more",
    }.items():
        if kind.startswith(part):
            return words
    return error["msg"]


def check_config(path: Path | str, config: dict[str, Any], parser: argparse.ArgumentParser) -> None:
    """Reject keys unknown to ``parser`` and values of the wrong type.

    ESPnet does not check values from YAML; a wrong type would cause a traceback in the middle of a
    run.
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
    """Convert text such as "2e-5" in ``value`` to numbers, for command-line options."""
    if isinstance(value, dict):
        return {key: read_numbers(item) for key, item in value.items()}
    if isinstance(value, str) and NUMBER_AS_TEXT.fullmatch(value):
        return float(value)
    return value


def check_arguments(where: str, cls: type, conf: dict[str, Any]) -> None:
    """Reject keys that the constructor of ``cls`` does not take, and text for its numbers."""
    parameters = inspect.signature(cls.__init__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key, value in conf.items():
        if key not in parameters:
            known = [p for p in parameters if p != "self"]
            near = suggest(key, known)
            hint = f"; {near}" if near.startswith("did") else ""
            raise UserError(
                f"{where}: {cls.__name__} has no option {key!r}; it takes: {', '.join(known)}{hint}"
            )
        default = parameters[key].default
        is_number = isinstance(default, int | float) and not isinstance(default, bool)
        if is_number and not isinstance(value, int | float):
            raise UserError(f"{where}.{key}: found {value!r}; expected a number")
        if isinstance(default, bool) and not isinstance(value, bool):
            raise UserError(f"{where}.{key}: found {value!r}; expected true or false")


def encoder_confs(frontend: str, conf: dict[str, Any]) -> list[dict[str, Any]]:
    """HFFrontend options of each speech encoder in ``frontend_conf``, if any.

    Raises:
        UserError: ``upstreams`` that is not a list of options.
    """
    if frontend == "hf":
        return [conf]
    upstreams = conf.get("upstreams") or []
    if not isinstance(upstreams, list) or not all(isinstance(each, dict) for each in upstreams):
        raise UserError(
            f"frontend_conf.upstreams: found {upstreams!r}; expected a list of options, such as "
            "[{model: facebook/wav2vec2-base}]"
        )
    return upstreams


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """List changes from ``old`` to ``new`` as lines ``key: old -> new``."""
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
    """Expected value of the option if ``value`` does not fit; else None."""
    if type(action).__name__ == "NestedDictAction":
        return None if isinstance(value, dict) else "a mapping (key: value lines)"
    if action.choices is not None:
        choices = [c for c in action.choices if c is not None]
        fits = value in action.choices or str(value).lower() in choices
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return None if fits else "one of " + ", ".join(str(c) for c in choices) + hint
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
