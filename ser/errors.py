"""Exceptions for user errors, what their messages are made of, and training stopped by a signal."""

import signal
from collections.abc import Collection, Sequence
from pathlib import Path

EXIT_RESUME = 75  # EX_TEMPFAIL of sysexits.h: run the same command to resume
STATUS = {signal.SIGUSR1: EXIT_RESUME, signal.SIGTERM: 143, signal.SIGINT: 130}


class UserError(Exception):
    """An error that the user can fix.

    The message names the file, line or option, says what was found and what was
    expected, and ends with what to do next. Commands print it to stderr without a
    traceback and exit with status 1 (see ``ser.console.run``).
    """


def not_utf8(
    path: Path | str, err: UnicodeDecodeError, cure: str = "save the file as UTF-8"
) -> UserError:
    """Error for a file in another encoding, with the first line that shows it."""
    line = err.object[: err.start].count(b"\n") + 1
    return UserError(f"{path}:{line}: not UTF-8; {cure}")


def join_problems(problems: Sequence[str], cure: str = "", most: int = 5) -> str:
    """Join errors into one message: the first few, how many more there are, and the cure."""
    shown = list(problems[:most])
    if len(problems) > len(shown):
        shown.append(f"... and {len(problems) - len(shown)} more like these")
    if cure:
        shown.append(cure)
    return "\n  ".join(shown)


def some(names: Collection[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(list(names)[:most]) + (f" and {more} more" if more > 0 else "")


def one_line(err: object, most: int | None = None) -> str:
    """What an error of a library says, on one line of at most ``most`` characters."""
    return " ".join(str(err).split())[:most]


class Stopped(BaseException):
    """Training was stopped by a signal, after writing a checkpoint; not an error."""

    def __init__(self, signum: signal.Signals):
        super().__init__(f"stopped by {signum.name}; run the same command to resume")
        self.status = STATUS[signum]
