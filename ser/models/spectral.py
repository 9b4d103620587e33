"""Features that stage 3 computed (spectrogram, log-mel, MFCC, functionals) as the model's input."""

import math

import torch

from ser.errors import UserError
from ser.models.base import AbsFrontend
from ser.models.masks import beside, frame_mask, without_padding

DECIBEL = 10.0 / math.log(10.0)  # dB per unit of natural log power
STD_FLOOR = 1e-20  # for constant dimensions, which stay 0


class FeatsFrontend(AbsFrontend):
    """Pass (B, T, F) features on, normalised over each utterance's own frames.

    ESPnet's UtteranceMVN includes the padding in the variance, as frames at minus the mean.

    Args:
        input_size: F, the feature dimension.
        norm_means: Subtract the utterance's mean of every dimension.
        norm_vars: Divide by the utterance's standard deviation of every dimension.
    """

    def __init__(self, input_size: int, norm_means: bool = True, norm_vars: bool = True):
        super().__init__()
        self._output_size = input_size
        self.norm_means, self.norm_vars = norm_means, norm_vars

    def is_plain(self) -> bool:
        """Whether features are passed through unchanged."""
        return not self.norm_means and not self.norm_vars

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, F), (B,) -> the same shapes, padding zero."""
        count = beside(input_lengths, input.device).view(-1, 1, 1).to(input.dtype)
        feats = without_padding(input, input_lengths)
        centred = without_padding(feats - feats.sum(1, keepdim=True) / count, input_lengths)
        if self.norm_means:
            feats = centred
        if self.norm_vars:
            variance = centred.square().sum(1, keepdim=True) / count  # (B, 1, F)
            feats = feats / variance.sqrt().clamp(min=STD_FLOOR)
        return feats, input_lengths


class GreyFrontend(AbsFrontend):
    """Log power spectrograms (T, F) as pictures whose grey values are in [0, 1].

    The loudest bin of an utterance is white, 1; a bin ``dynamic_range`` dB or more below it
    is black, 0; in between, grey is proportional to the level in dB. Like any picture of a
    spectrogram this one does not show how loud the recording is as a whole.

    Args:
        input_size: F, the number of frequency bins (201 for ``feats_type: spectrogram``).
        dynamic_range: From black to white, in dB.

    Raises:
        UserError: a dynamic range that is not above 0.
    """

    def __init__(self, input_size: int = 201, dynamic_range: float = 80.0):
        super().__init__()
        if not dynamic_range > 0:
            raise UserError(
                f"frontend_conf.dynamic_range: found {dynamic_range!r}; expected decibels above 0"
            )
        self._output_size = input_size
        self.dynamic_range = dynamic_range

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, F) ln |STFT|^2, (B,) -> (B, T, F) grey values, padding black, and (B,)."""
        padding = ~frame_mask(input_lengths, input.size(1), input.device).unsqueeze(-1)  # (B, T, 1)
        loudest = input.masked_fill(padding, -math.inf).amax(dim=(1, 2), keepdim=True)
        level = DECIBEL * (input - loudest)  # dB, 0 or less
        grey = (1.0 + level / self.dynamic_range).clamp(0.0, 1.0)
        return grey.masked_fill(padding, 0.0), input_lengths
