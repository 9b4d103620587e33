"""Log files in the form that run.sh's launchers write them: header, output, footer."""

import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def fold_log(path: Path, command: Sequence[str]) -> Iterator[TextIO]:
    """Send everything this process prints to the end of ``path``, and yield the real stdout.

    The redirection is on the level of file descriptors, so that it also catches logging handlers
    made earlier and output of native libraries. The footer holds the exit status: 0, or 1 if the
    block raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    console_fd, error_fd = os.dup(1), os.dup(2)
    console = os.fdopen(console_fd, "w", encoding="utf-8", closefd=False)
    log = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed below, after the redirection)
    status = 1
    try:
        log.write(
            f"# command: {shlex.join(command)}\n# host: {socket.gethostname()}\n# start: {_now()}\n"
        )
        log.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        yield console
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        console.flush()
        os.dup2(console_fd, 1)
        os.dup2(error_fd, 2)
        log.write(f"# end: {_now()}\n# exit status: {status}\n")
        log.close()
        os.close(console_fd)
        os.close(error_fd)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
