"""S7, S13 and S17's parts against NumPy references, and without regard to padding."""

import numpy as np
import pytest
import torch

from ser.errors import UserError
from ser.models.capsules import CapsulePooling, MultiScaleConvEncoder, route, squash
from ser.models.conv_attention import ConvAttentionPooling
from ser.models.graph import GINEncoder, GINLayer, adjacency, average_frames
from ser.models.pooling import SelfAttentionPooling

RNN = {"rnn_type": "lstm", "bidirectional": True, "hidden_size": 3}


def frames_of(lengths: list[int], size: int, fill: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    batch = torch.full((len(lengths), max(lengths), size), fill)
    for row, length in zip(batch, lengths, strict=True):
        row[:length] = torch.randn(length, size, generator=generator)
    return batch


def seeded(make):
    torch.manual_seed(1)
    return make()


POOLINGS = {
    "conv_attention": lambda: ConvAttentionPooling(6, size=5, kernel=3, hops=2),
    "capsules": lambda: CapsulePooling(6, capsules=3, size=4, types=2),
    "dynamic": lambda: CapsulePooling(6, capsules=3, size=4, types=2, routing="dynamic"),
}
ENCODERS = {
    "gin": lambda: GINEncoder(6, size=4, window=2, frames_per_node=2, rnn_conf=RNN),
    "cycle": lambda: GINEncoder(6, size=4, window=1, cycle=True, rnn_conf=RNN),
    "multi_scale": lambda: MultiScaleConvEncoder(6, channels=2, last_channels=3),
}


@pytest.mark.parametrize("name", POOLINGS)
def test_an_utterances_vector_does_not_depend_on_its_padding(name):
    pooling = seeded(POOLINGS[name])
    lengths = [9, 4, 1]
    together = pooling(frames_of(lengths, 6, fill=7.0), torch.tensor(lengths))
    assert together.shape == (3, pooling.output_size())
    for row, length in enumerate(lengths):
        alone = pooling(frames_of(lengths, 6)[row : row + 1, :length], torch.tensor([length]))
        assert torch.allclose(together[row], alone[0], atol=1e-6)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_utterances_frames_do_not_depend_on_its_padding(name):
    encoder = seeded(ENCODERS[name]).eval()
    lengths = [9, 4, 1]
    together, counts, _ = encoder(frames_of(lengths, 6, fill=7.0), torch.tensor(lengths))
    assert together.size(-1) == encoder.output_size()
    for row, length in enumerate(lengths):
        one = frames_of(lengths, 6)[row : row + 1, :length]
        alone, count, _ = encoder(one, torch.tensor([length]))
        assert count[0] == counts[row]
        assert torch.allclose(together[row, : count[0]], alone[0], atol=1e-6)
        assert not together[row, count[0] :].any()


@pytest.mark.parametrize("make", [*POOLINGS.values(), *ENCODERS.values()])
def test_every_parameter_has_a_gradient(make):
    module = seeded(make).train()
    out = module(frames_of([9, 7], 6), torch.tensor([9, 7]))
    (out[0] if isinstance(out, tuple) else out).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_convolutional_attention_over_one_frame_is_self_attention():
    conv, plain = ConvAttentionPooling(6, 5, kernel=1, hops=2), SelfAttentionPooling(6, 5, hops=2)
    with torch.no_grad():
        plain.hidden.weight.copy_(conv.hidden.weight[..., 0])
        plain.score.weight.copy_(conv.score.weight)
    frames, lengths = frames_of([5, 3], 6), torch.tensor([5, 3])
    assert torch.allclose(conv(frames, lengths), plain(frames, lengths), atol=1e-6)


def test_convolutional_attention_against_numpy():
    pooling = seeded(lambda: ConvAttentionPooling(2, size=3, kernel=3))
    frames = frames_of([4], 2)
    kernel = pooling.hidden.weight.detach().numpy()  # (size, D, kernel)
    score = pooling.score.weight.detach().numpy()[0]
    padded = np.pad(frames[0].numpy(), ((1, 1), (0, 0)))
    energy = [score @ np.tanh(np.einsum("sdk,kd->s", kernel, padded[t : t + 3])) for t in range(4)]
    weights = np.exp(energy) / np.exp(energy).sum()
    expected = weights @ frames[0].numpy()
    assert np.allclose(pooling(frames, torch.tensor([4]))[0].detach(), expected, atol=1e-6)


def test_neighbours_are_within_the_window():
    line = adjacency(torch.tensor([4, 2]), 4, window=1).int().tolist()
    assert line[0] == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert line[1] == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    cycle = adjacency(torch.tensor([4, 3]), 4, window=1, cycle=True).int().tolist()
    assert cycle[0] == [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert cycle[1] == [[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert not adjacency(torch.tensor([3]), 3, window=0).any()


def test_nodes_are_means_of_real_frames():
    frames = torch.tensor([[[1.0], [3.0], [5.0]], [[2.0], [9.0], [9.0]]])
    nodes, lengths = average_frames(frames, torch.tensor([3, 1]), 2)
    assert nodes.tolist() == [[[2.0], [5.0]], [[2.0], [0.0]]]
    assert lengths.tolist() == [2, 1]


def test_an_isomorphism_layer_against_numpy():
    layer = seeded(lambda: GINLayer(2, 3, dropout=0.0)).eval()
    with torch.no_grad():
        layer.eps.fill_(0.5)
    nodes = frames_of([3], 2)
    edges = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    hidden = 1.5 * nodes[0].numpy() + edges @ nodes[0].numpy()
    for linear in (layer.mlp[0], layer.mlp[3]):  # batch norm starts as x / sqrt(1 + 1e-5)
        hidden = np.maximum(hidden @ linear.weight.detach().numpy().T / np.sqrt(1 + 1e-5), 0)
    found = layer(nodes, torch.from_numpy(edges).float()[None], torch.ones(1, 3, dtype=torch.bool))
    assert np.allclose(found[0].detach(), hidden, atol=1e-6)


def test_the_order_of_the_nodes_of_a_complete_graph_does_not_matter():
    layer = seeded(lambda: GINLayer(2, 3, dropout=0.0)).eval()
    nodes, real = frames_of([5], 2), torch.ones(1, 5, dtype=torch.bool)
    edges = adjacency(torch.tensor([5]), 5, window=5).float()
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.allclose(layer(nodes, edges, real)[:, order], layer(nodes[:, order], edges, real))


def numpy_squash(values):
    square = (values**2).sum(-1, keepdims=True)
    return square / (1 + square) * values / np.sqrt(square)


@pytest.mark.parametrize("normalised", [True, False])
def test_routing_against_numpy(normalised):
    votes = frames_of([5, 3], 6).unflatten(-1, (2, 3))  # (B, N, J, S)
    real = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    found = route(votes, real, 3, normalised)
    for row, count in enumerate((5, 3)):
        u = votes[row, :count].numpy()
        b = np.zeros((count, 2))
        for _ in range(3):
            c = np.exp(b) / np.exp(b).sum(-1, keepdims=True)
            if normalised:
                c = c / c.sum(0)
            v = numpy_squash(np.einsum("nj,njs->js", c, u))
            b = b + np.einsum("njs,js->nj", u, v)
        assert np.allclose(found[row], v, atol=1e-5)


def test_one_round_of_routing_is_the_squashed_mean_of_the_votes():
    votes = frames_of([4], 6).unflatten(-1, (2, 3))
    found = route(votes, torch.ones(1, 4, dtype=torch.bool), 1, normalised=True)
    assert torch.allclose(found, squash(votes.mean(dim=1)), atol=1e-6)


def test_a_squashed_vector_keeps_its_direction_and_is_shorter_than_one():
    values = torch.tensor([[30.0, 40.0], [0.3, 0.4], [0.0, 0.0]])
    norms = squash(values).norm(dim=-1)
    assert torch.allclose(norms, torch.tensor([2500 / 2501, 0.25 / 1.25, 0.0]), atol=1e-5)
    assert torch.allclose(squash(values)[0] / norms[0], torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: ConvAttentionPooling(4, kernel=4), "pooling_conf.kernel"),
        (lambda: CapsulePooling(4, routing="em"), "pooling_conf.routing"),
        (lambda: CapsulePooling(4, iterations=0), "pooling_conf.iterations"),
        (lambda: GINEncoder(4, window=-1), "encoder_conf.window"),
    ],
)
def test_an_option_out_of_range_is_named(make, key):
    with pytest.raises(UserError, match=key):
        make()
