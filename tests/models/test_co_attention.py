"""S9: segments, what a slot of 20 ms holds, and co-attention against NumPy."""

import numpy as np
import pytest
import torch
import torchaudio

from ser.errors import UserError
from ser.models.co_attention import (
    SPECTRAL,
    CoAttentionEncoder,
    CoAttentionFrontend,
    alexnet_features,
    cut,
)
from tests.support.tiny import ENCODERS

KIND, CONFIG = ENCODERS["wav2vec2-base-like"]
TINY = {"init": "random", "model_type": KIND, "config": CONFIG, "layers": "last"}


def frontend() -> CoAttentionFrontend:
    torch.manual_seed(0)
    return CoAttentionFrontend([TINY]).eval()


def test_utterances_are_cut_into_segments_of_three_seconds():
    lengths = [48000, 48001, 49599, 49600, 100000, 10]
    segments, sizes, counts = cut(torch.ones(6, 100000), torch.tensor(lengths))
    assert counts == [1, 1, 1, 2, 3, 1]  # from 0.1 s on a rest is a segment
    assert sizes.tolist() == [48000, 48000, 48000, 48000, 1600, 48000, 48000, 4000, 10]
    assert segments.shape == (9, 48000)
    assert segments[-1, 0] == 1.0 and torch.allclose(segments[-1, 1:10], torch.tensor(0.03))
    assert not segments[-1, 10:].any()  # but for the samples that are there, zeros


def test_a_slot_holds_the_encoders_frame_and_two_frames_of_cepstra_and_spectrum():
    net, speech = frontend(), torch.randn(2, 60000) / 10
    slots, lengths = net(speech, torch.tensor([60000, 48000]))
    assert lengths.tolist() == [300, 150]
    assert slots.shape == (2, 300, 32 + SPECTRAL) == (2, 300, net.output_size())
    segments, sizes, _ = cut(speech, torch.tensor([60000, 48000]))
    frames, counts = net.upstreams[0](segments, sizes)
    assert counts.tolist() == [149, 37, 149]
    assert torch.allclose(slots[1, :149, :32], frames[2], atol=1e-6)
    assert not slots[1, 149, :32].any() and not slots[0, 187:, :32].any()

    spectral = slots[1, :150, 32:].detach().reshape(300, 240)
    assert torch.allclose(spectral[:, :40].norm(dim=-1), torch.tensor(1.0))
    samples = np.pad(segments[2].numpy(), 400)  # frames are centred; a window of 640 in 800
    window = np.pad(0.54 - 0.46 * np.cos(2 * np.pi * np.arange(640) / 640), 80)
    power = np.array(
        [np.abs(np.fft.rfft(window * samples[t * 160 : t * 160 + 800])) ** 2 for t in range(300)]
    )
    level = 10 * np.log10(power[:, :200])
    grey = np.maximum(1 + (level - level.max()) / 80, 0)
    np.testing.assert_allclose(spectral[:, 40:], grey, atol=1e-4)
    mfcc = torchaudio.transforms.MFCC(
        melkwargs={"n_fft": 800, "n_mels": 64, "mel_scale": "htk", "hop_length": 160}
        | {"win_length": 640, "window_fn": torch.hamming_window, "pad_mode": "constant"},
    )
    mfcc.amplitude_to_DB.top_db = None
    expected = torch.nn.functional.normalize(mfcc(segments[2])[:, :300].T, dim=-1)
    assert torch.allclose(spectral[:, :40], expected, atol=1e-4)


def test_silence_is_a_picture_too():
    slots, _ = frontend()(torch.zeros(1, 4000), torch.tensor([4000]))
    assert slots.isfinite().all()


def test_the_sizes_are_the_published_ones():
    net = CoAttentionEncoder(768 + SPECTRAL)
    convolutions = (3 * 121 + 1) * 64 + (64 * 25 + 1) * 192 + (192 * 9 + 1) * 384
    convolutions += (384 * 9 + 1) * 256 + (256 * 9 + 1) * 256
    lstm = 2 * sum(4 * (size * 256 + 256 * 256 + 2 * 256) for size in (40, 512))
    linear = (9216 + 1) * 128 + (153600 + 1) * 128 + (256 + 1) * 149
    linear += (768 + 1) * 128 + (384 + 1) * 128 + (128 + 1) * 128
    assert sum(p.numel() for p in net.parameters()) == convolutions + lstm + linear


def test_co_attention_against_numpy():
    torch.manual_seed(0)
    net = CoAttentionEncoder(5 + SPECTRAL, frames=149, hidden_size=2, size=3)
    two, speech = [torch.randn(2, 3), torch.randn(2, 3)], torch.randn(2, 150, 5)
    found = net.attend(two, speech).detach().numpy()
    weight, bias = net.weigh.weight.detach().numpy(), net.weigh.bias.detach().numpy()
    for row in range(2):
        context = np.concatenate([part[row].numpy() for part in two])
        w = np.maximum(weight @ context + bias, 0)
        z = sum(w[t] * speech[row, t].numpy() for t in range(149))
        np.testing.assert_allclose(found[row], z, atol=1e-5)


def test_the_convolutions_are_numbered_as_in_torchvision():
    shapes = {n: tuple(v.shape) for n, v in alexnet_features().state_dict().items() if v.dim() > 1}
    assert shapes == {
        "0.weight": (64, 3, 11, 11),
        "3.weight": (192, 64, 5, 5),
        "6.weight": (384, 192, 3, 3),
        "8.weight": (256, 384, 3, 3),
        "10.weight": (256, 256, 3, 3),
    }
    maps = alexnet_features()(torch.zeros(1, 3, 256, 384))
    assert maps.shape == (1, 256, 7, 11)


def test_weights_are_loaded_into_the_convolutions(tmp_path):
    state = {
        n: torch.randn_like(v)
        for n, v in CoAttentionEncoder(5 + SPECTRAL, hidden_size=2, size=3).state_dict().items()
        if n.startswith("features.")
    }
    torch.save({**state, "classifier.6.bias": torch.ones(1000)}, tmp_path / "alexnet.pth")
    options = {"hidden_size": 2, "size": 3, "weights": str(tmp_path / "alexnet.pth")}
    net = CoAttentionEncoder(5 + SPECTRAL, **options)
    assert all(torch.equal(net.state_dict()[n], v) for n, v in state.items())


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match="set frontend: co_attention"):
        CoAttentionEncoder(80)
    with pytest.raises(UserError, match="encoder_conf.frames: found 151; expected 1 to 150"):
        CoAttentionEncoder(700, frames=151)
    fast = {**CONFIG, "conv_stride": [5, 2, 2, 2, 2, 2, 1]}
    with pytest.raises(UserError, match="makes 298 frames of 3 s"):
        CoAttentionFrontend([{**TINY, "config": fast}])
