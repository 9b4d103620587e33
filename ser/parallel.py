"""A function over many items in several processes, in order, with errors for people."""

import ctypes
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ser.errors import UserError

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def parallel_map(function: Callable, items: Sequence, nj: int) -> Iterator[Any]:
    """Yield ``function(item)`` for every item, in order, from ``nj`` processes.

    ``function`` must be importable (or a functools.partial of such a function). With
    ``nj`` = 1 everything runs in this process. An exception in a worker is raised here and
    ends the others; a worker that the system killed becomes a UserError.
    """
    if nj < 1:
        raise UserError(f"--nj: expected a number of processes of 1 or more, found {nj}")
    nj = min(nj, len(items))
    if nj <= 1:
        yield from map(function, items)
        return
    # fork: the children share what is already imported (torch takes seconds to import).
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(nj, mp_context=context, initializer=_die_with_parent)
    try:
        yield from pool.map(function, items)
    except BrokenProcessPool as err:
        raise UserError(
            "a worker process was killed, most likely because memory ran out; "
            f"run the same command again with fewer processes (--nj {max(1, nj // 2)})"
        ) from err
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _die_with_parent() -> None:
    """Keep workers from waiting for ever when their parent was killed with kill -9."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
