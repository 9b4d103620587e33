"""From frames to one vector per utterance."""

from abc import ABC, abstractmethod

import torch

from ser.masks import frame_mask


class AbsPooling(torch.nn.Module, ABC):
    """Pool (B, T, D) frames of which the first ``lengths[b]`` are real into (B, P)."""

    @abstractmethod
    def output_size(self) -> int:
        """P, the size of the pooled vector."""

    @abstractmethod
    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, T, D), (B,) -> (B, P)."""


class MeanPooling(AbsPooling):
    """Mean over the real frames (eq. 7): an utterance's padding never enters its vector."""

    def __init__(self, input_size: int):
        super().__init__()
        self._output_size = input_size

    def output_size(self) -> int:
        return self._output_size

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        mask = frame_mask(lengths, frames.size(1)).unsqueeze(-1)  # (B, T, 1)
        total = frames.masked_fill(~mask, 0.0).sum(dim=1)  # (B, D)
        return total / lengths.unsqueeze(-1).to(frames.dtype)
