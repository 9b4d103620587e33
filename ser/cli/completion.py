"""Scripts that let bash, zsh and fish complete ``ser``, made from the commands' own parsers."""

import argparse
import shlex
from collections.abc import Mapping, Sequence

from ser.errors import UserError

SHELLS = ("bash", "zsh", "fish")


def completion(
    shell: str, commands: Mapping[str, str], parsers: Mapping[str, argparse.ArgumentParser]
) -> str:
    """The script for ``shell``.

    Options are completed, and the values of those that have choices; everything else by the names
    of files.

    Args:
        commands: subcommand -> one line about it.
        parsers: subcommand -> its parser.
    """
    if shell not in SHELLS:
        raise UserError(f"completion: {shell!r}; choose one of {', '.join(SHELLS)}")
    return (_fish if shell == "fish" else _bash)(shell, commands, parsers)


def _bash(
    shell: str, commands: Mapping[str, str], parsers: Mapping[str, argparse.ArgumentParser]
) -> str:
    """One function for bash and, by its own emulation, zsh."""
    cases = []
    for name, parser in parsers.items():
        for action in _actions(parser):
            if action.choices and action.option_strings:
                words = " ".join(map(str, action.choices))
                pattern = "|".join(f"{name}:{option}" for option in action.option_strings)
                cases.append(f"  {pattern}) words={shlex.quote(words)} ;;")
        words = [option for action in _actions(parser) for option in action.option_strings]
        words += [str(c) for a in _positionals(parser) for c in a.choices or ()]
        cases.append(f"  {name}:*) words={shlex.quote(' '.join(words))} ;;")
    lines = [
        "_ser() {",
        "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} words",
        "  if ((COMP_CWORD == 1)); then",
        f'    COMPREPLY=($(compgen -W {shlex.quote(" ".join(commands))} -- "$current"))',
        "    return",
        "  fi",
        '  case "${COMP_WORDS[1]}:$previous" in',
        *cases,
        "  esac",
        '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        "complete -o default -F _ser ser",
    ]
    if shell == "zsh":
        lines = ["autoload -U +X bashcompinit && bashcompinit", *lines]
    return "\n".join(lines) + "\n"


def _fish(
    _shell: str, commands: Mapping[str, str], parsers: Mapping[str, argparse.ArgumentParser]
) -> str:
    lines = []
    for name, text in commands.items():
        lines.append(
            f"complete -c ser -f -n __fish_use_subcommand -a {name} -d {shlex.quote(text)}"
        )
    for name, parser in parsers.items():
        seen = f"complete -c ser -n '__fish_seen_subcommand_from {name}'"
        for action in _actions(parser):
            words = " ".join(map(str, action.choices or ()))
            takes = f" -x -a {shlex.quote(words)}" if words else " -r"
            takes = "" if action.nargs == 0 else takes
            names = [o for o in action.option_strings if o.startswith("--")]
            flags = "".join(f" -l {o[2:]}" for o in names)
            flags += "".join(f" -s {o[1:]}" for o in action.option_strings if o not in names)
            about = (action.help or "").partition(";")[0].replace("%%", "%")
            lines.append(f"{seen}{flags}{takes} -d {shlex.quote(about)}")
        for action in _positionals(parser):
            for choice in action.choices or ():
                lines.append(f"{seen} -f -a {shlex.quote(str(choice))}")
    return "\n".join(lines) + "\n"


def _actions(parser: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    return [a for a in parser._actions if a.option_strings and a.help != argparse.SUPPRESS]


def _positionals(parser: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    return [a for a in parser._actions if not a.option_strings]
