"""Train with this recipe and with its peers side by side, and write bench/RESULTS.md.

Usage: python -m bench.run [--threads N] [--rounds N] [--longest] [--only NAME ...]
       python -m bench.run --means    this recipe with and without its switches: bench/MEANS.md

Every system runs in its own process. They take turns, one round each, and are idle otherwise, so
that other load on the machine affects all of them; a system's rate is the median of its rounds.
After --minutes no new round is started. Measurements are saved in bench/.rounds.json after each
round: a killed run resumes from there, ``--fresh`` starts over.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.flops import forward_flops, matmul_size, training_flops
from bench.workload import (
    EPOCHS,
    MEAN,
    TRAINED,
    VALIDATED,
    durations,
    experiment_seconds,
    padding_share,
    random_batches,
    sorted_batches,
)
from ser.provenance import git_commit

ROOT = Path(__file__).resolve().parent.parent
PEERS_PYTHON = ROOT / "bench/.venvs/peers/bin/python"
SYSTEMS = {  # name -> (in the peers' environment, reference of its ratio)
    "recipe": (False, None),
    "cai-2": (False, "recipe"),
    "cai-4": (False, "recipe"),
    "s3prl": (True, "recipe"),
    "recipe-frozen": (False, None),
    "speechbrain": (True, "recipe-frozen"),
}


class Worker:
    """A process of bench/worker.py."""

    def __init__(self, name: str, python: Path, threads: int):
        self.process = subprocess.Popen(
            [str(python), "-m", "bench.worker", name, str(threads)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, command: str | None = None) -> dict:
        """Return the answer to a command, or the greeting; with ``error`` if the process failed."""
        try:
            if command is not None:
                print(command, file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            status = self.process.wait()
            return {"error": f"ended with status {status} (out of memory is -9)"}

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every system")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=7.5, help="after which no round begins")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS)
    parser.add_argument(
        "--longest", action="store_true", help="also four utterances of 34 s at once; takes memory"
    )
    parser.add_argument("--fresh", action="store_true", help="forget rounds of a killed run")
    parser.add_argument(
        "--means", action="store_true", help="what each switch of this recipe is worth, no peers"
    )
    args = parser.parse_args()
    args.only = args.only or list(SYSTEMS)
    if args.means:
        text = means_report(*measure_means(args), args)
        (ROOT / "bench/MEANS.md").write_text(text, encoding="utf-8")
        print("\n" + text)
        return
    state_file = ROOT / "bench/.rounds.json"
    settings = {"threads": args.threads, "commit": git_commit()}
    state = {"settings": settings, "systems": {}, "rounds": {}}
    if state_file.exists() and not args.fresh:
        kept = json.loads(state_file.read_text())
        state = kept if kept["settings"] == settings else state
    workers = start(args, state)
    begin = time.monotonic()
    try:
        for number in range(1, args.rounds + 1):
            for name, worker in workers.items():
                done = state["rounds"].setdefault(name, [])
                late = time.monotonic() - begin > 60 * args.minutes
                if len(done) >= number or (late and done) or "error" in state["systems"][name]:
                    continue
                measure(name, number, worker, state)
                state_file.write_text(json.dumps(state))
        if "recipe" in workers:
            for command in ("infer", "matmul", *(["longest"] if args.longest else [])):
                if command not in state:
                    say(f"this recipe: {command}")
                    state[command] = workers["recipe"].ask(command)
                    state_file.write_text(json.dumps(state))
    finally:
        for worker in workers.values():
            worker.stop()
    text = report(state)
    (ROOT / "bench/RESULTS.md").write_text(text, encoding="utf-8")
    state_file.unlink(missing_ok=True)
    print("\n" + text)


def start(args: argparse.Namespace, state: dict) -> dict[str, Worker]:
    """Start the systems one after the other; report and skip those that fail."""
    workers = {}
    for name in args.only:
        in_peers, _ = SYSTEMS[name]
        python = PEERS_PYTHON if in_peers else Path(sys.executable)
        if not python.exists():
            greeting = {"error": "not installed (make bench-peers)"}
        else:
            worker = Worker(name, python, args.threads)
            greeting = worker.ask()
            workers[name] = worker
        state["systems"][name] = greeting
        say(f"{name}: {greeting.get('error') or greeting['notes']}")
    return {name: w for name, w in workers.items() if "error" not in state["systems"][name]}


def measure(name: str, number: int, worker: Worker, state: dict) -> None:
    result = worker.ask(f"round {number}")
    if "error" in result:
        state["systems"][name]["error"] = result["error"]
        say(f"round {number}: {name}: {result['error']}")
        return
    state["rounds"][name].append(result)
    say(
        f"round {number}: {name}: {result['audio']:.0f} s of audio in {result['seconds']:.1f} s = "
        f"{result['audio'] / result['seconds']:.2f} s/s"
    )


def measure_means(args: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    """Measure rounds of the unchanged recipe and of each variant, alternately."""
    from bench.recipe import FROZEN, OFF

    recipe = Worker("recipe", Path(sys.executable), args.threads)
    greeting = recipe.ask()
    if "error" in greeting:
        raise SystemExit(f"bench: this recipe cannot be measured: {greeting['error']}")
    say(greeting["notes"])
    whole, rows = [], []
    for i, name in enumerate((*OFF, *FROZEN)):
        begin = 1 + i * (args.rounds + 1)
        variant = Worker(name, Path(sys.executable), args.threads)
        row = {"name": name, "frozen": name in FROZEN, "rounds": [], **variant.ask()}
        row["beside"] = []
        rows.append(row)
        # alternate the order, so that drift of the machine affects both
        pair = [(recipe, row["beside"]), (variant, row["rounds"])]
        for number in range(begin, begin + args.rounds + 1) if "error" not in row else ():
            pair.reverse()
            for worker, rounds in pair:
                said = worker.ask(f"round {number}")
                if number > begin:  # the first only compiles the variant's kernels
                    rounds.append(said)
                if "error" in said and "error" not in row:
                    beside = "beside it, this recipe: " if worker is recipe else ""
                    row["error"] = beside + said["error"]  # both may not fit into memory
            if "error" in row:
                break
        whole += [done for done in row["beside"] if "error" not in done]
        variant.stop()
        say(f"{name}: {row.get('error') or format(rate(row['rounds']), '.2f') + ' s/s'}")
    recipe.stop()
    if not whole:
        raise SystemExit("bench: no round of this recipe ended; see above")
    return whole, rows


def means_report(whole: list[dict], rows: list[dict], args: argparse.Namespace) -> str:
    """Format bench/MEANS.md."""
    memory = max(done["memory"] for done in whole) / 1e9
    lines = [
        "# What each means is worth",
        "",
        "Written by `make bench-means`; do not edit. "
        f"Machine: {machine()}; {args.threads} threads. Commit {git_commit()}; {versions()}.",
        "",
        "Training of S1 as in bench/RESULTS.md, with everything fine-tuned: "
        f"{rate(whole):.2f} s of audio a second, the median of {len(whole)} rounds, and "
        f"{memory:.1f} GB. Beside each of them ran a round of a variant, {args.rounds} of each: "
        "with one switch off, and below with something frozen and its outputs kept or not, in "
        "epochs after the first. What a switch is worth is the median of the ratios within these "
        "pairs, and the smallest and the largest of them; where 1 lies between, nothing is shown.",
    ]
    for frozen, heads in (
        (False, ["Without", "audio s/s", "the switch is worth", "memory"]),
        (True, ["With", "audio s/s", "faster than all trained by", "memory"]),
    ):
        lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for row in (row for row in rows if row["frozen"] is frozen):
            if "error" in row:
                lines.append(f"| {row['name']} | not measured: {row['error']} | | |")
                continue
            pairs = zip(row["rounds"], row["beside"], strict=True)
            ratios = sorted(rate([done]) / rate([beside]) for done, beside in pairs)
            if not frozen:
                ratios = [1 / ratio for ratio in reversed(ratios)]
            memory = max(r["memory"] for r in row["rounds"]) / 1e9
            lines.append(
                f"| {row['name'].removeprefix('this recipe, S1, ').removeprefix('without ')} | "
                f"{rate(row['rounds']):.2f} | {statistics.median(ratios):.2f} x "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f}) | {memory:.1f} GB |"
            )
    return "\n".join([*lines, ""])


def rate(rounds: list[dict]) -> float:
    """Audio seconds per second, the median over the rounds."""
    return statistics.median(r["audio"] / r["seconds"] for r in rounds)


def report(state: dict) -> str:
    """Format bench/RESULTS.md from the measurements."""
    settings = state["settings"]
    lines = [
        "# What the bench measured",
        "",
        f"Written by `make bench`; do not edit. Machine: {machine()}; "
        f"{settings['threads']} threads. "
        f"Commit {settings['commit']}; {versions()}.",
        "",
        "Training of wav2vec2-base with random weights on durations like IEMOCAP's (mean "
        f"{MEAN} s, up to 34 s): forward, backward and optimizer alone, without reading files or "
        "writing checkpoints. Rate: seconds of audio trained in a second, the median of the "
        "rounds, which all systems did in turn, each round on utterances of its own; in brackets "
        "the slowest and the fastest round.",
        "",
        "| system | audio s/s | this recipe is faster by | peak memory of these batches "
        "| padding of an epoch | how | versions |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, about in state["systems"].items():
        rounds = state["rounds"].get(name)
        if not rounds:
            lines.append(f"| {name} | not measured: {about.get('error', 'no round')} | | | | | |")
            continue
        reference = state["rounds"].get(SYSTEMS[name][1] or "")
        ratio = f"{rate(reference) / rate(rounds):.2f} x" if reference else ""
        memory = max(r["memory"] for r in rounds) / 1e9
        rates = [rate([done]) for done in rounds]
        used = ", ".join(f"{key} {value}" for key, value in about["versions"].items())
        lines.append(
            f"| {about['name']} | {rate(rounds):.2f} ({min(rates):.2f} to {max(rates):.2f}, "
            f"{len(rounds)} rounds) | {ratio} | {memory:.1f} GB | {about['padding']:.1%} | "
            f"{about['notes']} | {used} |"
        )
    lines += ["", *floor(state), *experiment(state), *extras(state), ""]
    return "\n".join(lines)


def floor(state: dict) -> list[str]:
    """Compare the required operations with the rate of the machine."""
    seconds = durations()
    parts = [forward_flops(s) for s in seconds]
    total = seconds.sum()
    forward = {key: sum(p[key] for p in parts) / total / 1e9 for key in parts[0]}
    training = sum(training_flops(s) for s in seconds) / total / 1e9
    epoch = sorted_batches(seconds, 4), random_batches(seconds, 4)
    size = matmul_size("cpu")
    lines = [
        "## The floor",
        "",
        f"A second of audio takes {sum(forward.values()):.1f} GFLOP forward ("
        + ", ".join(f"{key} {value:.1f}" for key, value in forward.items())
        + f") and {training:.1f} GFLOP forward and backward. Padding of batches of four: "
        f"{padding_share(epoch[0]):.1%} by length, {padding_share(epoch[1]):.1%} at random.",
        "",
    ]
    matmul = state.get("matmul", {})
    if "bfloat16" in matmul:
        lines[2] += (
            f" Products of {size} x {size} matrices run at {matmul['bfloat16'] / 1e12:.2f} TFLOP/s "
            f"in bfloat16 and {matmul['float32'] / 1e12:.2f} in float32 here."
        )
        for name, precision in (("recipe", "bfloat16"), ("cai-2", "float32")):
            if state["rounds"].get(name):
                share = rate(state["rounds"][name]) * training * 1e9 / matmul[precision]
                lines[2] += (
                    f" {state['systems'][name]['name']}, in {precision}, reaches {share:.0%} of "
                    "its rate."
                )
    return lines


def experiment(state: dict) -> list[str]:
    """Duration of S1 on IEMOCAP, from the rate of this recipe with everything fine-tuned."""
    if not state["rounds"].get("recipe"):
        return []
    audio = EPOCHS * durations().sum() / 1e6
    return [
        "## A whole experiment",
        "",
        "Worked out from this rate, not run: ten folds of a hundred epochs on IEMOCAP's "
        f"{len(durations()):,} utterances are {TRAINED * audio:.1f} million s of audio to train on "
        f"and {VALIDATED * audio:.1f} million to validate on, a second of which takes a third of "
        f"the time. {state['systems']['recipe']['name']}: "
        f"{duration(experiment_seconds(rate(state['rounds']['recipe'])))}. Reading files, "
        "checkpoints and scoring come on top.",
        "",
    ]


def duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def extras(state: dict) -> list[str]:
    lines = []
    if "latency" in state.get("infer", {}):
        lines.append(
            f"Inference in float32: {1000 * state['infer']['latency']:.0f} ms for a file of 5 s, "
            f"{state['infer']['throughput']:.1f} s of audio a second in batches of four."
        )
    if (said := state.get("longest")) is not None:
        found = f"not measured: {said.get('error')}."
        if "error" not in said:
            found = (
                f"{said['seconds']:.1f} s forward and backward, and {said['memory'] / 1e9:.1f} GB "
                "at most in the whole process."
            )
        what = "Four utterances of 34.1 s at once, the most that such a batch can be"
        lines += ["", f"{what}: {found}"]
    return ["## Inference and memory", "", *lines] if lines else []


def say(message: str) -> None:
    print(f"[bench] {message}", flush=True)


def machine() -> str:
    """Processor name, number of cores, and memory."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
        flags = info.read_text().split()
        name += ", AMX" if "amx_bf16" in flags else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GB"


def versions() -> str:
    import torch
    import transformers

    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


if __name__ == "__main__":
    main()
