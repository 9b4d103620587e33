"""Write docs/reference.md, the list of every option, from the code (make docs)."""

import argparse
from pathlib import Path

from ser.cli.reference import reference
from ser.console import run
from ser.files import atomic_write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    args = parser.parse_args()
    with atomic_write(args.output) as stream:
        stream.write(reference())


if __name__ == "__main__":
    run(main)
