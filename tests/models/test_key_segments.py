"""S15: cutting, describing and choosing segments, and what the network makes of them."""

import numpy as np
import pytest
import torch

from ser.errors import UserError
from ser.models.key_segments import KeySegmentsEncoder, choose, cut, describe
from ser.models.resnet import ResNet
from tests.support.systems import CONF, arguments

SMALL = {"segment": 8, "picture": (32, 32), "depth": 18, "width": 4, "hidden_size": 3}


def test_segments_overlap_by_a_quarter_and_the_last_ends_with_the_utterance():
    frames = torch.arange(1.0, 21.0).unsqueeze(1)
    assert cut(frames, 8)[:, [0, -1], 0].tolist() == [[1, 8], [7, 14], [13, 20]]
    assert cut(frames[:19], 8)[:, 0, 0].tolist() == [1, 7, 12]
    assert cut(frames[:8], 8)[:, 0, 0].tolist() == [1]
    assert cut(frames[:3], 8)[0, :, 0].tolist() == [1, 2, 3, 0, 0, 0, 0, 0]


def test_a_segments_description_is_the_mean_and_deviation_of_bands():
    segments = torch.rand(5, 8, 80)
    bands = segments.numpy().reshape(5, 8, 40, 2).mean(axis=-1)
    values = np.hstack([bands.mean(axis=1), bands.std(axis=1)])
    expected = (values - values.mean(axis=0)) / values.std(axis=0)
    np.testing.assert_allclose(describe(segments), expected, atol=1e-4)


def numpy_choose(x: np.ndarray, wanted: int) -> list[int]:
    """Kernel k-means as the formulas say, cluster by cluster."""
    distance = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    pairs = sorted(distance[i, j] for i in range(len(x)) for j in range(i + 1, len(x)))
    kernel = np.exp(-(distance**2) / (2 * pairs[(len(pairs) - 1) // 2] ** 2))
    centres = [0]
    while len(centres) < wanted:
        centres.append(int(np.argmax(distance[:, centres].min(axis=1))))
    own = [int(np.argmin(row[centres])) for row in distance]
    for _ in range(20):
        away = np.full((len(x), wanted), np.inf)
        for c in range(wanted):
            mine = [i for i in range(len(x)) if own[i] == c]
            if mine:
                inner = np.mean([kernel[i, j] for i in mine for j in mine])
                away[:, c] = 1 - 2 * kernel[:, mine].mean(axis=1) + inner
        if own == away.argmin(axis=1).tolist():
            break
        own = away.argmin(axis=1).tolist()
    clusters = [[i for i in range(len(x)) if own[i] == c] for c in range(wanted)]
    return sorted(min(m, key=lambda i: away[i, own[i]]) for m in clusters if m)


@pytest.mark.parametrize(("count", "wanted"), [(3, 2), (9, 4), (15, 8), (30, 5)])
def test_the_choice_of_segments_against_numpy(count, wanted):
    values = torch.randn(count, 4, generator=torch.Generator().manual_seed(count)).double()
    found = choose(values, wanted)
    assert found.tolist() == numpy_choose(values.numpy(), wanted)
    assert torch.equal(found, choose(values, wanted))


def test_silence_and_a_tone_give_one_segment_each():
    values = torch.tensor([[0.0], [0.1], [0.0], [9.0], [9.1], [9.0]])
    chosen = choose(values, 2).tolist()
    assert len(chosen) == 2 and chosen[0] < 3 <= chosen[1]


def test_of_equal_segments_one_is_kept():
    assert choose(torch.ones(6, 3), 3).tolist() == [0]
    assert choose(torch.ones(1, 3), 1).tolist() == [0]


def test_half_of_the_segments_are_kept_and_no_more_than_asked_for():
    net = KeySegmentsEncoder(20, most=3, **SMALL)
    picture = torch.rand(60, 20, generator=torch.Generator().manual_seed(0))
    assert len(net.key_segments(picture)) == 3  # of 10
    assert len(net.key_segments(picture[:14])) == 1  # of 2
    every = KeySegmentsEncoder(20, most=0, **SMALL)
    assert torch.equal(every.key_segments(picture), cut(picture, 8))


def test_a_residual_network_has_the_published_parameters():
    # He et al., 2016, without the 1000 outputs: 44,549,160 and 11,689,512 with them
    for depth, total, size in ((101, 44_549_160, 2048), (18, 11_689_512, 512)):
        with torch.device("meta"):
            net = ResNet(3, depth, 64, picture=True)
        assert net.size == size
        assert sum(p.numel() for p in net.parameters()) == total - (size + 1) * 1000
    names = net.state_dict()  # as torchvision has them
    assert {"conv1.weight", "bn1.running_var", "layer2.0.downsample.1.bias"} <= set(names)
    assert tuple(names["layer4.1.conv2.weight"].shape) == (512, 512, 3, 3)


def test_a_frozen_network_stays_as_its_weights_are(tmp_path):
    state = ResNet(3, 18, 4, picture=True).state_dict()
    torch.save({**state, "fc.bias": torch.ones(1000)}, tmp_path / "resnet.pth")
    weights = str(tmp_path / "resnet.pth")
    net = KeySegmentsEncoder(20, weights=weights, freeze=True, **SMALL).train()
    out, lengths, _ = net(torch.rand(2, 40, 20), torch.tensor([40, 5]))
    out.sum().backward()
    assert lengths.tolist() == [4, 1]
    assert all(torch.equal(net.network.state_dict()[name], state[name]) for name in state)
    assert all(p.grad is None for p in net.network.parameters())
    assert all(p.grad is not None for p in net.recurrent.parameters())


def test_a_single_segment_can_be_trained_on():
    net = KeySegmentsEncoder(20, **{**SMALL, "picture": (64, 64)}).train()
    out, _, _ = net(torch.rand(1, 5, 20), torch.tensor([5]))
    assert out.isfinite().all()


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match="encoder_conf.weights: not given, and freeze is true"):
        arguments(CONF / "train_s15_key_segments.yaml")
    with pytest.raises(UserError, match="encoder_conf.segment: found 3"):
        KeySegmentsEncoder(20, segment=3)
    with pytest.raises(UserError, match="encoder_conf.depth: found 20; choose one of 18, 34"):
        KeySegmentsEncoder(20, depth=20)
