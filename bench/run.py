"""Train with this recipe and with its peers side by side, and write bench/RESULTS.md.

Usage: python -m bench.run [--threads N] [--rounds N] [--gpu] [--longest] [--only NAME ...]
       python -m bench.run --means    this recipe with and without its switches: bench/MEANS.md

Every system is a process of its own. They work in turn, one round each, and wait meanwhile, so
that whatever else the machine does falls on all of them; a system's rate is the median of its
rounds. After --minutes no new round begins. What has been measured is kept in bench/.rounds.json
from round to round: a killed run goes on from there, ``--fresh`` starts anew.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.flops import forward_flops, matmul_size, training_flops
from bench.workload import MEAN, durations, padding_share, random_batches, sorted_batches

ROOT = Path(__file__).resolve().parent.parent
PEERS_PYTHON = ROOT / "bench/.venvs/peers/bin/python"
SYSTEMS = {  # name -> (in the peers' environment, what its ratio refers to)
    "recipe": (False, None),
    "recipe-16": (False, None),
    "cai-2": (False, "recipe"),
    "cai-4": (False, "recipe"),
    "s3prl": (True, "recipe"),
    "recipe-frozen": (False, None),
    "speechbrain": (True, "recipe-frozen"),
}
ON_GPU = ("recipe-16",)  # there only, and FOLDS of them at once as well
FOLDS = 2
# Ten folds of a hundred epochs, in each of which eight of ten speakers are trained on and one
# validates, which is a forward pass.
FORWARD = 1 / 3  # of the work of a training step
EPOCHS = 10 * 100


class Worker:
    """A process of bench/worker.py."""

    def __init__(self, name: str, python: Path, threads: int, device: str):
        self.process = subprocess.Popen(
            [str(python), "-m", "bench.worker", name, str(threads), device],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, command: str | None = None) -> dict:
        """The answer to a command, or the greeting; ``error`` in it if the process has failed."""
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
    parser.add_argument("--gpu", action="store_true", help="on CUDA instead of the processor")
    parser.add_argument("--fresh", action="store_true", help="forget rounds of a killed run")
    parser.add_argument(
        "--means", action="store_true", help="what each switch of this recipe is worth, no peers"
    )
    args = parser.parse_args()
    device = "cuda" if args.gpu else "cpu"
    args.only = args.only or [name for name in SYSTEMS if args.gpu or name not in ON_GPU]
    if args.gpu and not cuda_available():
        print("bench: torch sees no CUDA device on this machine; nothing measured")
        return
    suffix = "-gpu" if args.gpu else ""
    if args.means:
        text = means_report(*measure_means(args, device), args, device)
        (ROOT / f"bench/MEANS{suffix}.md").write_text(text, encoding="utf-8")
        print("\n" + text)
        return
    state_file = ROOT / f"bench/.rounds{suffix}.json"
    settings = {"threads": args.threads, "commit": commit(), "device": device}
    state = {"settings": settings, "systems": {}, "rounds": {}}
    if state_file.exists() and not args.fresh:
        kept = json.loads(state_file.read_text())
        state = kept if kept["settings"] == settings else state
    workers = start(args, device, state)
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
        if "recipe-16" in workers and "together" not in state:
            state["together"] = measure_together(workers["recipe-16"], args, device)
            state_file.write_text(json.dumps(state))
        if "recipe" in workers:
            for command in ("infer", "matmul", *(["longest"] if args.longest else [])):
                if command not in state:
                    say(f"this recipe: {command}")
                    state[command] = workers["recipe"].ask(command)
                    state_file.write_text(json.dumps(state))
        if "recipe-16" in workers and args.longest and "longest-16" not in state:
            state["longest-16"] = workers["recipe-16"].ask("longest")
            state_file.write_text(json.dumps(state))
    finally:
        for worker in workers.values():
            worker.stop()
    text = report(state)
    (ROOT / f"bench/RESULTS{suffix}.md").write_text(text, encoding="utf-8")
    state_file.unlink(missing_ok=True)
    print("\n" + text)


def start(args: argparse.Namespace, device: str, state: dict) -> dict[str, Worker]:
    """Start the systems one after the other; one that cannot be is reported and left out."""
    workers = {}
    for name in args.only:
        in_peers, _ = SYSTEMS[name]
        python = PEERS_PYTHON if in_peers else Path(sys.executable)
        if not python.exists():
            greeting = {"error": "not installed (make bench-peers)"}
        else:
            worker = Worker(name, python, args.threads, device)
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


def measure_together(worker: Worker, args: argparse.Namespace, device: str) -> list[dict] | dict:
    """Rounds of several processes at once, as several folds on one GPU are; an error if one fails.

    Each process trains on other utterances than the others, and than in its rounds alone.
    """
    others = [
        Worker("recipe-16", Path(sys.executable), args.threads, device) for _ in range(FOLDS - 1)
    ]
    rounds = []
    try:
        failed = [said for said in [other.ask() for other in others] if "error" in said]
        if failed:
            return failed[0]
        with ThreadPoolExecutor(FOLDS) as pool:
            for number in range(1, args.rounds + 1):
                commands = [f"round {args.rounds + FOLDS * number + i}" for i in range(FOLDS)]
                begin = time.perf_counter()
                done = list(pool.map(Worker.ask, [worker, *others], commands))
                seconds = time.perf_counter() - begin
                failed = [said for said in done if "error" in said]
                if failed:
                    return failed[0]
                audio = sum(result["audio"] for result in done)
                rounds.append({"audio": audio, "seconds": seconds})
                say(f"{FOLDS} at once: {audio:.0f} s of audio in {seconds:.1f} s")
    finally:
        for other in others:
            other.stop()
    return rounds


def measure_means(args: argparse.Namespace, device: str) -> tuple[list[dict], list[dict]]:
    """Rounds of the recipe as it is, and a row for each variant with its rounds, in turn."""
    from bench.recipe import FROZEN, OFF, ON_CPU

    recipe = Worker("recipe", Path(sys.executable), args.threads, device)
    greeting = recipe.ask()
    if "error" in greeting:
        raise SystemExit(f"bench: this recipe cannot be measured: {greeting['error']}")
    say(greeting["notes"])
    whole, rows = [], []
    names = (*(n for n in OFF if device == "cpu" or n not in ON_CPU), *FROZEN)
    for i, name in enumerate(names):
        begin = 1 + i * (args.rounds + 1)
        variant = Worker(name, Path(sys.executable), args.threads, device)
        row = {"name": name, "frozen": name in FROZEN, "rounds": [], **variant.ask()}
        row["beside"] = []
        rows.append(row)
        # in turn first and second, so that a drift of the machine falls on both
        pair = [(recipe, row["beside"]), (variant, row["rounds"])]
        for number in range(begin, begin + args.rounds + 1) if "error" not in row else ():
            pair.reverse()
            for worker, rounds in pair:
                said = worker.ask(f"round {number}")
                if number > begin:  # the first is for the variant's kernels, and does not count
                    rounds.append(said)
                if "error" in said and "error" not in row:
                    beside = "beside it, this recipe: " if worker is recipe else ""
                    row["error"] = beside + said["error"]  # the two may not fit side by side
            if "error" in row:
                break
        whole += [done for done in row["beside"] if "error" not in done]
        variant.stop()
        say(f"{name}: {row.get('error') or format(rate(row['rounds']), '.2f') + ' s/s'}")
    recipe.stop()
    if not whole:
        raise SystemExit("bench: no round of this recipe ended; see above")
    return whole, rows


def means_report(whole: list[dict], rows: list[dict], args: argparse.Namespace, device: str) -> str:
    """bench/MEANS.md."""
    memory = max(done["memory"] for done in whole) / 1e9
    lines = [
        "# What each means is worth",
        "",
        f"Written by `make bench-means{' GPU=1' if device != 'cpu' else ''}`; do not edit. "
        f"Machine: {machine()}; {args.threads} threads. Commit {commit()}; {versions()}.",
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
    """Audio seconds a second, the median of the rounds."""
    return statistics.median(r["audio"] / r["seconds"] for r in rounds)


def report(state: dict) -> str:
    """bench/RESULTS.md of what has been measured."""
    settings = state["settings"]
    gpu = settings["device"] != "cpu"
    lines = [
        "# What the bench measured",
        "",
        f"Written by `make bench{'-gpu' if gpu else ''}`; do not edit. Machine: {machine()}; "
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
    """The operations that the work takes, against what the machine does."""
    seconds = durations()
    parts = [forward_flops(s) for s in seconds]
    total = seconds.sum()
    forward = {key: sum(p[key] for p in parts) / total / 1e9 for key in parts[0]}
    training = sum(training_flops(s) for s in seconds) / total / 1e9
    epoch = sorted_batches(seconds, 4), random_batches(seconds, 4)
    size = matmul_size(state["settings"]["device"])
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
    """How long S1 takes on IEMOCAP, by the rates of this recipe with everything fine-tuned."""
    speech = durations().sum()
    trained, validated = 0.8 * EPOCHS * speech, 0.1 * EPOCHS * speech
    rates = {
        state["systems"][name]["name"]: rate(state["rounds"][name])
        for name in ("recipe", "recipe-16")
        if state["rounds"].get(name)
    }
    together = state.get("together", {})
    if isinstance(together, list) and together:
        rates[f"{FOLDS} folds with batches of 16 at once"] = rate(state["together"])
    if not rates:
        return []
    failed = ""
    if "error" in together:
        failed = f" {FOLDS} folds at once were not measured: {together['error']}."
    took = "; ".join(
        f"{name}: {duration((trained + FORWARD * validated) / value)}"
        for name, value in rates.items()
    )
    return [
        "## A whole experiment",
        "",
        "Worked out from these rates, not run: ten folds of a hundred epochs on IEMOCAP's "
        f"{len(durations()):,} utterances are {trained / 1e6:.1f} million s of audio to train on "
        f"and {validated / 1e6:.1f} million to validate on, a second of which takes a third of the "
        f"time. {took[0].upper()}{took[1:]}. Reading files, checkpoints and scoring come on top."
        f"{failed}",
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
    for name, count in (("longest", "Four"), ("longest-16", "Sixteen")):
        said = state.get(name)
        if said is None:
            continue
        what = f"{count} utterances of 34.1 s at once, the most that such a batch can be"
        if "error" in said:
            lines += ["", f"{what}: not measured: {said['error']}."]
        else:
            lines += [
                "",
                f"{what}: {said['seconds']:.1f} s forward and backward, and "
                f"{said['memory'] / 1e9:.1f} GB at most in the whole process.",
            ]
    return ["## Inference and memory", "", *lines] if lines else []


def say(message: str) -> None:
    print(f"[bench] {message}", flush=True)


def commit() -> str:
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return git.stdout.strip() or "unknown"


def cuda_available() -> bool:
    import torch

    return torch.cuda.is_available()


def machine() -> str:
    """The processor's name and number of cores, the memory, and the GPU if torch sees one."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
        flags = info.read_text().split()
        name += ", AMX" if "amx_bf16" in flags else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GB{gpu}"


def versions() -> str:
    import torch
    import transformers

    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


if __name__ == "__main__":
    main()
