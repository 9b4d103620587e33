"""Generate docs/reference.md, every option, from the code that uses it. Called by make docs.

Nothing is described twice: options of run.sh and ``ser`` come from their functions, those of a
system's YAML from ESPnet's parser with the task's own options, from constructors and from the
``Args`` of their docstrings. The text does not depend on the width of the terminal, the Python
version or the recipe's folder.
"""

import ser.training.espnet_import  # noqa: F401, I001 (has to come first)

import argparse
import inspect
import re
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from espnet2.layers.mask_along_axis import MaskAlongAxisVariableMaxWidth
from espnet2.tasks.abs_task import optim_classes, scheduler_classes

from reference_text import Row, cell, code, layout, table
from ser.cli import app, recipe
from ser.config import load_config
from ser.training import optim
from ser.training import sweep
from ser.files import ROOT, atomic_write
from ser.corpora import ANY_CORPUS, MAKERS, READERS
from ser.corpora.spec import KEYS
from ser.models.encoders import ConvLayer
from ser.data.features import FEATS_SIZES, FEATS_TYPES
from ser.data.video import AUDIO_VIDEO, audio_video
from ser.models.heads import aux_heads
from ser.training.linear_fit import FitConf
from ser.models.model import SERModel
from ser.cluster.slurm_conf import OWN_OPTIONS as SLURM_OWN_OPTIONS
from ser.cluster.slurm_conf import SECTIONS
from ser.training.task import SERTask
from ser.training.folds import OWN_OPTIONS
from ser.training.trainer import SERTrainer
from ser.lang.units import TOKEN_TYPES

ESPNET = "https://espnet.github.io/espnet/espnet2_training_option.html"
HEAD = """# Reference: every option

<!-- Written by `make docs`; edit the help texts and docstrings in the code, not this file. -->

- [run.sh](#runsh)
- [ser COMMAND](#ser-command): """
CONF = """## A system's YAML

The files of [conf](../conf), `--config FILE`. What follows `--` on `run.sh` overrides it:
`key: value` is `-- --key value`, a value in a mapping is `-- --optim_conf lr=1.0e-4` (dots go
deeper: `-- --aux_conf pr.weight=0.01`). An unknown key, or a value of the wrong type, is refused
before anything runs.

`base: FILE` makes a file say only how it differs from another, named relative to itself: mappings
are merged key by key, `null` removes a key, `{}` empties a mapping. `system.yaml` in the
experiment's folder holds the result.
"""
REST = f"""### Options of ESPnet that conf/ sets

`default` is ESPnet's, `in conf/` what the files there say. The parser is ESPnet's own, so that
[all the others]({ESPNET}) can be set too. All of them, with their defaults:
`.venv/bin/python -c 'from ser.training.task import SERTask; SERTask.get_parser().print_help()'`"""
SET_BY_RUN = "Set by `run.sh` for each fold, and refused in the YAML: "


MOST_CHOICES = 8  # listed with the option; more have their own section


def reference() -> str:
    """Text of docs/reference.md."""
    parts = [HEAD + ", ".join(f"[{name}](#ser-{name})" for name in commands())]
    parts += ["- [A system's YAML](#a-systems-yaml): [the recipe's options](#the-recipes-options)"]
    parts[-1] += "".join(
        f", [{title}](#{_anchor(title)})"
        for title in ("Auxiliary heads", "Frontends", "Encoders", "Poolings", "Optimisers")
    )
    parts[-1] += ", [schedules](#schedules), [ESPnet's options](#options-of-espnet-that-conf-sets)"
    parts += ["- [A sweep's YAML](#a-sweeps-yaml), [corpus.yaml](#corpusyaml), "]
    parts[-1] += "[conf/slurm.conf](#confslurmconf), [make](#make)\n"
    parts += [run_section(), commands_section(), CONF, *task_section(), *networks_section()]
    parts += [*optimisation_section(), espnet_section(), sweep_section(), corpus_section()]
    parts += [slurm_section(), make_section()]
    return "\n".join(parts).rstrip() + "\n"


# --- command lines -------------------------------------------------------------------------------


def run_section() -> str:
    """Options of run.sh."""
    command = typer.main.get_command(recipe.app)
    about = "`--name value` or `--name=value`; dashes or underscores."
    return f"## run.sh\n\n{about}\n\n{options_table(command)}"


