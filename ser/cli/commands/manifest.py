"""Write a prepared corpus, with its folds, as manifests for other toolkits.

OUTPUT/lhotse holds recordings.jsonl.gz, supervisions.jsonl.gz (speaker, gender, language, text, and
the emotion as custom.emotion) and, for each fold, cuts_train, cuts_valid and cuts_test.jsonl.gz.
OUTPUT/emobox/<corpus> holds EmoBox's metadata: <corpus>.jsonl, label_map.json and, for fold N,
fold_N/<corpus>_train_fold_N.jsonl and so on; folds.tsv says which fold N is. Folds are those of
stage 3; only strict has a valid split. Audio is referred to, not copied.
"""

import argparse
from pathlib import Path

EXAMPLES = """examples:
  ser manifest data/emodb
  ser manifest data/iemocap --protocol session --format emobox --output ~/EmoBox/data_session
  ser manifest data/emodb --relative-to ~/emodb/wav      # for a machine that has it elsewhere
  ser manifest data/emodb --protocol kfold --k 5         # speaker-dependent
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``ser manifest``."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("data_dir", type=Path, metavar="DIR", help="data/<corpus>, as stage 1 has left it")
    add(
        "--format",
        choices=["both", "lhotse", "emobox"],
        default="both",
        help="what to write; default: both",
    )
    add(
        "--protocol",
        choices=["strict", "paper", "session", "crossed", "kfold"],
        default="strict",
        help="of the folds, as in run.sh; default: strict",
    )
    add(
        "--k",
        type=int,
        metavar="N",
        help="folds of --protocol kfold, groups of sentences of crossed",
    )
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="the folder to write, or to write anew if it holds manifests; default: "
        "DIR/manifests/<protocol>",
    )
    add(
        "--relative-to",
        type=Path,
        metavar="DIR",
        help="write audio paths as seen from this folder; default: absolute paths",
    )
    add("--nj", type=int, default=4, metavar="N", help="audio headers read at a time; default: 4")


def run(args: argparse.Namespace) -> None:
    """Write the folder and print what is in it."""
    from ser.data.manifest import protocol_name, write_manifests

    write_manifests(
        args.data_dir,
        protocol=protocol_name(args.protocol, args.k),
        form=args.format,
        output=args.output,
        relative_to=args.relative_to,
        nj=args.nj,
    )
