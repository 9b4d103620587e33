"""Check the folds of a dump again: nothing of a test split may be in training or validation."""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path

from ser.console import run
from ser.data.folds import audit_folds


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dump-dir", type=Path, required=True, help="of the corpus")
    parser.add_argument("--protocol", default="strict", help="e.g. strict or kfold5")
    args = parser.parse_args()
    folds_dir = args.dump_dir / "folds" / args.protocol
    print("\n".join(audit_folds(args.protocol, folds_dir, args.dump_dir)))


if __name__ == "__main__":
    run(main)
