"""The whole paper (conf/sweeps/paper.yaml): what it will take, or how far it has come."""

import argparse
from pathlib import Path

from ser.console import run
from ser.training.sweep import Sweep, load_sweep


def main() -> None:
    """Parse the command line and print what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--sweep", type=Path, required=True, help="the experiments")
    add("--config", type=Path, required=True, help="the system that they vary")
    add("--exp-root", type=Path, required=True, help="holds <corpus>/<tag>")
    add("--dump-dir", type=Path, required=True, help="dump/<corpus>")
    add("--corpus", required=True)
    add("--protocol", nargs="+", required=True)
    add("--seed", default="", help="blank separated; empty: those of the sweep")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--plan", action="store_true", help="estimate hours, disk and memory")
    what.add_argument("--status", action="store_true", help="show every fold")
    add("--folds", type=str.split, default=[], help="blank separated names; empty means all")
    add("--ngpu", type=int, default=0)
    add("--folds-per-gpu", type=int, default=1)
    add("--nj", default="", help="trainings side by side on the CPU; empty: 2")
    add("--max-epoch", default="", help="replaces max_epoch of the YAML")
    add("--ssl", default="", help="replaces frontend_conf.model")
    add("--backend", default="local", help="with slurm nothing is timed here")
    add("extra_args", nargs="*", help="ESPnet options, after --")
    args = parser.parse_args()

    sweep = load_sweep(args.sweep, args.config)
    seeds = [int(seed) for seed in args.seed.split()] or sweep.seeds
    (show_status if args.status else show_plan)(args, sweep, seeds)


def show_status(args: argparse.Namespace, sweep: Sweep, seeds: list[int]) -> None:
    """The table of folds of every experiment that has begun; the others by name."""
    from ser.reporting.status import show_status as describe

    for protocol in args.protocol:
        for point in sweep.points:
            for seed in seeds:
                tag = point.experiment(sweep.name, protocol, seed)
                exp_dir = args.exp_root / args.corpus / tag
                if exp_dir.is_dir():
                    print(describe(exp_dir, args.dump_dir, protocol))
                else:
                    print(f"{exp_dir}: not started")


def show_plan(args: argparse.Namespace, sweep: Sweep, seeds: list[int]) -> None:
    """What is left to be trained, and what it will take."""
    from ser.data.tables import read_table
    from ser.training import estimate

    directory = args.exp_root / args.corpus
    max_epoch = int(args.max_epoch) if args.max_epoch else None
    work = estimate.read_work(
        sweep, directory, args.dump_dir, args.protocol, seeds, args.folds, max_epoch
    )
    at_once = args.ngpu * args.folds_per_gpu or int(args.nj or 2)
    at_once = 1 if args.backend == "slurm" else min(at_once, len(work))
    costs = estimate.costs_so_far(work, at_once)
    left = {w.kind for w in work if w.trained < w.epochs} - costs.keys()
    timings = estimate.timings_of(
        sweep,
        directory / "paper",
        sorted(left) if args.backend == "local" else None,
        dump_dir=args.dump_dir,
        protocol=args.protocol[0],
        ssl=args.ssl or None,
        ngpu=min(args.ngpu, 1),
        extra_args=args.extra_args,
    )
    source = f"an estimate from {2 * estimate.STEPS} batches on this machine"
    timed = {
        kind: estimate.Cost(timings[kind]["rate"], max(args.ngpu, 1), source)
        for kind in left & timings.keys()
    }
    samples = read_table(args.dump_dir / "utt2num_samples").values()
    seconds = sum(map(int, samples)) / estimate.RATE
    experiments = len(args.protocol) * len(sweep.points) * len(seeds)
    print(
        estimate.describe_plan(
            work, experiments, costs | timed, timings, seconds, at_once, directory
        )
    )


if __name__ == "__main__":
    run(main)
