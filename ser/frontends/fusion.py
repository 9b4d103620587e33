"""From the layers of a speech encoder to one sequence of frames."""

from collections.abc import Sequence

import torch


class WeightedSum(torch.nn.Module):
    """Softmax-weighted sum of layers with trainable scalars (eq. 4 of Li et al., 2024).

    H_X = a_0 H_l + sum_{i=1..N} a_i H_{h,i},  a = softmax(s),  s = 0 at the start.

    ``H_l`` are the low-level features that enter the transformer and ``H_{h,i}`` the output
    of its layer i, so that ``num_inputs`` is N + 1 (13 for wav2vec 2.0 base).
    """

    def __init__(self, num_inputs: int):
        super().__init__()
        self.scalars = torch.nn.Parameter(torch.zeros(num_inputs))

    def weights(self) -> torch.Tensor:
        """The softmax weights a_0 .. a_N, (N + 1,)."""
        return torch.softmax(self.scalars.float(), dim=0)

    def forward(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        """N + 1 tensors (B, T, D) -> (B, T, D)."""
        if len(layers) != len(self.scalars):
            raise ValueError(f"{len(layers)} layers for {len(self.scalars)} weights")
        weights = self.weights()
        fused = weights[0] * layers[0]
        for weight, layer in zip(weights[1:], layers[1:], strict=True):
            fused = fused + weight * layer
        return fused
