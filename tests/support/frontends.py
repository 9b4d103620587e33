"""Tiny untrained networks, and batches of noise for them."""

import torch

from ser.models.ssl import HFFrontend
from tests.support.tiny import ENCODERS


def build(name: str, **options) -> HFFrontend:
    """The frontend of one of ``ENCODERS``, in evaluation mode."""
    torch.manual_seed(0)
    model_type, config = ENCODERS[name]
    return HFFrontend(init="random", model_type=model_type, config=config, **options).eval()


def hidden_states(
    frontend: HFFrontend, speech: torch.Tensor, lengths: torch.Tensor
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """H_l and every layer's output, (B, T, D) each, as ``layers: concat`` has them; lengths (B,).

    They equal transformers' ``output_hidden_states`` except at index 0, which there includes the
    convolutional position embeddings and here is H_l itself.
    """
    fused = frontend.layers, frontend.used
    frontend.layers, frontend.used = "concat", list(range(frontend.num_layers + 1))
    frames, lengths = frontend(speech, lengths)
    frontend.layers, frontend.used = fused
    return frames.chunk(frontend.num_layers + 1, dim=-1), lengths


def padded_batch(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of these lengths, zeros beyond them: (B, L), (B,)."""
    generator = torch.Generator().manual_seed(1)
    speech = 0.1 * torch.randn(len(lengths), max(lengths), generator=generator)
    for row, length in zip(speech, lengths, strict=True):
        row[length:] = 0.0
    return speech, torch.tensor(lengths)


def frames_of(lengths: list[int], size: int) -> torch.Tensor:
    """Noise as frames, zeros beyond the lengths: (B, T, D)."""
    generator = torch.Generator().manual_seed(3)
    batch = torch.zeros(len(lengths), max(lengths), size)
    for row, length in zip(batch, lengths, strict=True):
        row[:length] = torch.randn(length, size, generator=generator)
    return batch


def seeded(make):
    """What ``make`` makes, always with the same weights."""
    torch.manual_seed(1)
    return make()
