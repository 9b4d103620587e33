"""Print a script that lets your shell complete the commands and options of ser."""

import argparse

from ser.cli.completion import SHELLS, completion

EXAMPLES = """examples:
  source <(ser completion bash)                                now; for good: in ~/.bashrc
  source <(ser completion zsh)                                 after compinit; in ~/.zshrc
  ser completion fish > ~/.config/fish/completions/ser.fish    from the next shell on
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``ser completion``."""
    parser.epilog = EXAMPLES
    parser.add_argument("shell", choices=SHELLS, help="for which shell")


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    from ser.cli.main import COMMANDS, command_parser

    commands = {name: text for name, (_, text) in COMMANDS.items()}
    parsers = {name: command_parser(name) for name in COMMANDS}
    print(completion(args.shell, commands, parsers), end="")
