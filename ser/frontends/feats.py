"""Features that stage 3 computed (spectrogram, log-mel, MFCC) as the model's input."""

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.layers.utterance_mvn import UtteranceMVN


class FeatsFrontend(AbsFrontend):
    """Pass (B, T, F) features on, normalised over each utterance's own frames.

    Args:
        input_size: F, the feature dimension.
        norm_means: Subtract the utterance's mean of every dimension.
        norm_vars: Divide by the utterance's standard deviation of every dimension.
    """

    def __init__(self, input_size: int, norm_means: bool = True, norm_vars: bool = True):
        super().__init__()
        self._output_size = input_size
        self.normalize = UtteranceMVN(norm_means=norm_means, norm_vars=norm_vars)

    def output_size(self) -> int:
        return self._output_size

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, F), (B,) -> the same shapes."""
        return self.normalize(input, input_lengths)
