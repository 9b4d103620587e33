"""Stage 1: a corpus on disk -> data/<corpus>/all."""

import argparse
from pathlib import Path

from ser.console import run


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--corpus", required=True, help="a folder of egs/")
    parser.add_argument("--corpus-dir", type=Path, help="where the corpus lies; mini is made there")
    parser.add_argument(
        "--text",
        type=Path,
        help="transcripts in place of the corpus' own: '<utterance id> words' a line, or "
        "'<sentence> words' in corpora that number their sentences (casia)",
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="output folder")
    parser.add_argument(
        "--emotions",
        default="",
        help="a set named in corpus.yaml (emodb: 4 or 7) or a comma list in class order; "
        "empty takes the corpus's default",
    )
    parser.add_argument(
        "--allow-partial",
        choices=("true", "false"),
        default="false",
        help="go on when parts of the corpus are missing, and record which",
    )
    parser.add_argument("--seed", type=int, default=0, help="for corpora made by the recipe (mini)")
    parser.add_argument("--nj", type=int, default=4, help="files read at the same time")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    from ser.corpora.prepare import prepare

    prepare(
        corpus=args.corpus,
        data_dir=args.data_dir,
        corpus_dir=args.corpus_dir,
        emotions=args.emotions,
        allow_partial=args.allow_partial == "true",
        seed=args.seed,
        nj=args.nj,
        text=args.text,
    )


if __name__ == "__main__":
    run(main)
