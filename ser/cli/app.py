"""The command ``ser``: one command line for everything that has one.

A command is a function with typed parameters; its help, its completion and docs/reference.md come
from there. What takes long to import is imported inside the functions: ``ser --help`` must not
wait for it.
"""

import os
import sys
from collections.abc import Sequence

import typer

from ser.cli import jobs, predict, recipe, stages, tools
from ser.cli.options import CONTEXT, rewrite
from ser.console import run

EXIT_PIPE = 141  # what shells show for a program that a closed pipe has ended
COMMANDS = (
    *(predict.predict, tools.demo, tools.export),
    *(stages.data, stages.lang, stages.dump, stages.train, stages.score, stages.report),
    *(stages.pack, tools.status, tools.compare, tools.manifest, tools.audit, jobs.jobs),
)
# Called by run.sh, the scripts of jobs and make.
INTERNAL = (
    *(recipe.leakage, tools.paper, jobs.stage, jobs.task, tools.reference, tools.mini_encoder),
)
PASS_ON = {**CONTEXT, "allow_interspersed_args": False}  # what follows LOG is another's

app = typer.Typer(
    name="ser",
    help="Train, score and use systems of speech emotion recognition. The whole recipe: ./run.sh",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=CONTEXT,
)
for function in (*COMMANDS, *INTERNAL):
    context = PASS_ON if function in (jobs.jobs, jobs.stage, jobs.task) else CONTEXT
    app.command(hidden=function in INTERNAL, context_settings=context)(function)


def main() -> None:
    """Run the command that the command line names."""
    run(lambda: call(app, sys.argv[1:], "ser"))


def call(application: typer.Typer, arguments: Sequence[str], program: str) -> None:
    """Run a command of ``application``; exits with 2 where the options do not fit."""
    command, words = typer.main.get_command(application), list(arguments)
    chosen = getattr(command, "commands", {}).get(words[0]) if words else None
    try:
        if chosen is None:
            command.main(rewrite(command, words), prog_name=program)
        elif chosen.allow_interspersed_args:
            command.main([words[0], *rewrite(chosen, words[1:])], prog_name=program)
        else:
            command.main(words, prog_name=program)
    except BrokenPipeError:  # ser predict ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_PIPE)
