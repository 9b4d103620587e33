"""List a sweep's experiments (tag, seed, configuration, units), or report what they found."""

import argparse
from pathlib import Path

from ser.console import run


def main() -> None:
    """Parse the command line; list the experiments or, with --report, say what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--sweep", type=Path, required=True, help="a file of conf/sweeps")
    add("--config", type=Path, required=True, help="the system that it varies")
    add("--exp-root", type=Path, required=True, help="holds <corpus>/<tag>")
    add("--corpus", required=True)
    add("--protocol", required=True)
    add("--seed", default="", help="blank separated; empty: those of the sweep")
    add("--report", action="store_true", help="write the table and figure of what has scores")
    args = parser.parse_args()

    from ser.training.sweep import list_experiments, load_sweep

    sweep = load_sweep(args.sweep, args.config)
    seeds = [int(seed) for seed in args.seed.split()] or sweep.seeds
    if args.report:
        from ser.reporting.sweeps import report_sweep

        found = report_sweep(sweep, args.config, args.exp_root, args.corpus, args.protocol, seeds)
        print(found.read_text(encoding="utf-8"), end="")
        if sweep.published:
            from ser.reporting.page.paper import write_page

            write_page(sweep, args.exp_root, args.corpus, seeds)
    else:
        directory = args.exp_root / args.corpus / f"{sweep.name}_points"
        for fields in list_experiments(sweep, args.protocol, seeds, directory):
            print(*fields, sep="\t")


if __name__ == "__main__":
    run(main)
