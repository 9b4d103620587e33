"""Pack an experiment into one folder, and a zip of it, that others can load and share.

EXPERIMENT/packed is a Hugging Face model folder (safetensors, model card with the scores, protocol
and limits), EXPERIMENT/<tag>.zip the same as an ESPnet archive; neither holds a path of this
machine nor needs the pretrained encoder. All scored folds are packed, which together make an
ensemble: 380 MB each for wav2vec 2.0 base, and as much again for the zip; --folds packs fewer.
"""

import argparse

EXAMPLES = """examples:
  ser pack exp/mini/mini_s1_strict_seed1
  ser pack exp/iemocap/s1_mtl_phoneme_strict_seed1 --folds Ses01F   # one model, 380 MB
  hf upload OWNER/NAME exp/mini/mini_s1_strict_seed1/packed         # share it

./run.sh --stage 7 does the same with the options of the training.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``ser pack``."""
    parser.epilog = EXAMPLES
    parser.add_argument("experiment", metavar="EXPERIMENT", help="exp/<corpus>/<tag>, scored")
    parser.add_argument(
        "--folds",
        type=str.split,
        default=[],
        metavar="'NAME NAME'",
        help="pack the models of these folds only; default: all that are scored",
    )


def run(args: argparse.Namespace) -> None:
    """Write the folder and the zip."""
    from ser.release.pack import pack_experiment

    pack_experiment(args.experiment, args.folds)