def commands_section() -> str:
    """All subcommands of ``ser``."""
    parts = ["## ser COMMAND\n\n`.venv/bin/ser COMMAND`, or `.venv/bin/python -m ser COMMAND`.\n"]
    for name, command in commands().items():
        parts += [f"### ser {name}\n", layout(inspect.cleandoc(command.help).replace("\b\n", ""))]
        parts += [options_table(command)]
    return "\n".join(parts)


def commands() -> dict[str, Any]:
    """Commands of ``ser`` meant for users."""
    found = typer.main.get_command(app.make_app()).commands
    return {name: command for name, command in found.items() if not command.hidden}


def options_table(command: Any) -> str:
    """Rows (option, default, help) for the parameters of a command, in its order."""
    rows = []
    for parameter in command.params:
        if parameter.name in ("help", "ctx") or parameter.hidden:
            continue
        option = parameter.param_type_name == "option"
        value = "" if getattr(parameter, "is_flag", False) else _metavar(parameter)
        written = f"{parameter.opts[0]} {value}".strip() if option else value
        shown = getattr(parameter, "show_default", None)
        default = shown if isinstance(shown, str) else _value(parameter.default)
        has_default = parameter.default not in (None, "", [], False, ()) or isinstance(shown, str)
        required = ", required" if option and parameter.required else ""
        rows.append(
            (code(written) + required, code(default) if has_default else "", cell(parameter.help))
        )
    return table(("option", "default", ""), rows) + "\n"


def _metavar(parameter: Any) -> str:
    """Value of ``--option`` as shown by --help; a list of choices, or N for a number."""
    if parameter.metavar:
        return parameter.metavar
    kind = parameter.type_descriptor.annotation
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    kind = next(iter(get_args(kind)), kind)  # of a list or an optional
    return {int: "N", float: "N", Path: "PATH"}.get(kind, "TEXT")


# --- a system's YAML -----------------------------------------------------------------------------


def own_actions() -> dict[str, argparse.Action]:
    """Options that this recipe adds to ESPnet's, by name."""
    parser = argparse.ArgumentParser()
    parser.set_defaults(required=[])
    known = set(parser._option_string_actions)
    SERTrainer.add_arguments(parser)
    SERTask.add_task_arguments(parser)
    added = parser._option_string_actions
    return {added[name].dest: added[name] for name in added if name not in known}


def espnet_actions() -> dict[str, argparse.Action]:
    """ESPnet's own options by name."""
    actions = {action.dest: action for action in SERTask.get_parser()._actions}
    return {name: action for name, action in actions.items() if name not in own_actions()}


def configurations() -> dict[str, dict[str, Any]]:
    """Systems of conf/ by file name."""
    return {path.name: load_config(path) for path in sorted((ROOT / "conf").glob("*.yaml"))}


def task_section() -> list[str]:
    """Options of the task and the trainer, and the keys of their mappings."""
    actions = own_actions()
    rows = [action_row(a) for name, a in actions.items() if name not in OWN_OPTIONS]
    parts = ["### The recipe's options\n", table(("key", "type", "default", ""), rows) + "\n"]
    parts += [SET_BY_RUN + ", ".join(map(code, OWN_OPTIONS)) + ".\n"]
    rows = [(code(name), cell(text)) for name, text in TOKEN_TYPES.items()]
    parts += ["#### token_type\n", table(("value", "units"), rows) + "\n"]
    rows = [("`raw`", "", "16-kHz waveforms")]
    for name, compute in {**FEATS_TYPES, AUDIO_VIDEO: audio_video}.items():
        about = inspect.cleandoc(compute.__doc__).split("\n\n")[0]
        rows.append((code(name), str(FEATS_SIZES[name]), cell(about)))
    parts += ["#### feats_type\n", table(("value", "values of a frame", ""), rows) + "\n"]
    options = [p for p in _options(SERModel) if p.name in actions["model_conf"].default]
    parts += ["#### model_conf\n", _constructor_table(SERModel, options)]
    parts += ["#### fit_conf\n\n" + class_text(FitConf) + "\n"]
    parts += [_constructor_table(FitConf, _options(FitConf))]
    parts += ["#### lr_conf\n", layout(optim.__doc__, indented="yaml")]
    parts += ["### Auxiliary heads\n\n`aux_conf` holds an entry for each head: its name, and\n"]
    parts += [
        table(
            ("key", ""),
            [
                ("`type`", "the class: " + ", ".join(map(code, aux_heads()))),
                ("`weight`", "lambda of eq. 1, 0 or more; must be given"),
                ("`table`", "of labels or values: a table of dump/\\<corpus>, or the path of one; "
                 "default: `utt2<name>`"),
            ],
        )
        + "\n"
    ]  # fmt: skip
    for name, cls in aux_heads().items():
        keywords = [p for p in _options(cls) if p.kind is p.KEYWORD_ONLY]
        parts += [f"#### type: {name}\n\nLearns {cls.targets}. " + class_text(cls) + "\n"]
        parts += [_constructor_table(cls, keywords)]
    return parts


