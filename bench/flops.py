"""The floor: how many operations a second of audio takes, and how many this machine does."""

import time

import torch

SAMPLE_RATE = 16000
# wav2vec2-base
KERNELS, STRIDES, CHANNELS = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), 512
LAYERS, HIDDEN, INNER = 12, 768, 3072
POSITION_KERNEL, POSITION_GROUPS = 128, 16


def forward_flops(seconds: float) -> dict[str, float]:
    """Floating-point operations of wav2vec2-base for one utterance, by part.

    A product of an (m, k) with a (k, n) matrix counts 2 m k n; norms and activations are left out.
    """
    frames, channels, convolutions = seconds * SAMPLE_RATE, 1, 0.0
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        frames /= stride
        convolutions += 2 * frames * kernel * channels * CHANNELS
        channels = CHANNELS
    projection = 2 * frames * CHANNELS * HIDDEN
    positions = 2 * frames * POSITION_KERNEL * HIDDEN * HIDDEN / POSITION_GROUPS
    linear = LAYERS * 2 * frames * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)
    attention = LAYERS * 2 * 2 * frames * frames * HIDDEN
    return {
        "convolutions": convolutions,
        "projection and positions": projection + positions,
        "linear layers": linear,
        "attention": attention,
    }


def training_flops(seconds: float) -> float:
    """Forward and backward: each product has two in its backward pass, of the same size."""
    return 3 * sum(forward_flops(seconds).values())


def matmul_size(device: str) -> int:
    """Large enough to fill the device, and to make nothing of what starting a product takes."""
    return 2048 if device == "cpu" else 8192


def matmul_rate(dtype: torch.dtype, device: str, repeats: int = 8) -> float:
    """Operations a second that torch's product of two square matrices reaches, the best of some."""
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
