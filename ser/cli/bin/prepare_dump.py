"""Stage 3: waveforms, tables, targets, features and folds of one corpus."""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path

from ser.console import run
from ser.data.features import FEATS_TYPES
from ser.data.prepare import DEFAULT_TOKEN_TYPE, RAW, prepare_dump
from ser.lang.units import TOKEN_TYPES


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="of the corpus, with all/ and lang/"
    )
    parser.add_argument("--dump-dir", type=Path, required=True, help="of the corpus; is written")
    parser.add_argument(
        "--token-type",
        choices=list(TOKEN_TYPES),
        default=DEFAULT_TOKEN_TYPE,
        help="targets to add to the dump; tagged_class is always there",
    )
    parser.add_argument(
        "--feats-type", choices=[RAW, *FEATS_TYPES], default=RAW, help="raw: nothing to extract"
    )
    parser.add_argument(
        "--protocol",
        default="strict",
        help="strict: the session's other speaker validates; paper: no validation; session: "
        "leave one session out; crossed3: leave out a speaker and a third of the sentences; "
        "kfold5: five parts of all speakers' utterances",
    )
    parser.add_argument("--nj", type=int, default=2, help="number of processes")
    prepare_dump(**vars(parser.parse_args()))


if __name__ == "__main__":
    run(main)