def networks_section() -> list[str]:
    """Classes available for ``frontend``, ``encoder`` and ``pooling``."""
    parts = []
    for choices, title in zip(
        SERTask.class_choices_list, ("Frontends", "Encoders", "Poolings"), strict=True
    ):
        key = choices.name
        parts += [f"### {title}\n\n`{key}` chooses, `{key}_conf` holds options.\n"]
        for name, cls in choices.classes.items():
            default = " (default)" if name == choices.default else ""
            parts += [f"#### {key}: {name}{default}\n\n{class_text(cls)}\n"]
            given = () if key == "frontend" else ("input_size",)
            parts += [_constructor_table(cls, [p for p in _options(cls) if p.name not in given])]
            if name == "hf":
                cls = MaskAlongAxisVariableMaxWidth
                options = [p for p in _options(cls) if p.name != "dim"]
                parts += [f"`time_mask`: {class_text(cls)}\n", _constructor_table(cls, options)]
            if name == "conv_recurrent":
                options = [p for p in _options(ConvLayer) if p.name != "in_channels"]
                parts += [f"A layer of `convs`: {class_text(ConvLayer)}\n"]
                parts += [_constructor_table(ConvLayer, options)]
    return parts


def optimisation_section() -> list[str]:
    """Optimisers and schedules by name, with the options of their constructors."""
    parts = []
    for title, key, classes, about in (
        ("Optimisers", "optim", optim_classes, ""),
        (
            "Schedules",
            "scheduler",
            scheduler_classes,
            " `max_steps: auto` is the number of steps of the whole training.",
        ),
    ):
        rows = []
        for name, cls in classes.items():
            options = [p for p in _options(cls) if p.name not in ("params", "optimizer", "verbose")]
            written = ", ".join(
                p.name if p.default is p.empty else f"{p.name}={_value(p.default)}" for p in options
            )
            origin = cls.__module__.split(".")[0]
            rows.append((code(name), f"{origin}: {cls.__name__}", code(written)))
        parts += [f"### {title}\n\n`{key}` chooses, `{key}_conf` holds options.{about}\n"]
        parts += [table((key, "class", "options and their defaults"), rows) + "\n"]
    return parts


def espnet_section() -> str:
    """ESPnet options that are set by any file of conf/."""
    systems, actions = configurations(), espnet_actions()
    used = dict.fromkeys(key for config in systems.values() for key in config)
    rows = []
    for key, action in actions.items():
        if key in used:
            values = {_value(config[key]) for config in systems.values() if key in config}
            listed = (
                "" if key.endswith("_conf") else ", ".join(map(code, sorted(values, key=_order)))
            )
            first = re.split(r"\n|(?<=\.) ", (action.help or "").strip())[0]
            about = "" if first.startswith('"') else cell(first)  # of the choices, one by one
            rows.append((*action_row(action)[:3], listed, about))
    return f"{REST}\n\n{table(('key', 'type', 'default', 'in conf/', ''), rows)}\n"


def action_row(action: argparse.Action) -> Row:
    """Row (key, type, default, help) of an option as a YAML key."""
    default = "" if action.default is None else code(_value(action.default))
    return code(action.dest), _kind(action), default, cell(action.help or "")


def _kind(action: argparse.Action) -> str:
    """Type of a YAML value, in words."""
    if type(action).__name__ == "NestedDictAction":
        return "mapping"
    if action.choices is not None:
        named = [choice for choice in action.choices if choice is not None]
        return ", ".join(map(code, named)) if len(named) <= MOST_CHOICES else "choice"
    name = getattr(action.type, "__name__", "str").removesuffix("_or_none")
    words = {"int": "whole number", "float": "number", "str2bool": "true or false", "str": "text"}
    word = words.get(name, "list" if name == "str2triple_str" else "text")
    return "list" if action.nargs in ("*", "+") else word


