"""Which frames of a padded batch are real."""

import torch


def frame_mask(lengths: torch.Tensor, max_length: int) -> torch.Tensor:
    """Boolean mask (B, T), True where frame t < lengths[b]; T is ``max_length``."""
    return torch.arange(max_length, device=lengths.device)[None, :] < lengths[:, None]
