"""Convolutional networks on a CPU: layer by layer, and with fused layers.

CPU seconds of the forward and backward pass of a system's frontend and encoder over 32 utterances
of 2.5 to 2.8 s, on one thread, after a warm-up pass (ser/models/cpu/conv_norm.py).

Usage: python -m bench.convolutions [SYSTEM.yaml]...
"""

import sys
import time
from argparse import Namespace

import torch

from ser.config import load_config
from ser.models import encoders, resnet
from ser.models.build import FEATS_SIZES, build_network
from ser.models.cpu.conv_norm import quick
from ser.models.cpu.malloc import keep_freed_memory

SYSTEMS = ("s5_cnn_blstm_gender", "s7_conv_attention", "s8_parallel", "s17_capsules", "s18_xvector")
UTTERANCES, FRAMES, SAMPLES, ROUNDS = 32, 280, 160, 3


def measure(config: str, dtype: torch.dtype) -> tuple[float, float]:
    """CPU seconds of a step, layer by layer and with fused layers."""
    settings = load_config(config)
    args = Namespace(pooling_conf={}, encoder_conf={}, frontend_conf={})
    vars(args).update(settings)
    torch.manual_seed(0)
    frontend, encoder, _ = build_network(args)
    if args.feats_type == "raw":
        speech = torch.randn(UTTERANCES, FRAMES * SAMPLES)
    else:
        speech = torch.randn(UTTERANCES, FRAMES, FEATS_SIZES[args.feats_type])
    lengths = torch.linspace(0.9, 1.0, UTTERANCES).mul(speech.size(1)).long()
    seconds = []
    for way in (lambda maps: False, quick):
        encoders.quick = resnet.quick = way
        for number in range(1 + ROUNDS):
            if number == 1:
                begin = time.process_time()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                frames = encoder(*frontend(speech, lengths))[0]
            frames.float().square().mean().backward()
        seconds.append((time.process_time() - begin) / ROUNDS)
    return tuple(seconds)


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    print("CPU seconds of a step: layer by layer, in one")
    for config in sys.argv[1:] or [f"conf/train_{name}.yaml" for name in SYSTEMS]:
        for dtype in (torch.float32, torch.bfloat16):
            plain, ours = measure(config, dtype)
            print(f"{config}  {str(dtype):14}  {plain:.2f}  {ours:.2f}", flush=True)


if __name__ == "__main__":
    main()
