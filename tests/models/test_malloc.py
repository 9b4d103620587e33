"""What becomes of freed memory; each case in a process of its own, which it changes."""

import ctypes
import subprocess
import sys

import pytest

# Of 300 blocks of 2 MiB all but every tenth are freed; the last stays, so that the heap cannot
# simply end earlier.
HOLES = """
import os, sys
import numpy as np
from ser.models.cpu.malloc import return_freed_memory

np.ones(4 << 20).sum()  # once freed, glibc keeps blocks of this size
return_freed_memory(sys.argv[1] == "at once")
blocks = [np.ones(2 << 17) for _ in range(300)]
blocks = blocks[9::10]
pages = int(open("/proc/self/statm").read().split()[1])
print(pages * os.sysconf("SC_PAGE_SIZE") >> 20)
"""


def printed(script: str, how: str) -> int:
    """The number that a script prints in a process of its own."""
    command = [sys.executable, "-c", script, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
@pytest.mark.slow
def test_freed_memory_goes_back_where_it_is_asked_to():
    megabytes = {how: printed(HOLES, how) for how in ("kept", "at once")}
    assert megabytes["kept"] > 600
    assert megabytes["at once"] < 400


BIG = """
import resource, sys
import numpy as np
from ser.models.cpu.malloc import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
np.ones(8 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(8 << 20)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_large_blocks_are_used_again_without_page_faults():
    faults = {how: printed(BIG, how) for how in ("kept", "handed out anew")}
    assert faults["kept"] < 100 < faults["handed out anew"]
