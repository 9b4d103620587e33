"""Run one system in its own process, controlled by commands on standard input.

Usage: python -m bench.worker SYSTEM|SWITCH THREADS
Commands: round NUMBER, infer, longest, matmul. Each is answered by one line of JSON.
"""

import ctypes
import gc
import importlib
import itertools
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.system import System

SYSTEMS = {
    "recipe": "bench.recipe:build",
    "recipe-frozen": "bench.recipe:build_frozen",
    "cai-2": "bench.peers.cai:build_2",
    "cai-4": "bench.peers.cai:build_4",
    "speechbrain": "bench.peers.speechbrain_ser:build",
    "s3prl": "bench.peers.s3prl_ser:build",
}
LONGEST = 34.1  # seconds
PACKAGES = ("torch", "transformers", "speechbrain", "s3prl")


def main() -> None:
    name, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a peer's output must not be mistaken for an answer

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        import torch

        torch.set_num_threads(int(threads))
        system, steps = load(name)
        from bench.workload import padding_share
    except Exception as err:  # a peer may fail to import in any way
        answer(error=f"{type(err).__name__}: {str(err).splitlines()[0] if str(err) else ''}")
        return
    answer(
        name=system.name,
        notes=system.notes,
        padding=padding_share(system.epoch),
        versions={name: version(name) for name in PACKAGES if name in sys.modules},
    )
    for line in sys.stdin:
        answer(**perform(line.split(), system, steps))
        trim()


def perform(command: list[str], system: "System", steps: Iterator[int]) -> dict[str, float]:
    """Execute one command and return its answer; ``steps`` counts batches across rounds."""
    import torch

    from bench.flops import matmul_rate
    from bench.system import make_batch
    from bench.workload import representative

    if command[0] == "round":
        chosen = representative(system.epoch, system.count, int(command[1]))
        batches = [make_batch(seconds, "cpu", i) for i, seconds in enumerate(chosen)]
        if system.warm_up:
            one_round(system, batches, steps)
        seconds, cpu = timed(lambda: one_round(system, batches, steps))
        audio = sum(map(sum, chosen))
        return {"audio": audio, "seconds": seconds, "cpu": cpu, "memory": peak_memory()}
    if command == ["longest"]:
        batch = make_batch((LONGEST,) * len(system.epoch[0]), "cpu")
        seconds, cpu = timed(lambda: system.step(batch))
        system.update()
        return {"seconds": seconds, "memory": peak_memory()}
    if command == ["infer"]:
        return inference(system)
    if command == ["matmul"]:
        return {t: matmul_rate(getattr(torch, t), "cpu") for t in ("float32", "bfloat16")}
    raise ValueError(command)


def load(name: str) -> tuple["System", Iterator[int]]:
    """Load a system and a counter of steps, including all one-time initialisation.

    After the reply another system may be timed, so no work may be left in the background.
    """
    if name in SYSTEMS:
        module, function = SYSTEMS[name].split(":")
        system = getattr(importlib.import_module(module), function)("cpu")
    else:
        from bench.recipe import build_variant

        system = build_variant(name)
    from bench.system import make_batch

    system.step(make_batch((1.0, 0.8), "cpu"))
    system.update()
    trim()
    return system, itertools.count(1)


def one_round(system: "System", batches: list[dict[str, Any]], steps: Iterator[int]) -> None:
    """Run a step per batch, and the updates that are due; ``steps`` continues across rounds."""
    for batch in batches:
        system.step(batch)
        if next(steps) % system.accumulate == 0:
            system.update()


def inference(system) -> dict[str, float]:
    """Median seconds for a 5-s file, and audio seconds per second in batches."""
    from bench.system import make_batch
    from bench.workload import representative

    one = make_batch((5.0,), "cpu")
    single = (one["speech"], one["speech_lengths"])
    system.infer(*single)
    latency = statistics.median(timed(lambda: system.infer(*single))[0] for _ in range(7))
    audio = 0.0
    total = 0.0
    for seconds in representative(system.epoch, system.count, 0):
        batch = make_batch(seconds, "cpu")
        total += timed(lambda b=batch: system.infer(b["speech"], b["speech_lengths"]))[0]
        audio += sum(seconds)
    return {"latency": latency, "throughput": audio / total}


def timed(work) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    gc.collect()
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def peak_memory() -> int:
    """Peak resident memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def trim() -> None:
    """Return freed memory to the system, so that idle processes do not slow down the active one."""
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
