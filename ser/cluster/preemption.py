"""Graceful preemption: on USR1, TERM or INT finish the step, write a checkpoint, exit.

USR1 is the warning that Slurm sends before a time limit or a preemption (``sbatch --signal``), TERM
ends a job, INT is Ctrl-C. While ``listening``, each is only recorded; training checks ``requested``
after every step, writes a checkpoint and raises ``Stopped``. A second INT ends the process at once;
a second TERM does not, since Slurm sends it several times within milliseconds, and there is KILL.
Signals are often sent to all processes of a group: data loader workers ignore them, so that the
step can be finished.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ser.errors import STATUS, Stopped

IN_EARNEST = 1.0  # seconds after a worker's first TERM until another counts as its parent's

_received: signal.Signals | None = None
_first_term: float | None = None
_listener = 0  # pid of the listening process; its forks inherit the handler


@contextmanager
def listening() -> Iterator[None]:
    """Record the three signals while the block runs; does nothing outside the main thread."""
    global _received, _listener
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, _note) for signum in STATUS}
    nested = _note in before.values() and _listener == os.getpid()
    _listener = os.getpid()
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if not nested:
            _received = None


def requested() -> signal.Signals | None:
    """The signal that asked this process to stop, or None."""
    return _received


def check() -> None:
    """Raise Stopped if this process has been asked to stop."""
    if _received is not None:
        raise Stopped(_received)


def _note(signum: int, frame: object) -> None:
    global _received
    if os.getpid() != _listener:
        _pass_over(signum)
        return
    for child in multiprocessing.active_children():
        if not child.daemon:  # a data loader's worker is one; ESPnet's processes are not
            os.kill(child.pid, signum)
    if _received == signum == signal.SIGINT:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    _received = signal.Signals(signum)


def _pass_over(signum: int) -> None:
    """Ignore a signal in a forked process, unless it is a later TERM, sent by its parent."""
    global _first_term
    if signum != signal.SIGTERM:
        return
    if _first_term is None:
        _first_term = time.monotonic()
    elif time.monotonic() - _first_term > IN_EARNEST:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
