"""Fast check of a system's YAML against sources that are parsed, not imported.

Importing ESPnet and torch takes ten seconds or more. Their command line, the optimizers, and the
classes of ser/models with their options are literals in the sources, so a misspelt key, a value of
the wrong type or an unknown class is reported at once. Anything that is not a literal passes here
and is checked by ser/training/settings against the classes themselves.
"""

import argparse
import ast
import copy
import functools
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from espnet2.utils import types
from espnet2.utils.nested_dict_action import NestedDictAction

import ser.models
import ser.training
from ser.config import (
    check_arguments,
    check_config,
    encoder_confs,
    load_config,
    read_numbers,
    suggest,
)
from ser.data.tables import read_lines
from ser.errors import UserError
from ser.models.lora import check_lora
from ser.models.registry import check_folder, check_head, is_whole, registered_name
from ser.stage import require_done
from ser.training.optim import check_factors

_ABSENT = object()
_MAPPING = {"action": NestedDictAction, "default": {}}
_ABS_TASK = "espnet2.tasks.abs_task"
LEAST = {"max_epoch": 1, "batch_size": 1, "accum_grad": 1, "patience": 0, "keep_nbest_models": 1}


def check_system(
    config: Path,
    extra_args: Sequence[str] = (),
    ssl: str = "",
    fold_dir: Path | None = None,
    folds: Sequence[str] = (),
) -> None:
    """Check a system's YAML and the folds to train, without importing a network.

    Args:
        config: The YAML.
        extra_args: ESPnet options, as given after ``--`` to run.sh.
        ssl: Replaces ``frontend_conf.model``.
        fold_dir: dump/<corpus>/folds/<protocol>, which stage 3 must have written.
        folds: Requested folds.

    Raises:
        UserError: naming the file and key, or the option, and valid alternatives.
    """
    content = load_config(config)
    parser = task_parser()
    check_config(config, content, parser)
    known = {option for action in parser._actions for option in action.option_strings}
    for option in (arg.partition("=")[0] for arg in extra_args if arg.startswith("--")):
        if not any(name.startswith(option) for name in known):  # argparse accepts prefixes
            raise UserError(f"-- {option}: no such option; {suggest(option, known)}")
    parser.set_defaults(**content)
    given = read_numbers(vars(parser.parse_args(extra_args)))
    try:
        _check_numbers(given)
        _check_classes(given)
        _check_training(given)
        for options in encoder_confs(given["frontend"], given["frontend_conf"]):
            model = ssl or options.get("model")
            check_lora({**options, "init": "pretrained"} if ssl else options)
            if isinstance(model, str):
                check_folder(model, weights=bool(ssl) or options.get("init") != "random")
    except UserError as err:
        where = f"{config} with the options after --" if extra_args else config
        raise UserError(f"{where}: {err}") from None
    if fold_dir is not None:
        require_done(fold_dir, 3, f"the folds of protocol {fold_dir.name}")
        check_folds(fold_dir, folds)


def check_folds(fold_dir: Path, folds: Sequence[str]) -> list[str]:
    """Return ``folds``, or all of the protocol if empty; UserError for an unknown fold."""
    known = read_lines(fold_dir / "folds")
    unknown = [fold for fold in folds if fold not in known]
    if unknown:
        raise UserError(
            f"--folds {' '.join(unknown)}: not in protocol {fold_dir.name}; it has "
            f"{' '.join(known)}"
        )
    return list(folds or known)


def task_parser() -> argparse.ArgumentParser:
    """Build the task's command line from its sources, with types resolved by name."""
    parser = argparse.ArgumentParser()
    parser.error = refuse
    parser.add_argument("--config")
    sources = [_module(_ABS_TASK), *sorted(Path(*ser.training.__path__).glob("*.py"))]
    for source in sources:
        for node in ast.walk(_parsed(source)):
            for name, options in _declared(node):
                if f"--{name}" not in parser._option_string_actions:
                    parser.add_argument(f"--{name}", **options)
    return parser


def refuse(message: str) -> None:
    """Raise UserError with what argparse says about an option of the YAML or after --."""
    raise UserError(f"training options: {message}; see conf/ for examples")


