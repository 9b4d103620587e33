"""Base classes of frontends and encoders; ESPnet's own encoders have the same interface."""

from abc import ABC, abstractmethod

import torch


class AbsFrontend(torch.nn.Module, ABC):
    """Map the model's input to frames.

    A subclass that reads anything other than features lists its ``feats_type`` values in ``reads``,
    and any subclass sets ``_output_size`` or overrides ``output_size``.
    """

    _output_size: int

    def output_size(self) -> int:
        """Frame size D."""
        return self._output_size

    @abstractmethod
    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L) samples or (B, L, F) features, (B,) -> (B, T, D) frames, (B,)."""


class AbsEncoder(torch.nn.Module, ABC):
    """Map frames to frames; a subclass sets ``_output_size`` or overrides ``output_size``."""

    _output_size: int

    def output_size(self) -> int:
        """Frame size D'."""
        return self._output_size

    @abstractmethod
    def forward(
        self, xs_pad: torch.Tensor, ilens: torch.Tensor, prev_states: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(B, T, D), (B,) -> (B, T', D'), (B,) and states, which this recipe does not use."""