# --- constructors --------------------------------------------------------------------------------


def class_text(cls: type) -> str:
    """Docstring of a class before its ``Args``, and the class's file."""
    if cls.__module__.split(".")[0] != "ser":
        return f"ESPnet's `{cls.__module__}.{cls.__name__}`."
    about = re.split(r"\n+Args:\n", inspect.cleandoc(cls.__doc__))[0]
    path = f"{cls.__module__.replace('.', '/')}.py"
    return layout(about).rstrip() + f" ([{path}](../{path}))"


def arguments(cls: type) -> dict[str, str]:
    """Name -> text of the ``Args`` section of a class's docstring; several may share a line."""
    section = re.search(r"^Args:\n((?: .*\n?|\n(?= ))*)", inspect.cleandoc(cls.__doc__ or ""), re.M)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (section[1] if section else "").splitlines():
        start = re.match(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if start:
            names = start[1].split(", ")
            found |= dict.fromkeys(names, start[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _options(cls: type) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def _constructor_table(cls: type, options: Iterable[inspect.Parameter]) -> str:
    """Table of options with type, default and text, or a note if there are none."""
    about = arguments(cls)
    rows = []
    for option in options:
        default = "required" if option.default is option.empty else code(_value(option.default))
        kind = code(_annotation(option.annotation)) if option.annotation != option.empty else ""
        rows.append((code(option.name), kind, default, cell(about.get(option.name, ""))))
    if not rows:
        return "No options.\n"
    if not any(row[3] for row in rows):
        return table(("option", "type", "default"), [row[:3] for row in rows]) + "\n"
    return table(("option", "type", "default", ""), rows) + "\n"


def _annotation(annotation: Any) -> str:
    plain = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    text = annotation.__name__ if plain else str(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text).replace("NoneType", "None")


# --- the other files -----------------------------------------------------------------------------


def sweep_section() -> str:
    """Format of a file in conf/sweeps."""
    keys = ", ".join(map(code, sweep.KEYS))
    return f"## A sweep's YAML\n\nKeys: {keys}.\n\n{layout(sweep.__doc__, indented='yaml')}"


def corpus_section() -> str:
    """egs/<corpus>/corpus.yaml."""
    readers, makers = (", ".join(map(code, names)) for names in (READERS, MAKERS))
    any_corpus = ", ".join(map(code, ANY_CORPUS))
    rows = [(code(key), cell(text)) for key, text in KEYS.items()]
    return (
        "## corpus.yaml\n\n`egs/<name>/corpus.yaml`, a corpus; [corpora.md](corpora.md) has "
        f"examples. `reader`: {readers}, of which {any_corpus} read any corpus. "
        f"`maker`: {makers}.\n\n"
        f"{table(('key', ''), rows)}\n"
    )


def slurm_section() -> str:
    """conf/slurm.conf."""
    sections = " and ".join(f"`[{name}]`" for name in SECTIONS)
    rows = [(code(name), cell(text)) for name, text in SLURM_OWN_OPTIONS.items()]
    return (
        "## conf/slurm.conf\n\n`key = value` is `--key=value` of sbatch, any long option of it; "
        f"sections {sections} ([cluster.md](cluster.md)). Refused:\n\n"
        f"{table(('key', 'instead'), rows)}\n"
    )


def make_section() -> str:
    """Targets and variables of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    rows = [
        (code(f"make {name}"), cell(about))
        for name, about in re.findall(r"^([a-z-]+):.*?## (.*)$", text, re.MULTILINE)
    ]
    header = [line[2:] for line in text.splitlines()[1:] if line.startswith("# make ")]
    rows += [
        (code(head), cell(about))
        for head, about in (re.split(r" {2,}", line, maxsplit=1) for line in header)
    ]
    return f"## make\n\n{table(('call', ''), rows)}\n"


def _value(value: Any) -> str:
    """Format a value as in a YAML file."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return value.__name__ if isinstance(value, type) else str(value)


def _order(text: str) -> tuple[bool, float, str]:
    """Sort key: numbers by size, then text."""
    number = re.fullmatch(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", text)
    return number is None, float(text) if number else 0.0, text


def _anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


if __name__ == "__main__":
    with atomic_write(Path(sys.argv[1])) as stream:
        stream.write(reference())