def _declared(node: ast.AST) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, arguments of add_argument) for each option that ``node`` declares."""
    if isinstance(node, ast.Dict):  # name -> arguments
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Dict):
                pairs = zip(value.keys, value.values, strict=True)
                given = {k.value: v for k, v in pairs if _is_text(k)}
                mapping = _MAPPING if None in value.keys else {}
                if "help" in given:
                    yield key.value, {**_arguments(given), **mapping}
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
        parts = getattr(node.args[0], "values", [node.args[0]]) if node.args else []
        name = "".join(part.value for part in parts if _is_text(part))
        if len(name) > 2 and name.startswith("--"):
            yield name[2:], _arguments({word.arg: word.value for word in node.keywords})
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ClassChoices":
        choices = [*_choices(node)]
        if choices and _is_text(node.args[0]):
            name = node.args[0].value
            default = next(word.value for word in node.keywords if word.arg == "default")
            yield name, {"type": str, "choices": choices, "default": _literal(default)}
            yield f"{name}_conf", _MAPPING


def _arguments(given: Mapping[str, ast.expr]) -> dict[str, Any]:
    """Literal arguments of add_argument that ``check_config`` reads."""
    action, kind = given.get("action"), given.get("type")
    if getattr(action, "id", "") == "NestedDictAction":
        return _MAPPING
    options: dict[str, Any] = {"action": action.value} if _is_text(action) else {}
    if kind is not None:  # Python's, ESPnet's, or a lambda of these
        options["type"] = eval(ast.unparse(kind), dict(vars(types)))
    for name in ("nargs", "choices", "default"):
        value = _literal(given[name]) if name in given else None
        if value is not _ABSENT and (value is not None or name == "default"):
            options[name] = value
    if "choices" in given and "choices" not in options:
        words = {node.id for node in ast.walk(given["choices"]) if isinstance(node, ast.Name)}
        known = [name for table in words for name in _table(table)]
        if known:
            options["choices"] = known + [None] * ("None" in ast.unparse(given["choices"]))
    if "default" in given and "default" not in options:
        options["default"] = _ABSENT  # which is not None, and no text to convert
    return options


@functools.cache
def _table(name: str) -> dict[str, ast.expr]:
    """Entries of a table of ESPnet's, such as optim_classes, that its packages allow."""
    found = {}
    for node in _parsed(_module(_ABS_TASK)).body:
        imports = [part for part in getattr(node, "body", ()) if isinstance(part, ast.Import)]
        if not all(importlib.util.find_spec(each.names[0].name) for each in imports):
            continue
        for part in ast.walk(node):
            owner, value = None, part
            if isinstance(part, ast.Assign):
                owner, value = part.targets[0], part.value
            elif isinstance(part, ast.Call) and getattr(part.func, "attr", "") == "update":
                owner = part.func.value
            if getattr(owner, "id", "") == name:
                found |= {word.arg.lower(): word.value for word in getattr(value, "keywords", ())}
    return found


@dataclass(frozen=True)
class Declared:
    """A class of ser/models as declared in its source, with its constructor's ``signature``."""

    name: str
    bases: tuple[str, ...]
    abstract: bool
    signature: inspect.Signature | None
    constants: Mapping[str, Any]


@functools.cache
def _model_classes() -> dict[str, Declared]:
    found = {}
    for path in sorted(Path(*ser.models.__path__).glob("*.py")):
        for node in _parsed(path).body:
            if isinstance(node, ast.ClassDef):
                found[node.name] = _class(node)
    return found


def _class(node: ast.ClassDef) -> Declared:
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    marks = {getattr(mark, "id", "") for item in methods for mark in item.decorator_list}
    start = next((item.args for item in methods if item.name == "__init__"), None)
    constants = {
        target.id: item.value.id
        for item in node.body
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Name)
        for target in item.targets
        if isinstance(target, ast.Name)
    }
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and item.value]
    if start is None and "dataclass" in "".join(map(ast.unparse, node.decorator_list)):
        names = [ast.arg(item.target.id) for item in fields]
        start = ast.arguments([], names, None, [], [], None, [item.value for item in fields])
    return Declared(
        node.name,
        tuple(base.id for base in node.bases if isinstance(base, ast.Name)),
        "abstractmethod" in marks,
        _signature(start) if start else None,
        constants,
    )


def _signature(args: ast.arguments) -> inspect.Signature:
    """Names and literal defaults of these arguments; other defaults are None."""

    def plain(default: ast.expr | None) -> ast.expr | None:
        return ast.Constant(None) if default and _literal(default) is _ABSENT else default

    bare = copy.deepcopy(args)
    for part in ast.walk(bare):
        if isinstance(part, ast.arg):
            part.annotation = None
    bare.vararg, bare.defaults = None, list(map(plain, args.defaults))
    bare.kw_defaults = list(map(plain, args.kw_defaults))
    return inspect.signature(eval(f"lambda {ast.unparse(bare)}: None"))


