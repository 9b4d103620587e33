"""The command ``ser`` with all commands of the recipe.

A command is a function with typed parameters; its help, its completion and docs/reference.md are
generated from it. Slow modules are imported inside the functions, so that ``ser --help`` does not
wait for them.
"""

import sys
from importlib import import_module

import typer

from ser.cli.options import CONTEXT, call
from ser.console import run

# Command -> its module, in the order of ser --help.
COMMANDS = {
    "predict": "predict",
    **dict.fromkeys(("data", "lang", "dump"), "stages"),
    "train": "train",
    "score": "stages",
    "report": "report",
    "pack": "stages",
    **dict.fromkeys(("demo", "export", "status", "compare", "crosscorpus"), "tools"),
    **dict.fromkeys(("robustness", "manifest", "audit", "release"), "tools"),
    "jobs": "jobs",
}
# Called by run.sh, job scripts and make.
INTERNAL = {"leakage": "recipe", "plan": "train", "paper": "tools", "stage": "jobs", "task": "jobs"}
PASS_ON = {**CONTEXT, "allow_interspersed_args": False}  # the words after LOG are another command's


def make_app(only: str = "") -> typer.Typer:
    """Make the command line with all commands, or with only one, which is quicker to import."""
    app = typer.Typer(
        name="ser",
        help="Train, score and use systems of speech emotion recognition. All stages: ./run.sh",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=CONTEXT,
        callback=lambda: None,  # a group even with one command
    )
    for hidden, table in ((False, COMMANDS), (True, INTERNAL)):
        for name in table if not only else {only} & {*table}:
            function = getattr(import_module(f"ser.cli.{table[name]}"), name)
            context = PASS_ON if name in ("jobs", "stage", "task") else CONTEXT
            app.command(name, hidden=hidden, context_settings=context)(function)
    return app


def main() -> None:
    """Run the command named on the command line."""
    name = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else ""
    known = name in {**COMMANDS, **INTERNAL}
    run(lambda: call(make_app(name if known else ""), sys.argv[1:], "ser"))
