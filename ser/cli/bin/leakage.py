"""Print one system's results under several protocols side by side, and what each leak is worth."""

import argparse
from pathlib import Path

from ser.console import run


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--exp-dir", type=Path, nargs="+", required=True, help="exp/<corpus>/<tag> after stage 5"
    )
    args = parser.parse_args()

    from ser.reporting.leakage import report_leakage

    print(report_leakage(args.exp_dir), end="")


if __name__ == "__main__":
    run(main)
