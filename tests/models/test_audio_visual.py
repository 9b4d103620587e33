"""S12: bytes to samples and pictures, the published sizes, no trace of padding, both streams."""

import numpy as np
import pytest
import torch

from ser.data.video import FRAME_BYTES, audio_video
from ser.errors import UserError
from ser.models.audio_visual import AudioVisualEncoder, AudioVisualFrontend

SMALL = {"channels": 4, "channel_pool": 2, "depth": 18, "width": 2, "hidden_size": 3}


def batch(*seconds: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise and random pictures, with rubbish for padding."""
    rng = np.random.default_rng(0)
    arrays = [
        audio_video(rng.integers(-999, 999, int(16000 * s)).astype("i2"), "") for s in seconds
    ]
    lengths = torch.tensor([len(array) for array in arrays])
    frames = torch.full((len(arrays), int(lengths.max()) + 2, FRAME_BYTES), 77.0)
    for row, array in enumerate(arrays):
        frames[row, : len(array)] = torch.from_numpy(array)
        pictures = rng.integers(0, 256, (len(array), FRAME_BYTES - 1280))
        frames[row, : len(array), 1280:] = torch.from_numpy(pictures.astype("f4"))
    return frames, lengths


def build(**options) -> AudioVisualEncoder:
    torch.manual_seed(0)
    return AudioVisualEncoder(FRAME_BYTES, **{**SMALL, **options})


def run(encoder, frames, lengths):
    return encoder(*AudioVisualFrontend()(frames, lengths))[0]


def test_the_published_sizes():
    encoder = AudioVisualEncoder(FRAME_BYTES)
    resnet = 25_557_032 - (2048 * 1000 + 1000)  # torchvision's ResNet-50 without its classifier
    convs = (40 * 20 + 40) + (40 * 40 * 40 + 40)
    sizes = (320 * 4 + 2048, 256)
    lstm = sum(4 * (size * 256 + 256 * 256 + 2 * 256) for size in sizes)
    assert sum(p.numel() for p in encoder.parameters()) == resnet + convs + lstm
    assert encoder.output_size() == 256


@pytest.mark.parametrize("streams", ["both", "audio", "video"])
def test_nothing_depends_on_padding_or_batch_mates(streams):
    encoder = build(streams=streams).eval()
    frames, lengths = batch(0.2, 0.1)
    together = run(encoder, frames, lengths)
    alone = run(encoder, frames[1:, : lengths[1]], lengths[1:])
    torch.testing.assert_close(together[1, : lengths[1]], alone[0], atol=1e-5, rtol=1e-4)
    assert not together[1, lengths[1] :].any()


@pytest.mark.parametrize(("streams", "reads"), [("audio", (True, False)), ("video", (False, True))])
def test_one_stream_alone_does_not_see_the_other(streams, reads):
    encoder = build(streams=streams).eval()
    frames, lengths = batch(0.2)
    before = run(encoder, frames, lengths)
    other_sound, other_picture = frames.clone(), frames.clone()
    other_sound[..., :1280] = frames[..., :1280].flip(1)
    other_picture[..., 1280:] = 255 - frames[..., 1280:]
    for changed, read in zip((other_sound, other_picture), reads, strict=True):
        assert torch.equal(run(encoder, changed, lengths), before) == (not read)


def test_a_gradient_reaches_every_parameter():
    encoder = build(input_dropout=0.0)
    frames, lengths = batch(0.2, 0.3)
    run(encoder, frames, lengths).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_a_few_utterances_are_learnt_by_heart_from_either_stream():
    for streams in ("audio", "video"):
        encoder = build(streams=streams, input_dropout=0.0, hidden_size=16)
        head = torch.nn.Linear(16, 4)
        frames, lengths = batch(0.08, 0.08, 0.04, 0.12)
        optim = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=0.01)
        for _ in range(30):
            logits = head(run(encoder, frames, lengths).sum(dim=1) / lengths.unsqueeze(1))
            loss = torch.nn.functional.cross_entropy(logits, torch.arange(4))
            optim.zero_grad()
            loss.backward()
            optim.step()
        assert logits.argmax(dim=1).tolist() == [0, 1, 2, 3] and loss < 0.3


def test_options_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="encoder_conf.streams: found smell"):
        build(streams="smell")
    with pytest.raises(UserError, match="set frontend: audio_visual"):
        AudioVisualEncoder(80)
    with pytest.raises(UserError, match="encoder_conf.weights: not given, and freeze is true"):
        build(freeze=True)
