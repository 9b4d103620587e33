"""Pool frames into one vector per utterance."""

from abc import ABC, abstractmethod

import torch

from ser.errors import UserError
from ser.models.masks import beside, masked_softmax, without_padding
from ser.models.registry import check_whole


class AbsPooling(torch.nn.Module, ABC):
    """Pool (B, T, D) frames of which the first ``lengths[b]`` are real into (B, P).

    A subclass sets ``_output_size`` or overrides ``output_size``.
    """

    _output_size: int

    def output_size(self) -> int:
        """Size P of the pooled vector."""
        return self._output_size

    @abstractmethod
    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, T, D), (B,) -> (B, P)."""


class MeanPooling(AbsPooling):
    """Mean over the real frames (eq. 7), without the padding.

    Args:
        input_size: D.
        mask: False averages over the padding too, as the released code of Cai et al. (2021) does,
            so that the scores of an utterance depend on the lengths of others in its batch. Only
            there to measure the effect.
    """

    def __init__(self, input_size: int, mask: bool = True):
        super().__init__()
        self._output_size = input_size
        self.mask = mask

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if not self.mask:
            return frames.mean(dim=1)
        total = without_padding(frames, lengths).sum(dim=1)  # (B, D)
        return total / beside(lengths, frames.device).unsqueeze(-1).to(frames.dtype)


class StatisticsPooling(AbsPooling):
    """Mean and standard deviation over the real frames, side by side (Snyder et al., 2018).

    The standard deviation is sqrt(mean((h - mean)^2) + 1e-5), so that one frame has a gradient.

    Args:
        input_size: D; the vector has 2 D values.
    """

    def __init__(self, input_size: int):
        super().__init__()
        self._output_size = 2 * input_size

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        count = beside(lengths, frames.device).unsqueeze(-1).to(frames.dtype)
        mean = without_padding(frames, lengths).sum(dim=1) / count  # (B, D)
        centred = without_padding(frames - mean.unsqueeze(1), lengths)
        deviation = (centred.square().sum(dim=1) / count + 1e-5).sqrt()
        return torch.cat([mean, deviation], dim=-1)


class LastPooling(AbsPooling):
    """The state of a recurrent encoder after it has read the whole utterance.

    Args:
        input_size: D.
        bidirectional: The encoder reads in both directions: the first half of a frame is the
            forward state, which is complete at the last real frame, and the second half the
            backward state, which is complete at the first.

    Raises:
        UserError: ``bidirectional`` with an odd frame size.
    """

    def __init__(self, input_size: int, bidirectional: bool = False):
        super().__init__()
        if bidirectional and input_size % 2:
            raise UserError(
                f"pooling_conf.bidirectional: found true for frames of size {input_size}; expected "
                "an encoder that is bidirectional as well, whose frame size is even"
            )
        self._output_size = input_size
        self.bidirectional = bidirectional

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        ends = beside(lengths, frames.device) - 1
        last = frames[torch.arange(len(frames), device=frames.device), ends]  # (B, D)
        if not self.bidirectional:
            return last
        half = frames.size(2) // 2
        return torch.cat([last[:, :half], frames[:, 0, half:]], dim=-1)


class AttentionPooling(AbsPooling):
    """Sum of the frames, weighted by attention (eq. 5 of Attention-CGRU, 2023).

    a_i = exp(w^T y_i) / sum_j exp(w^T y_j) over the real frames y_1 .. y_T; z = sum_i a_i y_i.

    Args:
        input_size: D.
    """

    def __init__(self, input_size: int):
        super().__init__()
        self._output_size = input_size
        self.score = torch.nn.Linear(input_size, 1, bias=False)  # w

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        frames = without_padding(frames, lengths)
        weights = masked_softmax(self.score(frames), lengths)  # (B, T, 1)
        return (weights * frames).sum(dim=1)


class SelfAttentionPooling(AbsPooling):
    """Structured self-attention (Lin et al., 2017, eq. 6): ``hops`` weighted sums, concatenated.

    A = softmax(W_2 tanh(W_1 H^T)) over the real frames, M = A H; H is (T, D), W_1 (size, D),
    W_2 (hops, size), A (hops, T), M (hops, D). The penalty on hops that attend to the same frames
    is left out; it does not apply to a single hop.

    Args:
        input_size: D.
        size: Of the hidden layer, d_a.
        hops: Weighted sums, r.

    Raises:
        UserError: a size or a number of hops below 1.
    """

    def __init__(self, input_size: int, size: int = 64, hops: int = 1):
        super().__init__()
        for name, value in (("size", size), ("hops", hops)):
            check_whole(f"pooling_conf.{name}", value)
        self._output_size = hops * input_size
        self.hidden = torch.nn.Linear(input_size, size, bias=False)  # W_1
        self.score = torch.nn.Linear(size, hops, bias=False)  # W_2

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        frames = without_padding(frames, lengths)
        weights = masked_softmax(self.score(self.hidden(frames).tanh()), lengths)  # (B, T, hops)
        return (weights.transpose(1, 2) @ frames).flatten(1)  # (B, hops D)
