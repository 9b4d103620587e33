"""Parallel convolutions of several sizes, and capsules with routing over frames (S17)."""

from collections.abc import Sequence

import torch

from ser.errors import UserError
from ser.models.base import AbsEncoder
from ser.models.encoders import ConvLayer
from ser.models.masks import frame_mask, without_padding
from ser.models.pooling import AbsPooling, MeanPooling
from ser.models.registry import check_whole

ROUTINGS = ("frame_normalised", "dynamic")


class MultiScaleConvEncoder(AbsEncoder):
    """Square convolutions of several sizes over a spectrogram, concatenated, then one more.

    Every layer has batch normalisation and ReLU; [2, 2] max pooling follows the concatenation and
    the last layer, so that ceil(ceil(T / 2) / 2) frames remain. Padding is masked throughout.

    Args:
        input_size: F, the number of frequency bins.
        kernels: Sizes of the parallel convolutions.
        channels: Filters of each of them.
        last_channels: Filters of the last layer, whose kernel is [3, 3].
    """

    def __init__(
        self,
        input_size: int,
        kernels: Sequence[int] = (3, 5, 7),
        channels: int = 32,
        last_channels: int = 64,
    ):
        super().__init__()
        self.scales = torch.nn.ModuleList(
            ConvLayer(1, channels, (size, size), (2, 2), "batch") for size in kernels
        )
        self.last = ConvLayer(len(kernels) * channels, last_channels, (3, 3), (2, 2), "batch")
        self._output_size = last_channels * ((input_size + 3) // 4)

    def forward(self, xs_pad, ilens, prev_states=None):
        """(B, T, F), (B,) -> (B, T', D) with zeros for padding, (B,), and no state."""
        picture = without_padding(xs_pad, ilens).unsqueeze(1)  # (B, 1, T, F)
        outputs = [scale(picture, ilens) for scale in self.scales]
        maps, lengths = self.last(torch.cat([maps for maps, _ in outputs], dim=1), outputs[0][1])
        return maps.transpose(1, 2).flatten(2), lengths, None


class CapsulePooling(AbsPooling):
    """Capsules with routing by agreement (Sabour et al., 2017), beside the mean of the frames.

    Every real frame t has ``types`` primary capsules u of 8 values, squashed; W of a type is the
    same for all frames. Votes u^_j|i = W_ij u_i are routed to ``capsules`` outputs:

        c_i = softmax over j of b_i,   v_j = squash(sum_i c_ij u^_j|i),   b_ij += u^_j|i . v_j

    for ``iterations`` rounds from b = 0; the gradient passes through the last round only. With
    ``routing: frame_normalised`` the c_ij of each j are divided by their sum over i, so that v
    does not saturate in long utterances; with ``dynamic`` they are not, as published.

    Args:
        input_size: D; the vector has D + capsules * size values.
        capsules: J.
        size: Values of an output capsule.
        types: Primary capsules of a frame.
        iterations: Rounds of routing.
        routing: ``frame_normalised`` or ``dynamic``.

    Raises:
        UserError: a number below 1 or an unknown routing.
    """

    PRIMARY = 8  # values of a primary capsule

    def __init__(
        self,
        input_size: int,
        capsules: int = 4,
        size: int = 16,
        types: int = 16,
        iterations: int = 3,
        routing: str = "frame_normalised",
    ):
        super().__init__()
        numbers = {"capsules": capsules, "size": size, "types": types, "iterations": iterations}
        for name, value in numbers.items():
            check_whole(f"pooling_conf.{name}", value)
        if routing not in ROUTINGS:
            raise UserError(
                f"pooling_conf.routing: found {routing!r}; expected one of {', '.join(ROUTINGS)}"
            )
        self.types, self.iterations = types, iterations
        self.normalised = routing == "frame_normalised"
        self._output_size = input_size + capsules * size
        self.mean = MeanPooling(input_size)
        self.primary = torch.nn.Linear(input_size, types * self.PRIMARY)
        self.vote = torch.nn.Parameter(torch.empty(types, capsules, self.PRIMARY, size))
        torch.nn.init.normal_(self.vote, std=self.PRIMARY**-0.5)

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        primary = squash(self.primary(frames).unflatten(-1, (self.types, self.PRIMARY)))
        votes = torch.einsum("btip,ijps->btijs", primary, self.vote).flatten(1, 2)  # (B, TI, J, S)
        real = frame_mask(lengths, frames.size(1), frames.device)
        real = real.repeat_interleave(self.types, dim=1)  # (B, TI)
        outputs = route(votes, real, self.iterations, self.normalised)  # (B, J, S)
        return torch.cat([self.mean(frames, lengths), outputs.flatten(1)], dim=-1)


def squash(values: torch.Tensor) -> torch.Tensor:
    """|s|^2 / (1 + |s|^2) s / |s| over the last dimension: same direction, norm below 1."""
    square = values.square().sum(dim=-1, keepdim=True)
    return values * square / (1 + square) / (square + 1e-9).sqrt()


def route(
    votes: torch.Tensor, real: torch.Tensor, iterations: int, normalised: bool
) -> torch.Tensor:
    """Route votes to output capsules: (B, N, J, S), (B, N) True for real -> (B, J, S)."""
    real = real.unsqueeze(-1)  # (B, N, 1)
    logits = votes.new_zeros(votes.shape[:3])
    fixed = votes.detach()
    for round_number in range(iterations):
        couplings = logits.softmax(dim=-1) * real  # (B, N, J)
        if normalised:
            couplings = couplings / couplings.sum(dim=1, keepdim=True)
        last = round_number == iterations - 1
        summed = torch.einsum("bnj,bnjs->bjs", couplings, votes if last else fixed)
        outputs = squash(summed)
        if not last:
            logits = logits + torch.einsum("bnjs,bjs->bnj", fixed, outputs)
    return outputs
