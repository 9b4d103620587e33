"""Lower bound: operations per second of audio, and operations per second of this machine."""

import time
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import torch

SAMPLE_RATE = 16000
# wav2vec2-base, with the names of its configuration in transformers
BASE = SimpleNamespace(
    conv_kernel=(10, 3, 3, 3, 3, 2, 2),
    conv_stride=(5, 2, 2, 2, 2, 2, 2),
    conv_dim=(512,) * 7,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_conv_pos_embeddings=128,
    num_conv_pos_embedding_groups=16,
)
FORMULA = (
    "A product of an (m, k) with a (k, n) matrix counts 2 m k n; norms, activations, dropout and "
    "heads are left out. For T = 50 frames a second, D = hidden_size, F = intermediate_size, "
    "N layers: 2 T N (4 D^2 + 2 D F) for the linear layers, 4 N T^2 D for attention (scores and "
    "weighted sum), 2 T_i K_i C_(i-1) C_i for convolution i, 2 T C D for the projection, "
    "2 T P D^2 / G for the positional convolution of kernel P and G groups. A training step is "
    "three times that, once what is frozen. Padding, and what gradient checkpointing computes "
    "again, is work of no use and does not count."
)


def forward_flops(seconds: float, config: Any = BASE) -> dict[str, float]:
    """Floating-point operations of a wav2vec 2.0 for one utterance, by part: ``FORMULA``."""
    frames, channels, convolutions = seconds * SAMPLE_RATE, 1, 0.0
    layers = zip(config.conv_kernel, config.conv_stride, config.conv_dim, strict=True)
    for kernel, stride, size in layers:
        frames /= stride
        convolutions += 2 * frames * kernel * channels * size
        channels = size
    hidden, inner, count = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    kernel, groups = config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
    projection = 2 * frames * channels * hidden
    positions = 2 * frames * kernel * hidden * hidden / groups
    return {
        "convolutions": convolutions,
        "projection and positions": projection + positions,
        "linear layers": count * 2 * frames * (4 * hidden * hidden + 2 * hidden * inner),
        "attention": count * 2 * 2 * frames * frames * hidden,
    }


def training_flops(seconds: float, config: Any = BASE, frozen: Collection[str] = ()) -> float:
    """Forward and backward pass: each product has two of the same size in its backward pass.

    Args:
        frozen: Parts without a backward pass.
    """
    parts = forward_flops(seconds, config).items()
    return sum(flops * (1 if part in frozen else 3) for part, flops in parts)


def matmul_size(device: str) -> int:
    """Matrix size large enough to saturate the device and make launch overhead negligible."""
    return 2048 if device == "cpu" else 8192


def matmul_rate(dtype: torch.dtype, device: str, repeats: int = 8) -> float:
    """Operations per second of torch's product of two square matrices, the best of ``repeats``."""
    size = matmul_size(device)
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ a
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
