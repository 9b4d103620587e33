"""Write a model as ONNX, for programs without PyTorch, and compare the two.

The graph takes any number of utterances of any lengths; padding does not change its answers:
  speech (B, L) float32 samples in [-1, 1] at 16 kHz, or (B, T, F) features as the model reads them
  speech_lengths (B,) int64
  emotion_logp (B, C)   log-probabilities of the emotions
  lengths (B,) int64    the frames of each utterance
  <head>_logp           of each auxiliary head: (B, T, V) over its units, (B, V) over its labels
The names of emotions and units are in the file's metadata. One fold makes one file. After writing,
PyTorch and onnxruntime are compared on batches of several sizes and lengths, and the largest
difference is printed. Needs: pip install -r requirements-apps.txt
"""

import argparse
from pathlib import Path

EXAMPLES = """examples:
  ser export --onnx s1.onnx --model exp/iemocap/s1_mtl_phoneme_strict_seed1 --fold Ses01F
  ser export --onnx model.onnx --model packed.zip --opset 18
"""
DEFAULT_OPSET = 18


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``ser export``."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("--onnx", type=Path, required=True, metavar="FILE", help="the file to write")
    add(
        "--model",
        required=True,
        metavar="DIR|ZIP|HUB_ID|EXPERIMENT",
        help="packed model (folder, zip or hub id), or exp/<corpus>/<tag>",
    )
    add("--fold", metavar="NAME", help="the fold whose model is exported; default: the first")
    add(
        "--opset",
        type=int,
        default=DEFAULT_OPSET,
        metavar="N",
        help=f"version of ONNX's operators, 18 or later; default: {DEFAULT_OPSET}",
    )


def run(args: argparse.Namespace) -> None:
    """Write the file and print how far it is from PyTorch."""
    from ser.release.onnx import export_onnx

    export_onnx(args.model, args.onnx, args.fold, args.opset)
