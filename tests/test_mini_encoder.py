"""The encoder that the systems for the mini corpus start from, and how it is made."""

import json
import random
import re
from pathlib import Path

import espeakng_loader
import pytest
import torch

from ser import provenance
from ser.config import load_config
from ser.corpora import mini
from ser.models.pretrained import embedded_conf
from ser.models.ssl import HFFrontend
from tests.support import ROOT, load_script

mini_encoder = load_script("local/mini_encoder.py")
ENCODER = ROOT / "egs/mini/encoder"
CONFIGS = [path for path in sorted((ROOT / "conf").glob("mini_*.yaml")) if path.stem != "mini_s0"]


def test_its_voices_are_none_of_the_corpus_and_those_of_the_test_none_of_the_training():
    voices = [*mini_encoder.VOICES, *mini_encoder.HELD_OUT]
    assert len(set(voices)) == len(voices)
    assert not {f"en-us+{name}" for name in voices} & mini.voices()


def test_no_voice_is_one_of_the_corpus_under_another_name():
    variants = Path(espeakng_loader.get_data_path()) / "voices/!v"

    def sound(name):
        lines = (variants / name).read_text(encoding="utf-8").splitlines()
        return [line.split() for line in lines if line.split()[:1] not in ([], ["name"])]

    own = [sound(name.partition("+")[2]) for name in sorted(mini.voices())]
    assert not [name for name in mini_encoder.VOICES if sound(name) in own]


def test_no_sentence_is_one_of_the_corpus(monkeypatch):
    assert (
        mini_encoder.plain("She called me, from THE airport.") == "she called me from the airport"
    )
    sentence = mini_encoder.plain(mini.IMPROVISED[8])
    draws = iter([sentence.split(), ["red", "house"], ["red", "house"], ["zoo"]])

    class Drawn(random.Random):
        def choices(self, *_, **__):
            return next(draws)

    assert mini_encoder.sentences(2, Drawn(0)) == ["red house", "zoo"]


def test_the_encoder_at_hand_was_made_by_this_code_from_these_voices_and_sentences():
    heard = json.loads((ENCODER / "heard.json").read_text(encoding="utf-8"))
    voices = [*mini_encoder.VOICES, *mini_encoder.HELD_OUT]
    assert heard["voices"] == [f"en-us+{name}" for name in voices]
    count = mini_encoder.UTTERANCES + mini_encoder.TESTED
    sentences = mini_encoder.sentences(count, random.Random(heard["seed"]))
    assert heard["sentences"] == {"count": count, "sha256": provenance.digest(sentences)}
    config = json.loads((ENCODER / "config.json").read_text(encoding="utf-8"))
    assert {key: config[key] for key in mini_encoder.CONFIG} == mini_encoder.CONFIG
    rate = re.search(r"PER ([0-9.]+) %", (ENCODER / "README.md").read_text(encoding="utf-8"))
    assert float(rate[1]) == pytest.approx(100 * heard["held_out_per"], abs=0.06)


def test_filters_are_equally_spaced_in_mel_and_pass_their_own_frequency_most():
    filters = mini_encoder.filterbank(64, 80)
    assert filters.shape == (64, 1, 80)
    torch.testing.assert_close(filters.norm(dim=2), torch.ones(64, 1))
    peak = torch.fft.rfft(filters[:, 0], 16000).abs().argmax(dim=1)  # Hz
    # mel(f) = 2595 log10(1 + f / 700): 100 Hz is 150.5, 7000 Hz 2702.4, the 32nd of 63 steps 1446.7
    assert peak[-1].item() == pytest.approx(7000, rel=0.01)
    assert peak[32].item() == pytest.approx(1827, rel=0.01)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_small_system_starts_from_it_wherever_it_is_called_from(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    conf = load_config(path)["frontend_conf"]
    assert conf["model"] == "egs/mini/encoder"
    frontend = HFFrontend(**conf).eval()
    embedded = HFFrontend(**embedded_conf(**conf)).eval()
    embedded.load_state_dict(frontend.state_dict())
    assert frontend.normalize is embedded.normalize is False
    speech, lengths = torch.randn(1, 8000), torch.tensor([8000])
    torch.testing.assert_close(frontend(speech, lengths), embedded(speech, lengths))


def test_the_same_seed_makes_the_same_encoder_with_all_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(mini_encoder, "UTTERANCES", 8)
    monkeypatch.setattr(mini_encoder, "TESTED", 2)
    monkeypatch.setattr(mini_encoder, "EPOCHS", 1)
    for name in ("a", "b"):
        mini_encoder.make(tmp_path / name, seed=3)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {path.name for path in ENCODER.iterdir()}
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    assert HFFrontend(model=str(tmp_path / "a")).encoder.dtype == torch.float32
