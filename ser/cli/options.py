"""Option syntax: dashes or underscores, BOOLs and lists as in Kaldi.

Also options shared by several commands.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ser.errors import UserError

# dashes and underscores are equivalent in option names
CONTEXT = {
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "max_content_width": 100,
    "help_option_names": ["-h", "--help"],
}
BOOLS = {"true": True, "false": False}

DataDir = Annotated[Path, typer.Option(help="data/<corpus>, written by stages 1 and 2")]
DumpDir = Annotated[Path, typer.Option(help="dump/<corpus>, written by stage 3")]
Protocol = Annotated[
    str, typer.Option(help="strict, paper, session, official, crossed<k>, kfold<k>")
]
Folds = Annotated[str, typer.Option(help='these only, e.g. "Ses01F Ses01M"; default: all')]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; auto: a GPU if any")]
Backend = Annotated[str, typer.Option(envvar="SER_BACKEND", help="local or slurm")]
ExpDirs = Annotated[
    list[Path],
    typer.Option("--exp-dir", help="exp/<corpus>/<tag>; may be given several times"),
]
Experiments = Annotated[
    Path | None, typer.Option(help="a sweep's list of experiments, in place of --exp-dir")
]
Model = Annotated[
    str,
    typer.Option(
        metavar="DIR|ZIP|HUB_ID|EXP",
        help="packed model (folder, zip or hub id), or exp/<corpus>/<tag>; default: the "
        "experiment under exp/, if there is only one",
    ),
]
EspnetOptions = Annotated[
    list[str] | None, typer.Argument(help="ESPnet's options, e.g. -- --optim_conf lr=1.0e-4")
]


def rewrite(command: Any, arguments: Sequence[str]) -> list[str]:
    """Rewrite ``arguments`` of ``command`` to click's syntax.

    ``--status true`` and ``--status=true`` become ``--status``, with false they are removed;
    ``--compare A B`` becomes ``--compare A --compare B``. Words after ``--`` are unchanged.
    """
    options = {name: p for p in command.params for name in p.opts if name.startswith("-")}
    rest, written = list(arguments), []
    while rest and rest[0] != "--":
        word = rest.pop(0)
        name, _, value = word.partition("=")
        option = options.get(name.replace("_", "-"))
        if getattr(option, "is_flag", False):
            if not value and rest and rest[0] in BOOLS:
                value = rest.pop(0)
            if value and value not in BOOLS:
                raise UserError(f"{word}: expected true or false")
            written += [name] if BOOLS.get(value, True) else []
        elif getattr(option, "multiple", False) and word == name:
            values = []
            while rest and not rest[0].startswith("--"):
                values.append(rest.pop(0))
            written += [part for each in values for part in (name, each)] or [name]
        else:
            written.append(word)
    return written + rest


def call(application: typer.Typer, arguments: Sequence[str], program: str) -> None:
    """Run a command of ``application``; exit with 2 for invalid options."""
    command, words = typer.main.get_command(application), list(arguments)
    chosen = getattr(command, "commands", {}).get(words[0]) if words else None
    if chosen is None:
        command.main(rewrite(command, words), prog_name=program)
    elif chosen.context_settings.get("allow_interspersed_args", True):
        command.main([words[0], *rewrite(chosen, words[1:])], prog_name=program)
    else:
        command.main(words, prog_name=program)
