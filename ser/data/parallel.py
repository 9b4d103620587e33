"""Map a function over items in several processes, in order, with readable errors."""

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ser.cluster.logged import die_with_parent
from ser.errors import UserError


def parallel_map(function: Callable, items: Sequence, nj: int) -> Iterator[Any]:
    """Yield ``function(item)`` for every item, in order, from ``nj`` processes.

    With ``nj`` = 1 everything runs in this process. Otherwise the workers inherit ``function`` and
    ``items`` when they are forked, and only results are pickled. An exception in a worker is
    raised here and ends the others; a worker killed by the system raises UserError.
    """
    if nj < 1:
        raise UserError(f"--nj: expected a number of processes of 1 or more, found {nj}")
    nj = min(nj, len(items))
    if nj <= 1:
        yield from map(function, items)
        return
    # fork: the children share what is already imported (torch takes seconds to import).
    context = multiprocessing.get_context("fork")
    # Workers are sent only item numbers. Python 3.10 hangs if one is killed while an item larger
    # than a pipe (64 KiB) is being sent.
    pool = ProcessPoolExecutor(
        nj, mp_context=context, initializer=_begin, initargs=(function, items)
    )
    try:
        yield from pool.map(_apply, range(len(items)))
    except BrokenProcessPool as err:
        raise UserError(
            "a worker process was killed, most likely because memory ran out; "
            f"run the same command again with fewer processes (--nj {max(1, nj // 2)})"
        ) from err
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_work: tuple[Callable, Sequence]  # of this worker: function and items


def _begin(function: Callable, items: Sequence) -> None:
    global _work
    _work = function, items
    # As in torch's DataLoader: threads of the parent do not exist after a fork, and waiting for
    # them would hang.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    die_with_parent()  # rather than wait forever if it is killed with kill -9


def _apply(number: int) -> Any:
    function, items = _work
    return function(items[number])