def _subclasses(parent: str, suffix: str) -> dict[str, Declared]:
    """Classes by registered name, as in ``find_classes``."""
    classes = _model_classes()

    def descends(name: str) -> bool:
        bases = classes[name].bases if name in classes else ()
        return parent in bases or any(descends(base) for base in bases)

    return {
        registered_name(name, suffix): declared
        for name, declared in classes.items()
        if descends(name) and not declared.abstract and not name.startswith("_")
    }


def _inherited(declared: Declared) -> Iterator[Declared]:
    yield declared
    for base in declared.bases:
        if base in _model_classes():
            yield from _inherited(_model_classes()[base])


def _choices(call: ast.Call) -> Iterator[str]:
    """Names that a ClassChoices offers: registered classes, and keys of a dict added to them."""
    for node in ast.walk(call):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "find_classes":
            yield from _subclasses(node.args[0].id, node.args[1].value)
        elif isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if _is_text(key))


def _check_numbers(given: Mapping[str, Any]) -> None:
    """Reject numbers with which nothing would be trained or kept."""
    for key, least in LEAST.items():
        values = given[key] if isinstance(given[key], list) else [given[key]]
        if not all(value is None or is_whole(value, least) for value in values):
            raise UserError(f"{key}: found {given[key]}; expected a whole number, {least} or more")


def _check_training(given: Mapping[str, Any]) -> None:
    """Reject options that the optimizer, scheduler or a phase does not have or would not use."""
    check_factors(given["lr_conf"])
    if given["scheduler_conf"] and not given["scheduler"]:
        raise UserError(
            "scheduler_conf: there is no scheduler that would use it; add scheduler, or remove it"
        )
    chosen = {"heads_first": "HeadsFirst", "fit": "FitConf"}
    for key in ("optim", "scheduler"):
        if given[key]:
            chosen[key] = ast.unparse(_table(f"{key}_classes")[given[key]])
    for key, name in chosen.items():
        declared = _class_of_training(name)
        conf = {option: value for option, value in given[f"{key}_conf"].items() if value != "auto"}
        if declared is not None:
            check_arguments(f"{key}_conf", _stand_in(declared), conf)


def _class_of_training(name: str) -> Declared | None:
    """Find a class of torch's optimizers and schedulers (torch.optim...), ESPnet's or our own."""
    espnet = _module("espnet2").parent
    folders = [Path(*ser.training.__path__), espnet / "optimizers", espnet / "schedulers"]
    if name.startswith("torch."):
        folders, name = [_module("torch").parent / "optim"], name.rpartition(".")[2]
    for path in (path for folder in folders for path in sorted(folder.glob("*.py"))):
        if re.search(rf"(?m)^class {name}\b", path.read_text(encoding="utf-8")):
            nodes = (node for node in _parsed(path).body if isinstance(node, ast.ClassDef))
            return _class(next(node for node in nodes if node.name == name))
    return None


def _check_classes(given: Mapping[str, Any]) -> None:
    """Reject options that a chosen class does not have, and heads of unknown type."""
    for what in ("frontend", "encoder", "pooling"):
        found = _subclasses(f"Abs{what.title()}", what.title()).get(given[what])
        if found is not None:
            check_arguments(f"{what}_conf", _stand_in(found), given[f"{what}_conf"])
    model = _model_classes()["SERModel"]
    options = [p for p in model.signature.parameters.values() if p.default is not p.empty]
    options = [p for p in options if p.name != "class_counts"]  # which stage 4 sets
    model = replace(model, signature=inspect.Signature(options))
    check_arguments("model_conf", _stand_in(model), given["model_conf"])
    heads = _subclasses("AuxHead", "Head")
    options = {kind: _head_options(declared) for kind, declared in heads.items()}
    for name, entry in given["aux_conf"].items():
        check_head(f"aux_conf.{name}", entry, options)


def _head_options(declared: Declared) -> list[str]:
    chain = list(_inherited(declared))
    start = next(each.signature for each in chain if each.signature)
    keys = [p.name for p in start.parameters.values() if p.kind is p.KEYWORD_ONLY]
    kind = next(each.constants["targets"] for each in chain if "targets" in each.constants)
    return ["type", "weight", *(["table"] if kind != "UNITS" else []), *keys]


def _stand_in(declared: Declared) -> type:
    """Make a class with the same name and the same constructor signature."""

    def start(*args: Any, **kwargs: Any) -> None:
        pass

    signature = next((each.signature for each in _inherited(declared) if each.signature), None)
    if signature is not None:
        start.__signature__ = signature
    return type(declared.name, (), {"__init__": start})


def _module(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise UserError(f"{name}: not installed; run make install")
    return Path(spec.origin)


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return _ABSENT
