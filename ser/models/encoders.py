"""Identity encoder (S1), and convolutions with a recurrent network over spectrograms (S4, S5)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ser.config import check_arguments
from ser.errors import UserError
from ser.models.base import AbsEncoder
from ser.models.cpu.conv_norm import conv_norm, quick
from ser.models.cpu.recurrent import read_padded
from ser.models.masks import beside, frame_mask, positions, without_padding
from ser.models.registry import check_whole, is_whole

RNNS = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM, "none": None}
NORMS = ("none", "batch")


class IdentityEncoder(AbsEncoder):
    """Hand the frontend's frames on unchanged."""

    def __init__(self, input_size: int):
        super().__init__()
        self._output_size = input_size

    def forward(self, xs_pad, ilens, prev_states=None):
        """(B, T, D), (B,) -> the same, and no state."""
        return xs_pad, ilens, None


class ConvRecurrentEncoder(AbsEncoder):
    """Convolution layers and a recurrent network, neither of which ever sees padding.

    The (T, F) spectrogram is taken as a picture. Its C' maps of F' bins after the convolutions
    become one vector of C' F' values for each of T' frames; a pooling factor p leaves
    ceil(T / p) frames, so that no utterance loses its last one.

    Args:
        input_size: F, the number of frequency bins.
        convs: The convolution layers, each ``{channels: C, kernel: [frames, bins], pool: [frames,
            bins], norm: none}``; see ConvLayer. May be empty.
        in_channels: 1, or 3 for a picture as an image file holds it: red, green and blue, which
            are equal in a grey one.
        rnn_type: ``gru``, ``lstm``, or ``none`` for convolutions alone.
        hidden_size: Of the recurrent network, in each direction.
        num_layers: Recurrent layers.
        bidirectional: Read the frames in both directions and concatenate.
        dropout: Share of the values dropped on the way into each recurrent layer in training.

    Raises:
        UserError: an option out of range.
    """

    def __init__(
        self,
        input_size: int,
        convs: Sequence[Mapping[str, Any]] = (),
        in_channels: int = 1,
        rnn_type: str = "gru",
        hidden_size: int = 128,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        if in_channels not in (1, 3):
            raise _unfit("in_channels", in_channels, "1 or 3")
        if rnn_type not in RNNS:
            raise _unfit("rnn_type", rnn_type, f"one of {', '.join(RNNS)}")
        for name, value in (("hidden_size", hidden_size), ("num_layers", num_layers)):
            check_whole(f"encoder_conf.{name}", value)
        if not 0.0 <= dropout < 1.0:
            raise _unfit("dropout", dropout, "a share from 0.0 to below 1")
        if isinstance(convs, str) or not isinstance(convs, Sequence):
            raise _unfit("convs", convs, "a list of convolution layers")
        self.in_channels = in_channels
        self.convs = torch.nn.ModuleList()
        channels, bins = in_channels, input_size
        for number, conv in enumerate(convs):
            layer = _conv_layer(f"convs[{number}]", channels, conv)
            self.convs.append(layer)
            channels, bins = layer.conv.out_channels, -(-bins // layer.pool[1])
        self._output_size = channels * bins
        self.dropout = torch.nn.Dropout(dropout)
        self.rnn = None
        if rnn_type != "none":
            self.rnn = RNNS[rnn_type](
                self._output_size,
                hidden_size,
                num_layers,
                batch_first=True,
                dropout=dropout if num_layers > 1 else 0.0,  # torch applies it between layers
                bidirectional=bidirectional,
            )
            self._output_size = hidden_size * (2 if bidirectional else 1)

    def forward(self, xs_pad, ilens, prev_states=None):
        """(B, T, F), (B,) -> (B, T', D') with zeros for padding, (B,), and no state."""
        picture = without_padding(xs_pad, ilens).unsqueeze(1)
        maps = picture.expand(-1, self.in_channels, -1, -1)  # (B, C, T, F)
        for layer in self.convs:
            maps, ilens = layer(maps, ilens)
        frames = maps.transpose(1, 2).flatten(2)  # (B, T', C' F')
        if self.rnn is not None:
            frames = self.recur(self.dropout(frames), ilens)
        return frames, ilens, None

    def recur(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Run the recurrent network: (B, T', C' F'), (B,) -> (B, T', D'), zeros for padding."""
        if torch.compiler.is_exporting():  # nothing is padded; see ser/release/onnx.py
            rnn, depth = self.rnn, self.rnn.num_layers * (1 + self.rnn.bidirectional)
            start = frames.new_zeros(depth, frames.size(0), rnn.hidden_size)
            options = (rnn._flat_weights, rnn.mode, rnn.bidirectional)
            return torch.ops.ser.recur(frames, start, *options)
        lengths = lengths.cpu()
        if frames.device.type == "cpu":
            return read_padded(self.rnn, frames, lengths)
        order = lengths.argsort(descending=True)  # torch's own sorting waits for a copy
        longest_first = frames.index_select(0, beside(order, frames.device))
        packed = pack_padded_sequence(longest_first, lengths[order], batch_first=True)
        outputs, _ = self.rnn(packed)
        outputs = pad_packed_sequence(outputs, batch_first=True, total_length=frames.size(1))[0]
        return outputs.index_select(0, beside(order.argsort(), frames.device))


def lstm(
    size: int, hidden_size: int, num_layers: int, dropout: float, bidirectional: bool = True
) -> ConvRecurrentEncoder:
    """An LSTM over frames of ``size`` values, without convolutions."""
    return ConvRecurrentEncoder(
        size,
        rnn_type="lstm",
        hidden_size=hidden_size,
        num_layers=num_layers,
        bidirectional=bidirectional,
        dropout=dropout,
    )


class ConvLayer(torch.nn.Module):
    """Convolution of stride 1, batch norm if asked for, ReLU and max pooling.

    The edges of an utterance are padded with zeros so that the convolution itself keeps the size
    (k - 1 of them for k positions, the odd one at the end); so is whatever follows the
    utterance's last frame in a batch, which makes the two the same.

    Args:
        in_channels: C.
        channels: C', the number of filters.
        kernel: Frames and bins that a filter spans; it always spans all C channels.
        pool: Frames and bins of which the maximum is kept; what is left at an end makes one more.
        norm: ``none``, or ``batch`` for batch normalisation over the real frames.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: Sequence[int],
        pool: Sequence[int] = (1, 1),
        norm: str = "none",
    ):
        super().__init__()
        self.pool = tuple(pool)
        # batch norm's mean subtraction would cancel a bias
        self.conv = torch.nn.Conv2d(in_channels, channels, tuple(kernel), bias=norm == "none")
        self.norm = MaskedBatchNorm(channels) if norm == "batch" else None
        frames, bins = kernel
        self.padding = ((bins - 1) // 2, bins // 2, (frames - 1) // 2, frames // 2)

    def forward(
        self, maps: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, T, F) with zeros for padding, (B,) -> (B, C', T', F') likewise, (B,)."""
        left, right, first, last = self.padding
        pooled = -(-lengths // self.pool[0])
        if self.norm is not None and quick(maps):
            maps = F.pad(maps, (0, right - left, 0, last - first))
            padding = (first, left)  # on both sides
            maps = conv_norm(maps, lengths.tolist(), self.conv, self.norm, padding, self.pool)
            return maps, pooled
        real = frame_mask(lengths, maps.size(2))  # (B, T), on the CPU
        maps = self.conv(F.pad(maps, self.padding))
        if self.norm is not None:
            maps = self.norm(maps, real)
        real = beside(real, maps.device)
        # After a ReLU zeros are neutral for the maximum as well as for the next convolution.
        maps = F.relu(maps).masked_fill(~real[:, None, :, None], 0.0)
        if self.pool != (1, 1):
            maps = F.max_pool2d(maps, self.pool, ceil_mode=True)
        return maps, pooled


class MaskedBatchNorm(torch.nn.BatchNorm1d):
    """Batch normalisation of maps with statistics over the batch's real frames only."""

    def forward(self, maps: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(B, C, T, F), (B, T) True for real frames -> (B, C, T, F), zeros for padding.

        ``real`` is on the CPU.
        """
        if torch.compiler.is_exporting() or bool(real.all()):
            return super().forward(maps.flatten(2)).view_as(maps)
        frames = maps.transpose(1, 2).flatten(0, 1)  # (B T, C, F)
        index = positions(real, maps.device)
        normalised = super().forward(frames.index_select(0, index))  # (N, C, F) for N real frames
        out = normalised.new_zeros(frames.shape).index_copy(0, index, normalised)
        return out.unflatten(0, real.shape).transpose(1, 2)


def _conv_layer(where: str, in_channels: int, conf: Any) -> ConvLayer:
    """Build the layer that an entry of ``convs`` describes; UserError if the entry is invalid."""
    if not isinstance(conf, Mapping):
        raise _unfit(where, conf, "a mapping such as {channels: 16, kernel: [3, 3]}")
    check_arguments(f"encoder_conf.{where}", ConvLayer, dict(conf))
    for key in ("channels", "kernel"):
        if key not in conf:
            raise _unfit(where, dict(conf), f"the key {key} as well")
    check_whole(f"encoder_conf.{where}.channels", conf["channels"])
    for key in ("kernel", "pool"):
        value = conf.get(key, (1, 1))
        pair = isinstance(value, list | tuple) and len(value) == 2
        if not pair or not all(map(is_whole, value)):
            raise _unfit(f"{where}.{key}", value, "[frames, bins], two whole numbers of 1 or more")
    if conf.get("norm", "none") not in NORMS:
        raise _unfit(f"{where}.norm", conf["norm"], f"one of {', '.join(NORMS)}")
    return ConvLayer(in_channels, **conf)


def _unfit(key: str, found: Any, expected: str) -> UserError:
    return UserError(f"encoder_conf.{key}: found {found!r}; expected {expected}")
