"""Which frames of a padded batch are real."""

import torch


def frame_mask(lengths: torch.Tensor, max_length: int) -> torch.Tensor:
    """Boolean mask (B, T), True where frame t < lengths[b]; T is ``max_length``."""
    return torch.arange(max_length, device=lengths.device)[None, :] < lengths[:, None]


def none_padded(mask: torch.Tensor) -> bool:
    """Whether all of ``mask`` is True; False while a model is exported.

    What an exported graph computes must not hang on the example that it was traced with.
    """
    return not torch.compiler.is_exporting() and bool(mask.all())
