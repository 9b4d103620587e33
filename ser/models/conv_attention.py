"""Attention pooling with weights computed from several neighbouring frames (S7)."""

import torch

from ser.errors import UserError
from ser.models.masks import masked_softmax, without_padding
from ser.models.pooling import AbsPooling
from ser.models.registry import check_whole, is_whole


class ConvAttentionPooling(AbsPooling):
    """Convolutional attention, after Huang and Narayanan (2017): ``hops`` weighted sums.

    A = softmax(W_2 tanh(conv(H))) over the real frames, M = A H, where the convolution spans
    ``kernel`` frames, with zeros beyond the utterance. With a kernel of 1 it is
    SelfAttentionPooling.

    Args:
        input_size: D.
        size: Channels of the convolution.
        kernel: Frames that it spans, an odd number.
        hops: Weighted sums, concatenated.

    Raises:
        UserError: a number out of range, or an even kernel.
    """

    def __init__(self, input_size: int, size: int = 64, kernel: int = 9, hops: int = 1):
        super().__init__()
        check_whole("pooling_conf.size", size)
        check_whole("pooling_conf.hops", hops)
        if not is_whole(kernel) or kernel % 2 == 0:
            raise UserError(
                f"pooling_conf.kernel: found {kernel!r}; expected an odd whole number, 1 or more"
            )
        self._output_size = hops * input_size
        self.hidden = torch.nn.Conv1d(input_size, size, kernel, padding=kernel // 2, bias=False)
        self.score = torch.nn.Linear(size, hops, bias=False)  # W_2

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        frames = without_padding(frames, lengths)
        hidden = self.hidden(frames.transpose(1, 2)).transpose(1, 2).tanh()  # (B, T, size)
        weights = masked_softmax(self.score(hidden), lengths)  # (B, T, hops)
        return (weights.transpose(1, 2) @ frames).flatten(1)  # (B, hops D)
