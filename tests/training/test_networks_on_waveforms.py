"""The systems that read waveforms, with tiny speech encoders: padding, gradients, learning."""

import json

import pytest
import torch

from tests.support.systems import system
from tests.support.tiny import ENCODERS

WAV2VEC2, WHISPER = (
    {"init": "random", "model_type": kind, "config": config, "layers": "last"}
    for kind, config in (ENCODERS["wav2vec2-base-like"], ENCODERS["whisper"])
)
# name -> options in place of the YAML's, so that the test takes seconds
SYSTEMS = {
    "s6_small": [
        *("--encoder_conf", "noise=0.0", "--encoder_conf", "dropout=0.0"),
        *("--encoder_conf", "hidden_size=16", "--encoder_conf", "channels=20"),
    ],
    "s9_co_attention": [
        *("--frontend_conf", f"upstreams={json.dumps([WAV2VEC2])}"),
        *("--encoder_conf", "picture=[64, 64]", "--encoder_conf", "hidden_size=4"),
    ],
    "s11_modular": [
        *("--frontend_conf", f"upstreams={json.dumps([WAV2VEC2, WHISPER])}"),
        *("--encoder_conf", "channels=64"),
    ],
}


def sixteen_tones() -> dict[str, torch.Tensor]:
    """A tone in noise for each utterance, as high as its emotion's."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([5000, 4200, 4800, 3900] * 4)
    times = torch.arange(5000) / 16000
    frequencies = 300.0 * (1 + torch.arange(16) % 4)
    speech = torch.sin(2 * torch.pi * frequencies[:, None] * times)
    speech += 0.1 * torch.randn(16, 5000, generator=generator)
    return {
        "speech": 0.1 * speech * (torch.arange(5000) < lengths[:, None]),
        "speech_lengths": lengths,
        "emotion": (torch.arange(16) % 4)[:, None],
    }


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_scores_of_a_system_do_not_depend_on_batch_mates(name):
    net = system(name, *SYSTEMS[name]).eval()
    lengths = [70000, 3000, 49000]
    batch = torch.randn(3, 71000, generator=torch.Generator().manual_seed(0)) / 10
    batch[1, 3000:], batch[2, 49000:] = float("nan"), 7.0
    together = net.infer(batch, torch.tensor(lengths))["emotion_logp"]
    for row, length in enumerate(lengths):
        alone = net.infer(batch[row : row + 1, :length], torch.tensor([length]))["emotion_logp"]
        assert torch.allclose(alone[0], together[row], atol=1e-5)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_gradient_reaches_every_parameter(name):
    net = system(name, *SYSTEMS[name]).train()
    data = {name: value[:2] for name, value in sixteen_tones().items()}
    data["speech"] = data["speech"].repeat(1, 10)  # 3 s, so that every frame there can be is there
    data["speech_lengths"] = torch.tensor([50000, 48000])
    net(**data)[0].backward()
    untouched = {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    expected = ("masked_spec_embed", "embed_positions.weight")  # pre-training's, and sinusoids
    assert {n for n in untouched if not n.endswith(expected)} == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_learns_sixteen_utterances_by_heart(name):
    net = system(name, *SYSTEMS[name]).train()
    data = sixteen_tones()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.002)
    for _ in range(60):
        loss, stats, _ = net(**data)
        if loss < 0.3 and stats["WA"] == 1.0:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert stats["WA"] == 1.0
