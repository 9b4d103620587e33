"""Stage 6: write RESULTS.md from all scores.json files, and draw figures."""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

from ser.console import run
from ser.reporting.results import make_report


def main() -> None:
    """Parse the command line and write the report."""
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--exp-root", default="exp", help="holds <corpus>/<tag>/scores.json")
    parser.add_argument("--results", default="RESULTS.md", help="the file to write")
    parser.add_argument("--exp-dir", help="draw this experiment's figures only; default: all")
    parser.add_argument("--conf-dir", default="conf", help="where the papers' numbers stand")
    parser.add_argument(
        "--records", help="keep all scores here, as <corpus>/<tag>.json, and report what is here"
    )
    args = parser.parse_args()
    make_report(
        args.exp_root, args.results, args.exp_dir or None, args.conf_dir, args.records or None
    )


if __name__ == "__main__":
    run(main)
