"""Several speech encoders side by side, and ECAPA-TDNN over their frames (S11)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ser.errors import UserError
from ser.models.base import AbsEncoder, AbsFrontend
from ser.models.encoders import MaskedBatchNorm
from ser.models.fusion import WeightedSum
from ser.models.masks import beside, frame_mask, masked_softmax, without_padding
from ser.models.pooling import AbsPooling
from ser.models.ssl import HFFrontend

FUSIONS = ("concat", "weighted_sum")


class UpstreamsFrontend(AbsFrontend):
    """Frames of several speech encoders, aligned in time and fused.

    Each encoder reads the same samples. Where the numbers of frames of an utterance differ, longer
    sequences are interpolated to the shortest. Each frame is projected to ``size`` values and
    normalised (LayerNorm) before the fusion.

    Args:
        upstreams: The options of an HFFrontend for each encoder, which is frozen or tuned as they
            say.
        fusion: ``concat``, or ``weighted_sum`` with softmax weights as in eq. 4.
        size: Of the projections; null fuses the frames as they are.

    Raises:
        UserError: no list of options, an unknown fusion, frames that cannot be summed.
    """

    reads = ("raw",)

    def __init__(
        self,
        upstreams: Sequence[Mapping[str, Any]] = (),
        fusion: str = "concat",
        size: int | None = 768,
    ):
        super().__init__()
        if fusion not in FUSIONS:
            raise UserError(
                f"frontend_conf.fusion: found {fusion!r}; choose {' or '.join(FUSIONS)}"
            )
        if not upstreams:
            raise UserError(
                "frontend_conf.upstreams: no speech encoder given; list the options of one each, "
                "such as [{model: facebook/wav2vec2-base}, {model: facebook/hubert-base-ls960}]"
            )
        self.upstreams = torch.nn.ModuleList(HFFrontend(**options) for options in upstreams)
        sizes = [upstream.output_size() for upstream in self.upstreams]
        self.projections = torch.nn.ModuleList()
        if size is not None:
            self.projections.extend(
                torch.nn.Sequential(torch.nn.Linear(given, size), torch.nn.LayerNorm(size))
                for given in sizes
            )
            sizes = [size] * len(sizes)
        self.fusion = WeightedSum(len(sizes)) if fusion == "weighted_sum" else None
        if self.fusion is not None and len(set(sizes)) > 1:
            raise UserError(
                f"frontend_conf.size: frames of {', '.join(map(str, sizes))} values cannot be "
                "summed; give the size to project them to"
            )
        self._output_size = sizes[0] if self.fusion is not None else sum(sizes)

    def set_epoch(self, epoch: int) -> None:
        """Freeze or unfreeze each encoder for ``epoch`` according to its options."""
        for upstream in self.upstreams:
            upstream.set_epoch(epoch)

    def keep_layers(self, directory: Any) -> None:
        """Call ``HFFrontend.keep_layers`` for each encoder."""
        for upstream in self.upstreams:
            upstream.keep_layers(directory)

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L) samples, (B,) -> (B, T, D) with zeros for padding, (B,)."""
        outputs = [upstream(input, input_lengths) for upstream in self.upstreams]
        lengths = torch.stack([count for _, count in outputs]).amin(dim=0)
        size = min(frames.size(1) for frames, _ in outputs)
        layers = [interpolate(frames, count, lengths, size) for frames, count in outputs]
        if self.projections:
            layers = [
                project(frames) for project, frames in zip(self.projections, layers, strict=True)
            ]
        fused = torch.cat(layers, dim=-1) if self.fusion is None else self.fusion(layers)
        return without_padding(fused, lengths), lengths


def interpolate(
    frames: torch.Tensor, lengths: torch.Tensor, wanted: torch.Tensor, size: int
) -> torch.Tensor:
    """Resample the ``lengths`` real frames of each utterance to ``wanted``, linearly in time.

    (B, T, D), (B,), (B,) -> (B, size, D). Output frame t of W is at (t + 1/2) N / W - 1/2 of N.
    """
    if not torch.compiler.is_exporting() and torch.equal(lengths, wanted):
        return frames[:, :size]
    steps = torch.arange(size, device=frames.device)
    lengths, wanted = beside(lengths, frames.device), beside(wanted, frames.device)
    last = (lengths - 1).unsqueeze(1)  # (B, 1)
    places = (steps + 0.5) * (lengths / wanted).unsqueeze(1) - 0.5
    places = torch.minimum(places.clamp(min=0.0), last)  # (B, T')
    before = places.long()
    after = torch.minimum(before + 1, last)
    index = [i.unsqueeze(-1).expand(-1, -1, frames.size(2)) for i in (before, after)]
    return torch.lerp(
        *(frames.gather(1, i) for i in index), (places - before).to(frames).unsqueeze(-1)
    )


