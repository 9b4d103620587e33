"""Print one top-level value of a system's YAML, for the shell."""

import argparse
from pathlib import Path

from ser.config import load_config
from ser.console import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("key")
    parser.add_argument("default", nargs="?", default="")
    args = parser.parse_args()
    print(load_config(args.config).get(args.key, args.default))


if __name__ == "__main__":
    run(main)
