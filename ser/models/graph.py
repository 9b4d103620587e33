"""Graph isomorphism network over a graph of an utterance's frames (S13)."""

from typing import Any

import torch

from ser.models.base import AbsEncoder
from ser.models.encoders import ConvRecurrentEncoder
from ser.models.masks import frame_mask, positions
from ser.models.registry import check_whole


class GINEncoder(AbsEncoder):
    """Graph isomorphism network over frames (Xu et al., 2019), as in Liu and Wang (2021).

    A recurrent network reads the frames; ``frames_per_node`` of its outputs are averaged into a
    node; nodes at most ``window`` apart are neighbours N(v). Layer k computes

        h_v^(k) = MLP_k((1 + eps_k) h_v^(k-1) + sum over u in N(v) of h_u^(k-1)),

    eps learnt from 0, the MLP being two linear layers, each with batch normalisation over the real
    nodes and ReLU. A node's output is [h^(0), ..., h^(K)], so that pooling gives the concatenated
    readouts of all layers.

    Args:
        input_size: F, the size of a frame.
        layers: K.
        size: Of h^(1) to h^(K).
        window: How far apart neighbours may be, in nodes; 0 leaves every node alone.
        cycle: The last node is beside the first.
        frames_per_node: Of the recurrent network's output.
        dropout: After every layer.
        rnn_conf: Options of ConvRecurrentEncoder.

    Raises:
        UserError: an option out of range.
    """

    def __init__(
        self,
        input_size: int,
        layers: int = 2,
        size: int = 128,
        window: int = 1,
        cycle: bool = False,
        frames_per_node: int = 1,
        dropout: float = 0.0,
        rnn_conf: dict[str, Any] | None = None,
    ):
        super().__init__()
        numbers = {"layers": layers, "size": size, "frames_per_node": frames_per_node}
        for name, value in numbers.items():
            check_whole(f"encoder_conf.{name}", value)
        check_whole("encoder_conf.window", window, least=0)
        self.rnn = ConvRecurrentEncoder(input_size, **(rnn_conf or {}))
        self.window, self.cycle, self.frames_per_node = window, cycle, frames_per_node
        sizes = [self.rnn.output_size(), *[size] * layers]
        self.layers = torch.nn.ModuleList(
            GINLayer(before, after, dropout)
            for before, after in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self._output_size = sum(sizes)

    def forward(self, xs_pad, ilens, prev_states=None):
        """(B, T, F), (B,) -> (B, N, D) with zeros for padding, (B,), and no state."""
        frames, lengths, _ = self.rnn(xs_pad, ilens)
        nodes, lengths = average_frames(frames, lengths, self.frames_per_node)
        real = frame_mask(lengths, nodes.size(1))  # (B, N), on the CPU
        edges = adjacency(lengths, nodes.size(1), self.window, self.cycle).to(nodes)
        outputs = [nodes]
        for layer in self.layers:
            outputs.append(layer(outputs[-1], edges, real))
        return torch.cat(outputs, dim=-1), lengths, None


class GINLayer(torch.nn.Module):
    """One update of all nodes; see GINEncoder."""

    def __init__(self, input_size: int, size: int, dropout: float):
        super().__init__()
        self.eps = torch.nn.Parameter(torch.zeros(()))
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(input_size, size, bias=False),
            torch.nn.BatchNorm1d(size),
            torch.nn.ReLU(),
            torch.nn.Linear(size, size, bias=False),
            torch.nn.BatchNorm1d(size),
            torch.nn.ReLU(),
            torch.nn.Dropout(dropout),
        )

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(B, N, D), (B, N, N), (B, N) -> (B, N, size) with zeros for padding."""
        summed = (1 + self.eps) * nodes + edges @ nodes
        index = positions(real, nodes.device)
        updated = self.mlp(summed.flatten(0, 1).index_select(0, index))  # (real nodes, size)
        out = updated.new_zeros(real.numel(), updated.size(-1)).index_copy(0, index, updated)
        return out.unflatten(0, real.shape)


def average_frames(
    frames: torch.Tensor, lengths: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average ``count`` neighbouring real frames: (B, T, D), (B,) -> (B, ceil(T / count), D), (B,).

    The last group of an utterance may be smaller; padding is excluded from the averages.
    """
    if count == 1:
        return frames, lengths
    real = frame_mask(lengths, frames.size(1), frames.device)
    real = real.unsqueeze(-1).to(frames.dtype)  # (B, T, 1)
    groups = (frames.size(1) + count - 1) // count
    missing = groups * count - frames.size(1)
    both = torch.nn.functional.pad(torch.cat([frames * real, real], dim=-1), (0, 0, 0, missing))
    sums = both.unflatten(1, (groups, count)).sum(dim=2)  # (B, N, D + 1)
    return sums[..., :-1] / sums[..., -1:].clamp(min=1.0), -(-lengths // count)


def adjacency(lengths: torch.Tensor, size: int, window: int, cycle: bool = False) -> torch.Tensor:
    """Boolean adjacency matrices without self-loops: (B,) -> (B, size, size).

    Nodes i and j are neighbours if 1 <= |i - j| <= window; with ``cycle`` also if they are that
    close when the end of the utterance is joined to its start.
    """
    places = torch.arange(size, device=lengths.device)
    distance = (places[:, None] - places[None, :]).abs().expand(len(lengths), -1, -1)
    if cycle:
        around = lengths.view(-1, 1, 1) - distance
        distance = torch.minimum(distance, around)
    real = frame_mask(lengths, size)
    both = real[:, :, None] & real[:, None, :]
    alone = torch.eye(size, dtype=torch.bool, device=lengths.device)
    return both & (distance <= window) & ~alone