class EcapaEncoder(AbsEncoder):
    """ECAPA-TDNN before its pooling (Desplanques et al., 2020), which never sees padding.

    A convolution over five frames; three squeeze-and-excitation Res2 blocks of dilation 2, 3 and 4,
    one after the other; a convolution over the three blocks' outputs side by side.

    Args:
        input_size: D.
        channels: Of the first convolution and the blocks, a multiple of ``scale``.
        scale: Groups of channels in a block, each of which sees the sum of itself and the last.
        squeeze: Size of the bottleneck that computes the factors on the channels.
        output_size: D'.

    Raises:
        UserError: ``channels`` is not a multiple of ``scale``.
    """

    def __init__(
        self,
        input_size: int,
        channels: int = 512,
        scale: int = 8,
        squeeze: int = 128,
        output_size: int = 1536,
    ):
        super().__init__()
        if channels % scale:
            raise UserError(
                f"encoder_conf.channels: found {channels}; expected a multiple of scale, {scale}"
            )
        self.first = _ConvNorm(input_size, channels, kernel=5)
        self.blocks = torch.nn.ModuleList(
            _Res2Block(channels, scale, squeeze, dilation) for dilation in (2, 3, 4)
        )
        self.last = torch.nn.Conv1d(3 * channels, output_size, 1)
        self._output_size = output_size

    def forward(self, xs_pad, ilens, prev_states=None):
        """(B, T, D), (B,) -> (B, T, D') with zeros for padding, (B,), and no state."""
        real = frame_mask(ilens, xs_pad.size(1))  # on the CPU
        maps = without_padding(xs_pad, ilens).transpose(1, 2)  # (B, D, T)
        maps = self.first(maps, real)
        outputs = []
        for block in self.blocks:
            maps = block(maps, real)
            outputs.append(maps)
        frames = self.last(torch.cat(outputs, dim=1)).relu().transpose(1, 2)
        return without_padding(frames, ilens), ilens, None


class _ConvNorm(torch.nn.Module):
    """Convolution over time, ReLU and batch norm over real frames: (B, C, T) -> (B, C', T)."""

    def __init__(self, size: int, channels: int, kernel: int = 1, dilation: int = 1):
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = torch.nn.Conv1d(size, channels, kernel, dilation=dilation, padding=padding)
        self.norm = MaskedBatchNorm(channels)

    def forward(self, maps: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(maps).relu().unsqueeze(-1), real).squeeze(-1)


class _Res2Block(torch.nn.Module):
    """Res2Net convolutions and squeeze-and-excitation with a residual connection."""

    def __init__(self, channels: int, scale: int, squeeze: int, dilation: int):
        super().__init__()
        self.scale = scale
        self.before, self.after = _ConvNorm(channels, channels), _ConvNorm(channels, channels)
        width = channels // scale
        self.groups = torch.nn.ModuleList(
            _ConvNorm(width, width, 3, dilation) for _ in range(scale - 1)
        )
        self.squeeze = torch.nn.Linear(channels, squeeze)
        self.excite = torch.nn.Linear(squeeze, channels)

    def forward(self, maps: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        first, *others = self.before(maps, real).chunk(self.scale, dim=1)
        done, last = [first], torch.zeros_like(first)  # the first group passes unchanged
        for group, conv in zip(others, self.groups, strict=True):
            last = conv(group + last, real)
            done.append(last)
        out = self.after(torch.cat(done, dim=1), real)
        count = beside(real.sum(dim=-1, keepdim=True), out.device)
        mean = out.sum(dim=-1) / count  # (B, C), over real frames
        return maps + out * self.excite(self.squeeze(mean).relu()).sigmoid().unsqueeze(-1)


class AttentiveStatisticsPooling(AbsPooling):
    """Mean and standard deviation under attention, each dimension with weights of its own.

    a = softmax over the real frames of W_2 tanh(W_1 [h_t; mean h; std h] + b_1) + b_2, and
    m = sum a_t h_t, s = sqrt(sum a_t h_t^2 - m^2) (Okabe et al., 2018; Desplanques et al., 2020).

    Args:
        input_size: D.
        size: Of the hidden layer.
        embedding: LayerNorm and a linear layer make the 2 D values so many.
    """

    def __init__(self, input_size: int, size: int = 128, embedding: int = 192):
        super().__init__()
        self.hidden = torch.nn.Linear(3 * input_size, size)
        self.score = torch.nn.Linear(size, input_size)
        self.embed = torch.nn.Sequential(
            torch.nn.LayerNorm(2 * input_size), torch.nn.Linear(2 * input_size, embedding)
        )
        self._output_size = embedding

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.embed(self.statistics(frames, lengths))

    def statistics(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, T, D), (B,) -> (B, 2 D), before the linear layer."""
        real = frame_mask(lengths, frames.size(1), frames.device).unsqueeze(-1)
        count = beside(lengths, frames.device).view(-1, 1, 1)
        frames = frames.masked_fill(~real, 0.0)
        plain = _moments(frames, real / count).unsqueeze(1)  # (B, 1, 2 D)
        context = torch.cat([frames, plain.expand(-1, frames.size(1), -1)], dim=-1)
        scores = self.score(self.hidden(context).tanh())
        return _moments(frames, masked_softmax(scores, lengths))


def _moments(frames: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[m; s] for weights over time that sum to 1; s^2 is at least 1e-5."""
    mean = (weights * frames).sum(dim=1)
    centred = frames - mean.unsqueeze(1)
    variance = (weights * centred.square()).sum(dim=1)
    return torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=-1)
