"""A page on which one drops or records speech and sees what the model says of it.

The probabilities of the emotions, when they change, and the units of the CTC head; the answers are
those of ser predict. The page is for this machine alone unless --host or --share says otherwise.
It needs no network and keeps nothing: recordings are deleted once they are answered.
Needs: pip install -r requirements-apps.txt
"""

import argparse
import math

from ser.cli.commands.predict import EXPERIMENTS, add_model_options, default_model

EXAMPLES = """examples:
  ser demo --model exp/iemocap/s1_mtl_phoneme_strict_seed1
  ser demo --model packed.zip --folds "Ses01F Ses01M" --port 8080
  ser demo --host 0.0.0.0 --max-minutes 5      for all who can reach this machine
"""
LOCAL = "127.0.0.1"
MEGABYTES, MINUTES = 100.0, 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``ser demo``."""
    parser.epilog = EXAMPLES
    add_model_options(parser)
    add = parser.add_argument
    add(
        "--host",
        default=LOCAL,
        metavar="ADDRESS",
        help=f"serve on this address; 0.0.0.0: on all, to whoever can reach them; default: {LOCAL}",
    )
    add("--port", type=_port, metavar="N", help="default: 7860, or the next one that is free")
    add(
        "--share",
        action="store_true",
        help="also give the page a public address for a week, through servers of Gradio's makers: "
        "whoever has it can use the page, and recordings pass through those servers",
    )
    add(
        "--max-megabytes",
        type=_positive,
        default=MEGABYTES,
        metavar="MB",
        help=f"the largest file that is taken; default: {MEGABYTES:g}",
    )
    add(
        "--max-minutes",
        type=_positive,
        default=MINUTES,
        metavar="MIN",
        help=f"the longest recording that is taken; default: {MINUTES:g}",
    )


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    from ser.release.demo import serve

    source = args.model or default_model(EXPERIMENTS)

    def load_model():
        from ser.predict.classifier import SpeechEmotion

        return SpeechEmotion.from_pretrained(source, args.device, args.folds)

    serve(
        load_model,
        source,
        host=args.host,
        port=args.port,
        share=args.share,
        max_megabytes=args.max_megabytes,
        max_minutes=args.max_minutes,
    )


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1 to 65535")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return value
