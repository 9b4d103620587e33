"""Time to compile CPU kernels, and memory to cache them.

oneDNN compiles its matrix products for each shape, and caches the last 1,024 by default, 2,048
here (ser/models/cpu/conv_stack.py). S1 trains twice on 30 batches of different lengths, for several
values of ``ONEDNN_PRIMITIVE_CACHE_CAPACITY``; the largest still caches all of them the second time.

Usage: python -m bench.kernels
"""

import os
import subprocess
import sys
import time

BATCHES, LONGEST, SEED = 30, 4.0, 0  # seconds; excludes half of the batches
CAPACITY = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
CAPACITIES = ("1024", "2048", "32768")


def main() -> None:
    if len(sys.argv) > 1:
        train_twice()
        return
    print("kernels kept  first pass  second pass  memory after it")
    for capacity in CAPACITIES:
        command = [sys.executable, "-m", "bench.kernels", "here"]
        env = {**os.environ, CAPACITY: capacity}
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        first, second, memory = done.stdout.split()[-3:]  # after ESPnet's output
        print(f"{capacity:>12}  {first:>7} s/s  {second:>8} s/s  {memory:>12} GB", flush=True)


def train_twice() -> None:
    """Print audio seconds per second of training in each pass, and resident GB at the end."""
    import numpy as np

    from bench.recipe import build
    from bench.system import make_batch
    from bench.worker import trim

    system = build("cpu")
    chosen = [batch for batch in system.epoch if max(batch) < LONGEST]
    order = np.random.default_rng(SEED).permutation(len(chosen))
    chosen = [chosen[i] for i in order[:BATCHES]]
    batches = [make_batch(seconds, "cpu") for seconds in chosen]
    audio = sum(map(sum, chosen))
    system.step(make_batch((1.0, 0.8), "cpu"))
    for _ in range(2):
        begin = time.perf_counter()
        for batch in batches:
            system.step(batch)
        print(f"{audio / (time.perf_counter() - begin):.2f}")
    trim("cpu")
    with open("/proc/self/statm") as stream:
        print(f"{int(stream.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f}")


if __name__ == "__main__":
    main()
