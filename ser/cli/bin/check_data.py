"""Refuse to go on from stage 1 with other options than it was run with."""

import argparse
from pathlib import Path

from ser.console import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", required=True, help="a folder of egs/")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--emotions", default="", help="if run.sh was given them")
    parser.add_argument("--text", type=Path, help="if run.sh was given it")
    args = parser.parse_args()

    from ser.corpora.prepare import require_same_options

    require_same_options(args.corpus, args.data_dir, args.emotions, args.text)


if __name__ == "__main__":
    run(main)
