"""Readable errors, exit statuses and progress lines, shared by all commands."""

import contextlib
import errno
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ser.errors import Stopped, UserError, some

EXPECTED = {  # by type of pydantic error
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    **dict.fromkeys(("dict_type", "model_type"), "expected names with values"),
}
EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


def run(main: Callable[[], None]) -> None:
    """Call ``main`` and exit with the status of its outcome.

    ``UserError`` and errors of the operating system (no such file, disk full, permission)
    become one line on stderr and status 1; a training stopped by a signal exits with the signal's
    status. A package that is not installed is named. Any other exception is a bug in this program
    and keeps its traceback.
    """
    try:
        main()
    except (UserError, OSError) as err:
        _fail(explain(err))
    except ModuleNotFoundError as err:
        if not err.name or err.name.partition(".")[0] == "ser":
            raise
        _fail(
            f"this needs the package {err.name.partition('.')[0]}, which is not installed here; "
            "ser-mtl[predict] has what ser predict needs, make install in a clone everything"
        )
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _fail(message: str) -> NoReturn:
    with contextlib.suppress(OSError):  # in a log the error belongs below earlier output
        sys.stdout.flush()
    # in one write: print writes the newline separately, and other output could come in between
    print(f"error: {message}\n", end="", file=sys.stderr)
    sys.exit(EXIT_ERROR)


def explain(err: Exception) -> str:
    """Explain ``err`` to the user: what happened, where, and for common causes what to do."""
    if isinstance(err, UserError):
        return str(err)
    if not isinstance(err, OSError):
        return f"{type(err).__name__}: {err}"
    where = f"{err.filename}: " if err.filename else ""
    what = err.strerror or str(err)
    cure = {
        errno.ENOSPC: "free some space, or write to another disk, and run the same command again",
        errno.EDQUOT: "free some of your quota and run the same command again",
        errno.EACCES: "check who owns it and its permissions",
        errno.EISDIR: "give the name of a file",
        errno.EROFS: "choose a directory on a writable disk",
    }.get(err.errno)
    return f"{where}{what}" + (f"; {cure}" if cure else "")


def progress(message: str) -> None:
    """Report the progress of a long job.

    The line goes to stdout, and so into the stage's log; the launcher shows the latest one on the
    user's terminal.
    """
    # in one write: unbuffered, print writes the newline separately, and tasks share an output
    sys.stdout.write(f"[progress] {message}\n")
    sys.stdout.flush()


def percent(value: float | None, digits: int = 1) -> str:
    """Format a fraction as a percentage, or ``-`` if undefined.

    Ties such as 81.25 are rounded the same way regardless of floating-point error in the last bit.
    """
    return "-" if value is None else f"{round(100 * value, 9):.{digits}f}"


def duration(seconds: Sequence[float | None]) -> str:
    """Format the mean as h:mm:ss, or ``-`` if any value is unknown."""
    if any(value is None for value in seconds):
        return "-"
    minutes, rest = divmod(round(sum(seconds) / len(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def validation_problems(errors: Sequence[Mapping[str, Any]]) -> str:
    """Format pydantic's ``ValidationError.errors()``, such as ``summary.wa: expected ...``."""
    lines = []
    for error in errors:
        where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error["loc"])
        if error["type"] == "missing":
            lines.append(f"{where[1:]} not found in it")
            continue
        found = json.dumps(error["input"], ensure_ascii=False, default=str)[:40]
        what = EXPECTED.get(error["type"], error["msg"].replace("Input should be", "expected"))
        lines.append(f"{where[1:]}: {what}, found {found}")
    return some(lines)
