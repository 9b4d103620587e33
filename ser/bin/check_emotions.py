"""Refuse to go on from stage 1 with other emotions than it was run with."""

import argparse
from pathlib import Path

from ser.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", required=True, help="a folder of egs/")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--emotions", required=True, help="what run.sh was given")
    args = parser.parse_args()

    from ser.corpora.prepare import require_emotions

    require_emotions(args.corpus, args.data_dir, args.emotions)


if __name__ == "__main__":
    run(main)
