"""The command ``ser``: the subcommands for using what the recipe has trained."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ser.console import run

# name -> (module with add_arguments(parser) and run(args), one line of help)
COMMANDS = {
    "predict": ("ser.cli.commands.predict", "the emotions in recordings, and when they change"),
    "demo": (
        "ser.cli.commands.demo",
        "a page on which to drop or record speech and see its emotions",
    ),
    "pack": ("ser.cli.commands.pack", "a trained model as one folder to share"),
    "export": ("ser.cli.commands.export", "a model as ONNX"),
    "manifest": ("ser.cli.commands.manifest", "a corpus and its folds for lhotse and EmoBox"),
    "report": ("ser.cli.commands.report", "an experiment as one HTML page"),
    "completion": ("ser.cli.commands.completion", "let the shell complete these commands"),
}
WHAT_FOR = "Predict the emotions in recordings, share models and look at results."
EXAMPLES = """examples:
  ser predict recording.wav --model exp/iemocap/s1_mtl_phoneme_strict_seed1
  ser COMMAND --help          all options of a command, with examples

Training and scoring: ./run.sh --help
"""
EXIT_USAGE = 2
EXIT_PIPE = 141  # what shells show for a program that a closed pipe has ended


def main() -> None:
    """Run the subcommand that the command line names."""
    run(lambda: _main(sys.argv[1:]))


def _main(argv: Sequence[str]) -> None:
    parser = _parser()
    if not argv:
        parser.print_help(sys.stderr)
        sys.exit(EXIT_USAGE)
    name = parser.parse_args(argv[:1]).command
    # Only now, and only that one: ser --help must not wait for the imports of all commands.
    args = _parse(command_parser(name), argv[1:])
    try:
        _module(name).run(args)
        if sys.stdout is not None:  # closed
            sys.stdout.flush()
    except BrokenPipeError:  # ser predict ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_PIPE)


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """``argv`` with options anywhere before ``--``; what follows it are names, dashes or not."""
    argv = list(argv)
    if "--" in argv:  # which parse_intermixed_args loses
        at = argv.index("--")
        argv[at:] = [_plain(name) for name in argv[at + 1 :]]
    for name in argv:
        if name.startswith("-") and name.strip("-") and os.path.exists(name):
            parser.error(f"{name}: a file whose name begins with a dash is given as ./{name}")
    args, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def _plain(name: str) -> str:
    return f"./{name}" if name.startswith("-") and name != "-" else name


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="ser",
        usage="ser COMMAND [OPTIONS]",
        description=f"{WHAT_FOR}\n\ncommands:\n{listed}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    return parser


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one subcommand."""
    module = _module(name)
    parser = argparse.ArgumentParser(
        prog=f"ser {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def _module(name: str):
    return importlib.import_module(COMMANDS[name][0])
