"""Check a system's YAML, in less than a second, before stages or jobs begin."""

import argparse
from pathlib import Path

from ser.console import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, nargs="+", required=True, help="YAML files")
    parser.add_argument("--ssl", default="", help="hub id or folder that replaces the YAML's")
    parser.add_argument("--fold-dir", type=Path, help="dump/<corpus>/folds/<protocol>, if due")
    parser.add_argument("--folds", type=str.split, default=[], help="blank separated names")
    parser.add_argument("extra_args", nargs="*", help="ESPnet options, after --")
    args = parser.parse_args()

    from ser.training.declared import check_system

    for config in args.config:
        check_system(config, args.extra_args, args.ssl, args.fold_dir, args.folds)


if __name__ == "__main__":
    run(main)
