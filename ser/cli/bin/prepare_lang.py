"""Stage 2: lexicon, phones and units of a corpus."""

import argparse

from ser.console import run
from ser.lang.prepare import prepare_lang


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data-dir", required=True, help="data/<corpus>, with all/ from stage 1")
    parser.add_argument(
        "--token-type",
        default="tagged_class",
        help="tagged_class, class, tagged_phone, phone, char or bpe; "
        "all but the first go to lang_<type> beside lang",
    )
    parser.add_argument(
        "--bpe-size",
        type=int,
        default=500,
        help="pieces of token type bpe; its tokenizer sees the transcripts of all speakers",
    )
    args = parser.parse_args()
    prepare_lang(args.data_dir, args.token_type, args.bpe_size)


if __name__ == "__main__":
    run(main)
