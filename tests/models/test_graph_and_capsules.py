"""S7, S13 and S17's parts against NumPy references, and without regard to padding."""

import numpy as np
import pytest
import torch

from ser.errors import UserError
from ser.models.capsules import CapsulePooling, route, squash
from ser.models.conv_attention import ConvAttentionPooling
from ser.models.graph import GINEncoder, GINLayer, adjacency, average_frames
from ser.models.pooling import SelfAttentionPooling
from tests.support.frontends import frames_of, seeded


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
