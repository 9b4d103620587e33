"""Print how many folds a corpus will have, before stage 3 has made them."""

import argparse

from ser.console import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", required=True, help="a folder of egs/")
    parser.add_argument("--protocol", required=True, help="e.g. strict or kfold5")
    args = parser.parse_args()

    from ser.corpora.prepare import load_spec
    from ser.data.shares import expected_folds

    print(expected_folds(load_spec(args.corpus), args.protocol))


if __name__ == "__main__":
    run(main)
