"""Pretrain the encoder that conf/mini_*.yaml start from, on synthetic speech of other voices."""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path

from ser.console import run
from ser.training.mini_encoder import make


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder; is replaced")
    parser.add_argument("--seed", type=int, default=1, help="of speech and training")
    args = parser.parse_args()
    make(args.output, args.seed)


if __name__ == "__main__":
    run(main)
