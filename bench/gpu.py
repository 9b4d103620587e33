"""S1's training step on a GPU, in under ten minutes, with nothing but torch and transformers.

Usage: python -m bench.gpu [--only NAME ...] [--minutes 9] [--peak TFLOPS] [--output FILE]
       python -m bench.gpu --device cpu --quick    the same path with a tiny model, in seconds

wav2vec2-base with random weights, using the code of ser/models and the training loop of stage 4
(ser/training/passes.py), on noise with IEMOCAP-like durations. Each variant runs in its own process
with an equal share of the remaining time; variants that exceed it are stopped, and the table says
so. Writes bench/RESULTS-gpu.md, and all measurements to RESULTS-gpu.json.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.gpu_step import QUICK, VARIANTS, measure

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "bench/RESULTS-gpu.md"
LEAST = 30.0  # minimum seconds per variant, most of which may be imports
SPEECHBRAIN = 194  # seconds per epoch on a V100: README.md of SpeechBrain's recipes/IEMOCAP
# TFLOP/s of dense bfloat16 products with float32 accumulation, from the vendors' data sheets.
# GPUs before Ampere have none.
PEAKS = {
    **{"H200": 989, "H100 80GB HBM3": 989, "H100 PCIe": 756, "A100": 312, "L40S": 362, "L4": 121},
    **{"A10": 125, "RTX 4090": 165, "RTX 3090": 71},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", default=[*VARIANTS])
    parser.add_argument("--minutes", type=float, default=9.0, help="in which all variants end")
    parser.add_argument("--peak", type=float, help="TFLOP/s in bfloat16 of a card unknown here")
    parser.add_argument(
        "--output", type=Path, help="default: bench/RESULTS-gpu.md, of the CPU none"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model; measures nothing")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--end", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:  # in its own process
        answer = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        print(json.dumps(measure(args.variant, args.device, args.quick, args.end)), file=answer)
        return 0
    if why := lacking(args.device):
        print(f"bench: {why}; nothing measured", file=sys.stderr)
        return 1
    output = args.output or (OUTPUT if args.device == "cuda" else None)
    begin = time.monotonic()
    state = about(args.device, args.peak, args.quick)
    minutes = args.minutes - (time.monotonic() - begin) / 60

    def run(name: str, limit: float) -> dict[str, Any]:
        command = ["--variant", name, "--device", args.device, "--end", str(time.time() + limit)]
        return in_process([*command, *(["--quick"] if args.quick else [])], limit)

    least = QUICK.least if args.quick else LEAST
    state["variants"] = run_variants(args.only, run, 60 * minutes, least)
    text = report(state)
    if output is not None:
        output.write_text(text, encoding="utf-8")
        output.with_suffix(".json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    print("\n" + text)
    return 0 if any("rounds" in found for found in state["variants"].values()) else 1


def lacking(device: str) -> str | None:
    """Message about missing requirements of the benchmark, if any."""
    missing = [n for n in ("torch", "transformers", "yaml") if importlib.util.find_spec(n) is None]
    if missing:
        return (
            f"{sys.executable} has no {' and no '.join(missing)}; install torch and transformers, "
            "or choose another interpreter: make PYTHON=PROGRAM bench-gpu"
        )
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device on this machine"
    return None


def about(device: str, peak: float | None, quick: bool) -> dict[str, Any]:
    """Describe the machine and its matrix multiplication rate."""
    import torch

    from bench.flops import matmul_rate
    from bench.run import machine, versions
    from ser.provenance import git_commit

    card = torch.cuda.get_device_name() if device == "cuda" else "no GPU: the processor"
    return {
        "card": card,
        "memory": torch.cuda.get_device_properties(0).total_memory if device == "cuda" else None,
        "machine": machine(),
        "versions": f"{versions()}, CUDA {torch.version.cuda}",
        "commit": git_commit(),
        "quick": quick,
        "peak": 1e12 * peak if peak else peak_of(card),
        "products": matmul_rate(torch.bfloat16, device, repeats=1 if quick else 8),
    }


def peak_of(card: str) -> float | None:
    """Peak FLOP/s of a GPU in ``PEAKS``; None for another, or for a slice of one (MIG)."""
    known = [name for name in PEAKS if re.search(rf"\b{name}\b", card) and "MIG" not in card]
    return 1e12 * PEAKS[known[0]] if known else None


def run_variants(
    names: list[str],
    run: Callable[[str, float], dict[str, Any]],
    seconds: float,
    least: float = LEAST,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, dict[str, Any]]:
    """Run the variants, each with an equal share of the rest of ``seconds``.

    Args:
        run: Takes a name and a time limit in seconds.
        least: Minimum share in seconds; with less no variant is started.
    """
    found: dict[str, dict[str, Any]] = {}
    end = clock() + seconds
    for number, name in enumerate(names):
        left = end - clock()
        if left < least:
            found[name] = {"error": "no time was left; --minutes gives more, --only chooses"}
        else:
            found[name] = run(name, max(least, left / (len(names) - number)))
        print(f"[bench] {name}: {in_words(found[name])}", flush=True)
    return found


def in_process(arguments: list[str], limit: float) -> dict[str, Any]:
    """Run this module in a process, stopped after ``limit`` seconds, and return its answer."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.gpu", *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # includes processes started by torch.compile
    )
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"no round was done in the {limit:.0f} s that it had"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode == 0:
        return json.loads(output.splitlines()[-1])
    last = [line for line in errors.splitlines() if line.strip()][-1:]
    return {"error": last[0] if last else f"ended with status {process.returncode}"}


