"""Parallel convolutional and recurrent branches, each with attention (S8)."""

import torch

from ser.errors import UserError
from ser.models.base import AbsEncoder
from ser.models.encoders import ConvLayer, lstm
from ser.models.masks import beside, frame_mask, masked_softmax, without_padding
from ser.models.pooling import MeanPooling, SelfAttentionPooling

HEADS = 4


class ParallelEncoder(AbsEncoder):
    """Two branches over one utterance, fused into a single frame, after Jiang et al. (2022).

    A frame holds ``input_size - lld_size`` log-mels and then ``lld_size`` values for the recurrent
    branch. The log-mels with their first and second differences are a picture of three channels:
    convolutions, mean over bins, multi-head self-attention over frames, self-attention pooling. The
    other values pass DimensionAttention and a BLSTM, and their mean is taken. The two vectors are
    concatenated, normalised (LayerNorm), and made one of ``output_size`` values.

    Args:
        input_size: Values of a frame.
        lld_size: Values of the recurrent branch, the last of a frame.
        channels: Filters of the convolutions, each [3, 3] with [2, 2] pooling; the last a
            multiple of four.
        hidden_size: Of the BLSTM, in each direction.
        output_size: Of the fused vector.
        dropout: Before the fused layer's output and on the BLSTM's input.
        frame_attention: Multi-head self-attention over the frames of the convolutions.
        dimension_attention: DimensionAttention before the BLSTM.

    Raises:
        UserError: incompatible sizes.
    """

    one_frame = True  # per utterance, so CTC is rejected

    def __init__(
        self,
        input_size: int,
        lld_size: int = 40,
        channels: tuple[int, ...] = (64, 128, 256),
        hidden_size: int = 128,
        output_size: int = 128,
        dropout: float = 0.5,
        frame_attention: bool = True,
        dimension_attention: bool = True,
    ):
        super().__init__()
        if not 0 < lld_size < input_size:
            raise UserError(
                f"encoder_conf.lld_size: found {lld_size}; expected less than the {input_size} "
                "values of a frame"
            )
        if channels[-1] % HEADS:
            raise UserError(
                f"encoder_conf.channels: found {channels[-1]} last; expected a multiple of {HEADS}"
            )
        self.lld_size = lld_size
        sizes = [3, *channels]
        self.convs = torch.nn.ModuleList(
            ConvLayer(before, after, (3, 3), (2, 2), "batch")
            for before, after in zip(sizes[:-1], sizes[1:], strict=True)
        )
        width = channels[-1]
        self.frame_attention = None
        if frame_attention:
            self.frame_attention = torch.nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.conv_pooling = SelfAttentionPooling(width)
        self.dimension_attention = DimensionAttention(lld_size) if dimension_attention else None
        self.recurrent = lstm(lld_size, hidden_size, 2, dropout)
        self.recurrent_pooling = MeanPooling(2 * hidden_size)
        fused = width + 2 * hidden_size
        self.fuse = torch.nn.Sequential(
            torch.nn.LayerNorm(fused),
            torch.nn.Linear(fused, output_size),
            torch.nn.ReLU(),
            torch.nn.Dropout(dropout),
        )
        self._output_size = output_size

    def forward(self, xs_pad, ilens, prev_states=None):
        """(B, T, F), (B,) -> (B, 1, D), (B,) of ones, and no state."""
        frames = without_padding(xs_pad, ilens)
        mels, values = frames.split([frames.size(2) - self.lld_size, self.lld_size], dim=2)
        both = torch.cat([self._read_picture(mels, ilens), self._read(values, ilens)], dim=-1)
        return self.fuse(both).unsqueeze(1), torch.ones_like(ilens), None

    def _read_picture(self, mels: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, T, F), (B,) -> (B, C)."""
        first = differences(mels, lengths)
        maps = torch.stack([mels, first, differences(first, lengths)], dim=1)  # (B, 3, T, F)
        for layer in self.convs:
            maps, lengths = layer(maps, lengths)
        frames = maps.mean(dim=-1).transpose(1, 2)  # (B, T', C)
        if self.frame_attention is not None:
            padding = ~frame_mask(lengths, frames.size(1), frames.device)
            frames = self.frame_attention(
                frames, frames, frames, key_padding_mask=padding, need_weights=False
            )[0]
        return self.conv_pooling(frames, lengths)

    def _read(self, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, T, F'), (B,) -> (B, 2 hidden)."""
        if self.dimension_attention is not None:
            values = self.dimension_attention(values, lengths)
        frames, lengths, _ = self.recurrent(values, lengths)
        return self.recurrent_pooling(frames, lengths)


class DimensionAttention(torch.nn.Module):
    """Attention over time, separately for each dimension of a frame.

    a = softmax over the T real frames of W_2 relu(W_1 x_t + b_1) + b_2, one distribution for each
    dimension; x'_t = T a_t * x_t, so that uniform weights change nothing.
    """

    def __init__(self, size: int):
        super().__init__()
        self.hidden = torch.nn.Linear(size, size)
        self.score = torch.nn.Linear(size, size)

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, T, D), (B,) -> (B, T, D) with zeros for padding."""
        weights = masked_softmax(self.score(self.hidden(frames).relu()), lengths)
        weights = weights * beside(lengths, frames.device).view(-1, 1, 1)
        return weights * without_padding(frames, lengths)


def differences(frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """(x_{t+1} - x_{t-1}) / 2 with the first and last real frames repeated: (B, T, F) -> same."""
    places = torch.arange(frames.size(1), device=frames.device)
    last = (beside(lengths, frames.device) - 1).unsqueeze(1)  # (B, 1)
    after = torch.minimum(places + 1, last)
    before = torch.minimum((places - 1).clamp(min=0), last)
    index = (after, before)
    ahead, behind = (frames.gather(1, i.unsqueeze(-1).expand_as(frames)) for i in index)
    return without_padding((ahead - behind) / 2, lengths)
