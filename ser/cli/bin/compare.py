"""Compare two systems on the same test utterances: differences, intervals, McNemar's test."""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

from ser.console import run
from ser.scoring.compare import compare


def main() -> None:
    """Parse the command line, print the table and write compare.json."""
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--exp-dir",
        action="append",
        required=True,
        help="exp/<corpus>/<tag> after stage 5; once for each system, or for each seed of both",
    )
    parser.add_argument("--dump-dir", required=True, help="dump/<corpus>, made by stage 3")
    parser.add_argument(
        "--out-dir",
        help="for compare.json and compare.txt; default: compare/A_vs_B beside the first",
    )
    args = parser.parse_args()
    compare(args.exp_dir, args.dump_dir, args.out_dir or None)


if __name__ == "__main__":
    run(main)
