"""S6 on waveforms: the convolution by Fourier transforms, and no trace of padding."""

import pytest
import torch

from ser.errors import UserError
from ser.models.raw import RawConvEncoder, RawFrontend, convolve

SMALL = {"channels": 4, "kernel1": 8, "channel_pool": 2, "step": 40, "hidden_size": 3}


@pytest.mark.parametrize(("taps", "length"), [(65, 40), (100, 16384), (4000, 30001), (8, 50)])
def test_the_fourier_transforms_convolution_is_the_direct_one(taps, length):
    torch.manual_seed(0)
    conv = torch.nn.Conv1d(2, 3, taps)
    maps = torch.randn(2, 2, length)
    padded = torch.nn.functional.pad(maps, ((taps - 1) // 2, taps // 2))
    assert torch.allclose(convolve(maps, conv), conv(padded), atol=1e-4)


def test_samples_have_mean_zero_and_variance_one_whatever_follows_them():
    torch.manual_seed(0)
    speech = 3.0 + 5.0 * torch.randn(2, 100)
    speech[1, 60:] = 99.0
    frames, _ = RawFrontend()(speech, torch.tensor([100, 60]))
    for row, length in enumerate((100, 60)):
        assert torch.allclose(frames[row, :length].mean(), torch.tensor(0.0), atol=1e-6)
        assert torch.allclose(frames[row, :length].std(correction=0), torch.tensor(1.0), atol=1e-5)
    assert not frames[1, 60:].any()


def test_the_published_sizes():
    encoder = RawConvEncoder(1)
    lstm = lambda size: 4 * (size * 128 + 128 * 128 + 2 * 128)  # noqa: E731
    convolutions = (40 * 80 + 40) + (40 * 40 * 4000 + 40)
    expected = convolutions + 2 * lstm(640) + 2 * lstm(256)
    assert sum(p.numel() for p in encoder.parameters()) == expected
    assert encoder.output_size() == 256


def test_noise_is_added_in_training_alone():
    torch.manual_seed(0)
    encoder = RawConvEncoder(1, kernel2=6, dropout=0.0, **SMALL)
    speech, lengths = torch.randn(1, 100, 1), torch.tensor([100])
    first, second = (encoder.train()(speech, lengths)[0] for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (encoder.eval()(speech, lengths)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="encoder_conf.step: found 641"):
        RawConvEncoder(1, step=641)
    with pytest.raises(UserError, match="set frontend: raw"):
        RawConvEncoder(80)
