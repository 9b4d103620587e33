"""Residual networks over pictures or log-mels, and an x-vector encoder (S15, S18)."""

import torch
import torch.nn.functional as F

from ser.errors import UserError
from ser.models.base import AbsEncoder
from ser.models.cpu.conv_norm import conv_norm, quick
from ser.models.encoders import MaskedBatchNorm
from ser.models.masks import frame_mask, without_padding
from ser.models.pooling import StatisticsPooling
from ser.models.weights import start_from

# Blocks in each of the four stages, and whether they are bottleneck blocks.
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}


class ResNet(torch.nn.Module):
    """Residual network (He et al., 2016) that masks padding; parameters named as in torchvision.

    Every stage but the first halves time and frequency; a length L becomes ceil(L / 2).

    Args:
        in_channels: Channels of the input maps.
        depth: 18, 34, 50 or 101.
        width: Channels of the first stage, doubled in each following stage.
        picture: Begin with a 7 x 7 convolution of stride 2 and max pooling, as for pictures;
            otherwise with a 3 x 3 convolution that keeps the size.

    Raises:
        UserError: an unsupported depth.
    """

    def __init__(self, in_channels: int, depth: int, width: int, picture: bool):
        super().__init__()
        if depth not in DEPTHS:
            raise UserError(
                f"encoder_conf.depth: found {depth}; choose one of {', '.join(map(str, DEPTHS))}"
            )
        counts, bottleneck = DEPTHS[depth]
        self.picture, self.frozen = picture, False
        kernel, stride, padding = (7, 2, 3) if picture else (3, 1, 1)
        self.conv1 = torch.nn.Conv2d(in_channels, width, kernel, stride, padding, bias=False)
        self.bn1 = MaskedBatchNorm(width)
        size = width
        for stage, count in enumerate(counts):
            blocks = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                blocks.append(_Block(size, width << stage, stride, bottleneck))
                size = blocks[-1].size
            setattr(self, f"layer{stage + 1}", torch.nn.ModuleList(blocks))
        self.size = size  # output channels

    def start_from(self, weights: str | None, freeze: bool) -> None:
        """Load the weights of torchvision's network; if ``freeze``, they and the statistics stay.

        Raises:
            UserError: as ``ser.models.weights.start_from``.
        """
        start_from(self, weights, freeze=freeze)
        self.frozen = freeze

    def train(self, mode: bool = True) -> "ResNet":
        """Set the mode; a frozen network stays in evaluation mode, with fixed batch norm."""
        return super().train(mode and not self.frozen)

    def forward(
        self, maps: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, T, F) with zeros for padding, (B,) -> (B, C', T', F') likewise, (B,)."""
        if self.picture:
            lengths = -(-lengths // 2)
        maps = _normalised(maps, lengths, self.conv1, self.bn1)
        if self.picture:
            maps, lengths = F.max_pool2d(maps, 3, 2, 1), -(-lengths // 2)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                maps, lengths = block(maps, lengths)
        return maps, lengths


class _Block(torch.nn.Module):
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3 and 1 x 1 with a bottleneck, and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, bottleneck: bool):
        super().__init__()
        self.size = channels * (4 if bottleneck else 1)
        if bottleneck:  # the 3 x 3 convolution has the stride
            layers = [(channels, 1, 1), (channels, 3, stride), (self.size, 1, 1)]
        else:
            layers = [(channels, 3, stride), (channels, 3, 1)]
        before = in_channels
        for number, (after, kernel, step) in enumerate(layers, start=1):
            conv = torch.nn.Conv2d(before, after, kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", MaskedBatchNorm(after))
            before = after
        self.count = len(layers)
        self.downsample = None
        if stride > 1 or in_channels != self.size:
            conv = torch.nn.Conv2d(in_channels, self.size, 1, stride, bias=False)
            self.downsample = torch.nn.ModuleList([conv, MaskedBatchNorm(self.size)])

    def forward(
        self, maps: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, real = maps, lengths
        for number in range(1, self.count + 1):
            conv, norm = (getattr(self, f"{name}{number}") for name in ("conv", "bn"))
            real = -(-real // conv.stride[0])
            out = _normalised(out, real, conv, norm, relu=number < self.count)
        if self.downsample is not None:
            maps = _normalised(maps, real, *self.downsample, relu=False)
        return (out + maps).relu(), real


def _normalised(
    maps: torch.Tensor,
    lengths: torch.Tensor,
    conv: torch.nn.Conv2d,
    norm: MaskedBatchNorm,
    relu: bool = True,
) -> torch.Tensor:
    """Convolution, batch norm over its ``lengths`` real output frames, and ReLU."""
    if quick(maps):
        return conv_norm(maps, lengths.tolist(), conv, norm, conv.padding, relu=relu)
    maps = conv(maps)
    maps = norm(maps, frame_mask(lengths, maps.size(2)))
    return maps.relu() if relu else maps


class XVectorEncoder(AbsEncoder):
    """A speaker network up to its embedding: residual network, statistics, a linear layer, ReLU.

    The maps of each frame, channels times bins, are pooled to their mean and standard deviation
    over time. One vector is left of an utterance.

    Args:
        input_size: F, log-mels of a frame.
        depth: Of the residual network, 18 or 34.
        width: Its channels at the beginning.
        embedding: Size of the vector.
        weights: A checkpoint whose names begin with ``encoder.``, such as that of a fold which
            ``conf/pretrain_s18_speaker.yaml`` trained; null: untrained.
        freeze: Leave the network as it is and train the head alone.

    Raises:
        UserError: an unsupported depth, incompatible weights, ``freeze`` without weights.
    """

    one_frame = True  # per utterance, so CTC is rejected

    def __init__(
        self,
        input_size: int,
        depth: int = 34,
        width: int = 32,
        embedding: int = 256,
        weights: str | None = None,
        freeze: bool = False,
    ):
        super().__init__()
        self.network = ResNet(1, depth, width, picture=False)
        self.pooling = StatisticsPooling(self.network.size * -(-input_size // 8))
        self.embed = torch.nn.Linear(self.pooling.output_size(), embedding)
        self._output_size = embedding
        self.freeze = freeze
        start_from(self, weights, within="encoder.", freeze=freeze)

    def train(self, mode: bool = True) -> "XVectorEncoder":
        """Set the mode; a frozen network stays in evaluation mode, with fixed batch norm."""
        return super().train(mode and not self.freeze)

    def forward(self, xs_pad, ilens, prev_states=None):
        """(B, T, F), (B,) -> (B, 1, D), (B,) of ones, and no state."""
        maps, lengths = self.network(without_padding(xs_pad, ilens).unsqueeze(1), ilens)
        pooled = self.pooling(maps.transpose(1, 2).flatten(2), lengths)
        return self.embed(pooled).relu().unsqueeze(1), torch.ones_like(ilens), None
