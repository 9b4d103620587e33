"""Show how far every fold of experiments has come. Starts nothing and changes nothing."""

import argparse
from pathlib import Path

from ser.console import run
from ser.reporting.status import show_status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dump-dir", type=Path, required=True, help="dump/<corpus>")
    parser.add_argument("--protocol", default="strict", help="where stage 4 has not begun")
    parser.add_argument("--exp-dir", type=Path, nargs="+", required=True, help="exp/<corpus>/<tag>")
    args = parser.parse_args()
    for exp_dir in args.exp_dir:
        print(show_status(exp_dir, args.dump_dir, args.protocol))


if __name__ == "__main__":
    run(main)
