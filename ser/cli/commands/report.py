"""One experiment, or two side by side, as one HTML page that needs no other file.

Scores with intervals, confusion matrices, speakers, learning curves, layer weights, calibration,
the worst errors to listen to, and one utterance over time. It opens without a network, on a phone
and on paper.

examples:
  ser report exp/mini/mini_s1_strict_seed1
  ser report exp/iemocap/s2_single_task_paper_seed1 exp/iemocap/s1_mtl_phoneme_paper_seed1
  ser report exp/iemocap/s1_mtl_phoneme_paper_seed1 --no-audio --output s1.html
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ser report``."""
    parser.add_argument(
        "experiment",
        nargs="+",
        metavar="EXP",
        help="exp/<corpus>/<tag>, scored; a second one is set beside it",
    )
    parser.add_argument("--output", metavar="FILE", help="the page; default: EXP/report.html")
    parser.add_argument(
        "--errors", type=_count, default=9, metavar="N", help="wrong decisions to show (9)"
    )
    parser.add_argument(
        "--no-audio",
        action="store_true",
        help="leave recordings and words out: corpora's licences mostly forbid to pass them on",
    )
    parser.add_argument(
        "--utterance",
        metavar="ID",
        help="the utterance to draw over time; default: the most confident error",
    )
    parser.add_argument("--dump-dir", metavar="DIR", help="dump/<corpus>; default: beside exp/")
    parser.add_argument("--data-dir", metavar="DIR", help="data/<corpus>; default: beside exp/")


def run(args: argparse.Namespace) -> None:
    """Write the page."""
    from ser.reporting.html import make_html_report

    make_html_report(
        args.experiment,
        output=args.output,
        errors=args.errors,
        audio=not args.no_audio,
        utterance=args.utterance,
        dump_dir=args.dump_dir,
        data_dir=args.data_dir,
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 0 on")
    return int(text)