def rate(found: dict[str, Any], key: str = "audio") -> float:
    """Audio seconds (or FLOP) per second: the median over the rounds."""
    return statistics.median(done[key] / done["seconds"] for done in found["rounds"])


def mfu(found: dict[str, Any], peak: float | None) -> str:
    """Model FLOP utilisation: useful operations per second as a share of ``peak``."""
    return f"{rate(found, 'flops') / peak:.1%}" if peak else "not known"


def in_words(found: dict[str, Any]) -> str:
    if "error" in found:
        return f"not measured: {found['error']}"
    return f"{rate(found):.1f} s of audio a second"


def report(state: dict[str, Any]) -> str:
    """Format bench/RESULTS-gpu.md."""
    from bench.flops import FORMULA
    from bench.workload import TRAINED, durations, experiment_seconds

    peak, products = state["peak"], state["products"]
    told = f"{peak / 1e12:.0f} TFLOP/s in bfloat16 by its data sheet" if peak else "not known here"
    memory = f", {state['memory'] / 1e9:.0f} GB" if state["memory"] else ""
    lines = [
        "# Training on a GPU",
        "",
        "Written by `make bench-gpu` (`python -m bench.gpu`); do not edit. "
        f"{state['card']}{memory}; {state['machine']}. Commit {state['commit']}; "
        f"{state['versions']}.",
        "",
    ]
    if state["quick"]:
        lines += ["**--quick: a tiny model on short noise. These numbers measure nothing.**", ""]
    lines += [
        "| batches | audio s/s | MFU | of the products measured | GB | epoch, s | 10 x 100, hours "
        "| host waits in an update | options after `./run.sh --ngpu 1 --` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in state["variants"].items():
        if "error" in found:
            lines.append(f"| {name} | not measured: {found['error']} | | | | | | | |")
            continue
        rates = [done["audio"] / done["seconds"] for done in found["rounds"]]
        waits = "not counted" if found["waits"] is None else f"{found['waits']:g}"
        variant = VARIANTS[name]
        lacks = variant.compiled or variant.written_out
        lines.append(
            f"| {name} | {rate(found):.1f} ({min(rates):.1f} to {max(rates):.1f}, {len(rates)} "
            f"rounds) | {mfu(found, peak)} | {mfu(found, products)} | "
            f"{found['memory'] / 1e9:.1f} | {TRAINED * durations().sum() / rate(found):.1f} | "
            f"{experiment_seconds(rate(found)) / 3600:.1f} | {waits}"
            f"{' (' + ', '.join(found['where']) + ')' if found['where'] else ''} | "
            f"{'not in the recipe' if lacks else variant.options} |"
        )
    lines += [
        f"| SpeechBrain, as published, on one V100 | | | | | {SPEECHBRAIN} | | | |",
        "",
        "wav2vec2-base with random weights and noise of durations like IEMOCAP's (5,531 "
        f"utterances, {durations().sum() / 3600:.1f} hours): forward, backward, clipping and the "
        "fused Adam, by the loop of stage 4; without reading files, checkpoints and validation. "
        "Every round has batches of its own; the median counts. An epoch is 80% of the "
        "utterances, as eight of ten speakers or SpeechBrain's split are; SpeechBrain's recipe "
        "trains in float32 in batches of four at random with the convolutions frozen. 10 x 100 "
        "are ten folds of a hundred epochs with validation on 10%, worked out, not run. GB: what "
        "torch took of the device.",
        "",
        "MFU: the operations of real frames that a training step has, by the seconds that it took, "
        f"by the card's peak, {told}; beside it by {products / 1e12:.1f} TFLOP/s, which a product "
        f"of two large bfloat16 matrices reached here. {FORMULA}",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
