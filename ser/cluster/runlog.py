"""Log files in the format of run.sh's launchers: header, output, footer."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from ser.cluster.logged import footer, header
from ser.errors import Stopped, UserError


@contextmanager
def fold_log(path: Path, command: Sequence[str]) -> Iterator[None]:
    """Append everything this process prints to ``path`` while the block runs.

    File descriptors are redirected, which also captures existing logging handlers and output of
    native libraries. If the block raises, the log gets the error (with a traceback unless it is a
    UserError) and the footer exit status 1, or that of the signal if the training was asked to
    stop.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    stdout, stderr = os.dup(1), os.dup(2)
    handlers = list(logging.root.handlers)
    status = 1
    with open(path, "a", encoding="utf-8", buffering=1) as log:
        log.write(header(command))
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            with redirect_stdout(log), redirect_stderr(log):
                try:
                    yield
                    status = 0
                except UserError as err:
                    print(f"error: {err}", file=sys.stderr)
                    raise
                except Stopped as stop:
                    print(stop)
                    status = stop.status
                    raise
                except Exception:
                    traceback.print_exc()
                    raise
        finally:
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            os.close(stdout)
            os.close(stderr)
            # drop ESPnet's handler for this log; it adds another for the next fold
            logging.root.handlers = [h for h in logging.root.handlers if h in handlers]
            log.write(footer(status))
