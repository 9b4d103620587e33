"""Freed memory that stays with the process."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_freed_memory() -> None:
    """Ask glibc to take large blocks from its heap and to keep that once they are freed.

    By default every tensor above 32 MiB is mapped anew and given back, and the kernel clears its
    pages each time: up to a fifth of a training step on a CPU. Afterwards the process holds what
    it has needed at most. Elsewhere than with glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
