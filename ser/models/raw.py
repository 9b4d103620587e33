"""Waveforms without a pretrained encoder: convolutions over samples, then a BLSTM (S6)."""

import torch
import torch.nn.functional as F

from ser.errors import UserError
from ser.models.base import AbsEncoder, AbsFrontend
from ser.models.encoders import lstm
from ser.models.masks import frame_mask, normalize

BLOCK = 16384  # FFT size
DIRECT = 64  # taps; longer kernels are applied by FFT


class RawFrontend(AbsFrontend):
    """Samples as frames of one value, with mean 0 and variance 1 over each utterance."""

    reads = ("raw",)
    _output_size = 1

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L), (B,) -> (B, L, 1) with zeros for padding, (B,)."""
        return normalize(input, input_lengths).unsqueeze(-1), input_lengths


class RawConv(torch.nn.Module):
    """Two convolutions over samples, as in Trigeorgis et al. (2016).

    The first is followed by ReLU and max pooling over ``pool`` steps in time, the second by max
    pooling over groups of ``channel_pool`` channels. Every ``step`` samples become one frame.
    Padding stays zero throughout.

    Args:
        channels: Output channels of both convolutions.
        kernel1: Taps of the first convolution, at the input's sampling rate.
        pool: Size and stride of max pooling in time.
        kernel2: Taps of the second convolution, at 1 / ``pool`` of that rate.
        channel_pool: Size of the groups of channels in max pooling.
        step: Samples per frame, a multiple of ``pool``.

    Raises:
        UserError: incompatible sizes.
    """

    def __init__(
        self, channels: int, kernel1: int, pool: int, kernel2: int, channel_pool: int, step: int
    ):
        super().__init__()
        for name, value, divisor in (("channels", channels, channel_pool), ("step", step, pool)):
            if value % divisor:
                raise UserError(
                    f"encoder_conf.{name}: found {value}; expected a multiple of {divisor}"
                )
        self.pool, self.channel_pool, self.step = pool, channel_pool, step
        self.size = step // pool * (channels // channel_pool)
        self.first = torch.nn.Conv1d(1, channels, kernel1)
        self.second = torch.nn.Conv1d(channels, channels, kernel2)

    def forward(
        self, samples: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L), (B,) -> (B, T, D), (B,) with T = ceil(L / ``step``)."""
        steps = (samples.size(1) + self.step - 1) // self.step
        samples = F.pad(samples, (0, steps * self.step - samples.size(1))).unsqueeze(1)
        real = frame_mask(lengths, samples.size(2), samples.device).unsqueeze(1)
        maps = convolve(samples.masked_fill(~real, 0.0), self.first).relu()
        maps = F.max_pool1d(maps.masked_fill(~real, 0.0), self.pool)
        pooled = -(-lengths // self.pool)
        maps = convolve(maps, self.second)
        maps = maps.unflatten(1, (-1, self.channel_pool)).amax(dim=2)  # (B, C', L' / pool)
        maps = maps.masked_fill(~frame_mask(pooled, maps.size(2), maps.device).unsqueeze(1), 0.0)
        frames = maps.unflatten(2, (steps, self.step // self.pool)).transpose(1, 2).flatten(2)
        return frames, -(-lengths // self.step)


class RawConvEncoder(AbsEncoder):
    """Convolutions over samples and a BLSTM, as in Trigeorgis et al. (2016).

    Gaussian noise is added to the input in training.

    Args:
        input_size: 1.
        channels, kernel1, pool, kernel2, channel_pool, step: Of RawConv.
        noise: Standard deviation of the noise; the input has 1.
        hidden_size: Of the BLSTM, in each direction.
        num_layers: Of the BLSTM.
        dropout: On the way into each layer of the BLSTM.

    Raises:
        UserError: incompatible sizes.
    """

    def __init__(
        self,
        input_size: int,
        channels: int = 40,
        kernel1: int = 80,
        pool: int = 2,
        kernel2: int = 4000,
        channel_pool: int = 20,
        step: int = 640,
        noise: float = 0.1,
        hidden_size: int = 128,
        num_layers: int = 2,
        dropout: float = 0.5,
    ):
        super().__init__()
        if input_size != 1:
            raise UserError("encoder: raw_conv reads samples; set frontend: raw")
        self.noise = noise
        self.convs = RawConv(channels, kernel1, pool, kernel2, channel_pool, step)
        self.recurrent = lstm(self.convs.size, hidden_size, num_layers, dropout)
        self._output_size = self.recurrent.output_size()

    def forward(self, xs_pad, ilens, prev_states=None):
        """(B, L, 1), (B,) -> (B, T, D) with zeros for padding, (B,), and no state."""
        samples = xs_pad.squeeze(-1)
        if self.training and self.noise:
            samples = samples + self.noise * torch.randn_like(samples)
        return self.recurrent(*self.convs(samples, ilens))


def convolve(maps: torch.Tensor, conv: torch.nn.Conv1d) -> torch.Tensor:
    """Apply ``conv`` with zero padding that preserves the length: (B, C, L) -> (B, C', L).

    Long kernels are applied in the frequency domain, in blocks of BLOCK points that overlap by
    the length of the kernel; the result is the same up to rounding.
    """
    taps = conv.kernel_size[0]
    maps = F.pad(maps, ((taps - 1) // 2, taps // 2))
    if taps <= DIRECT or torch.compiler.is_exporting():
        return conv(maps)
    length = maps.size(2) - taps + 1
    hop = BLOCK - taps + 1
    count = -(-length // hop)
    blocks = F.pad(maps, (0, count * hop + taps - 1 - maps.size(2))).unfold(2, BLOCK, hop)
    spectrum = torch.fft.rfft(blocks.float())  # (B, C, count, BLOCK / 2 + 1)
    kernel = torch.fft.rfft(conv.weight.float(), BLOCK).conj()  # cross-correlation, as in Conv1d
    product = torch.einsum("bcnf,ocf->bonf", spectrum, kernel)
    parts = torch.fft.irfft(product, BLOCK)[..., :hop]
    return parts.flatten(2)[..., :length].to(maps.dtype) + conv.bias.unsqueeze(-1)
