"""Frozen outputs from disk against the encoder itself."""

import os
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch

from ser.models import layer_cache as cache_module
from ser.models.layer_cache import FrameCache, fingerprint
from ser.models.ssl import HFFrontend
from ser.models.wav2vec import Wav2Vec
from ser.scoring.infer import infer_folds
from tests.support.frontends import build, padded_batch
from tests.support.tiny import ENCODERS
from tests.support.training import SYSTEM, make_corpus, train, weights, write_system

LENGTHS = [9000, 16000, 4320]
DROPOUT = (  # of wav2vec 2.0's configuration, of Whisper's
    ["hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"],
    ["dropout", "attention_dropout", "activation_dropout"],
)


class Counted:
    """Frames that show which utterance they belong to, and how many utterances were computed."""

    def __init__(self):
        self.utterances = 0

    def __call__(self, speech, lengths):
        self.utterances += len(speech)
        frames = lengths // 100
        output = speech[:, None, : int(frames.max()), None] * torch.tensor([1.0, 2.0]).view(
            1, 2, 1, 1
        )
        return output, frames


def test_each_utterance_is_computed_once_whatever_batch_it_comes_in(tmp_path):
    compute, speech = Counted(), torch.rand(3, 500)
    lengths = torch.tensor([500, 300, 400])
    cache = FrameCache(tmp_path, torch.float32)
    first, frames = cache(speech, lengths, compute)
    assert frames.tolist() == [5, 3, 4]
    for row, count in zip(first, frames.tolist(), strict=True):
        assert row[:, count:].abs().sum() == 0
    again = FrameCache(tmp_path, torch.float32)  # another process
    second, _ = again(speech[[2, 0]], lengths[[2, 0]], compute)
    assert compute.utterances == 3
    assert torch.equal(second[0, :, :4], first[2, :, :4])
    assert torch.equal(second[1], first[0])
    assert torch.equal(first[0, 0, :, 0], speech[0, :5])
    cache(torch.cat([speech[:, :300], torch.ones(3, 100)], 1), torch.tensor([400] * 3), compute)
    assert compute.utterances == 6  # other samples are other utterances


def test_samples_in_the_padding_are_no_part_of_an_utterance(tmp_path):
    compute, speech = Counted(), torch.rand(1, 500)
    cache = FrameCache(tmp_path, torch.float32)
    cache(speech[:, :300], torch.tensor([300]), compute)
    cache(speech, torch.tensor([300]), compute)
    assert compute.utterances == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_frames_come_back_in_their_precision(tmp_path, dtype):
    cache, values = FrameCache(tmp_path, dtype), torch.randn(1, 2, 3, 4)
    compute = lambda speech, lengths: (values, torch.tensor([3]))  # noqa: E731
    for _ in range(2):
        found, _ = cache(torch.zeros(1, 10), torch.tensor([10]), compute)
        assert found.dtype == dtype
        assert torch.equal(found, values.to(dtype))


@pytest.mark.parametrize("content", [b"", b"half", None])
def test_a_damaged_file_is_computed_and_written_anew(tmp_path, content):
    compute, speech = Counted(), torch.rand(1, 500)
    cache = FrameCache(tmp_path, torch.float32)
    expected, _ = cache(speech, torch.tensor([500]), compute)
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:-10] if content is None else content)
    found, _ = cache(speech, torch.tensor([500]), compute)
    assert torch.equal(found, expected) and compute.utterances == 2
    cache(speech, torch.tensor([500]), compute)
    assert compute.utterances == 2


def test_a_full_disk_stops_the_writing_and_not_the_training(tmp_path, monkeypatch, caplog):
    disk = namedtuple("statvfs", "f_bavail f_frsize")(cache_module.LEAST_FREE // 4096, 4096)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    compute, speech = Counted(), torch.rand(2, 500)
    cache = FrameCache(tmp_path, torch.float32)
    for _ in range(2):
        found, _ = cache(speech, torch.tensor([500, 400]), compute)
    assert torch.equal(found[0, 0, :, 0], speech[0, :5])
    assert not list(tmp_path.rglob("*.npy"))
    assert compute.utterances == 4
    assert caplog.text.count("5 GB would be left on the disk; the rest is computed") == 1


def test_a_fingerprint_is_that_of_weights_and_facts():
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert fingerprint(one, "a") == fingerprint(one, "a")
    assert len({fingerprint(one, "a"), fingerprint(other, "a"), fingerprint(one, "b")}) == 3


@pytest.mark.parametrize(
    "options",
    [{}, {"layers": "last"}, {"layers": 1}, {"low_level": False}, {"layers": [3, 1]}],
)
@pytest.mark.parametrize("freeze", [0, 2, 3, "all"])
@pytest.mark.parametrize("name", ENCODERS)
def test_frozen_layers_give_from_disk_what_they_give(tmp_path, name, freeze, options, monkeypatch):
    speech, lengths = padded_batch(LENGTHS)
    model_type, config = ENCODERS[name]
    config = config | dict.fromkeys(DROPOUT[name == "whisper"], 0.0)
    torch.manual_seed(0)
    frontend = HFFrontend(
        init="random", model_type=model_type, config=config, freeze=freeze, **options
    ).train()
    parameters = {n: p for n, p in frontend.named_parameters() if p.requires_grad}

    def outputs() -> tuple[torch.Tensor, list[int], list[torch.Tensor]]:
        frames, counts = frontend(speech, lengths)
        real = torch.arange(frames.size(1)) < counts[:, None]
        if not frames.requires_grad:
            return frames[real], counts.tolist(), []
        gradients = torch.autograd.grad(
            frames[real].sin().sum(), parameters.values(), allow_unused=True
        )
        return frames[real].detach(), counts.tolist(), [g for g in gradients if g is not None]

    expected, frames, gradients = outputs()
    frontend.cache_dir = tmp_path
    frontend(speech[[0, 2]], lengths[[0, 2]])
    frontend(speech[[1, 2]], lengths[[1, 2]])
    monkeypatch.setattr(HFFrontend, "_lower", lambda *_: pytest.fail("computed again"))
    found, again, others = outputs()
    assert again == frames
    assert torch.allclose(found, expected, atol=2e-5)
    assert len(gradients) == len(others)
    for one, other in zip(gradients, others, strict=True):
        assert torch.allclose(one, other, atol=1e-4 * max(1.0, one.abs().max()))


def test_of_a_partly_frozen_encoder_only_what_is_read_above_is_kept(tmp_path):
    kept = {}
    for layers in ("weighted_sum", "last", [0, 3]):
        frontend = build("whisper", freeze=2, layers=layers)
        frontend.cache_dir = tmp_path / str(layers)
        frontend(*padded_batch([16000]))
        (path,) = frontend.cache_dir.rglob("*.npy")
        kept[str(layers)] = np.load(path).shape[0]
    assert kept == {"weighted_sum": 3, "last": 1, "[0, 3]": 2}


def test_what_is_kept_of_other_layers_is_not_taken_for_these(tmp_path):
    for freeze, layers in ((1, "last"), (2, "last"), (2, "weighted_sum"), ("all", "last")):
        frontend = build("whisper", freeze=freeze, layers=layers)
        frontend.cache_dir = tmp_path
        frontend(*padded_batch([16000]))
    assert len(list(tmp_path.iterdir())) == 4


def test_frozen_convolutions_give_from_disk_what_they_give(tmp_path, monkeypatch):
    speech, lengths = padded_batch(LENGTHS)
    frontend = build("wav2vec2-base-like", freeze="cnn")

    def outputs() -> tuple[torch.Tensor, torch.Tensor]:
        fused, frames = frontend(speech, lengths)
        real = torch.arange(fused.size(1)) < frames[:, None]
        frontend.zero_grad()
        fused[real].sin().sum().backward()
        return fused[real].detach(), frontend.encoder.feature_projection.projection.weight.grad

    expected = outputs()
    frontend.cache_dir = tmp_path
    frontend(speech[[1]], lengths[[1]])  # alone, where sums of samples are rounded otherwise
    frontend(speech[[0, 2]], lengths[[0, 2]])
    monkeypatch.setattr(Wav2Vec, "features", lambda *_: pytest.fail("computed again"))
    for one, other in zip(expected, outputs(), strict=True):
        assert torch.allclose(one, other, atol=1e-4 * one.abs().max())


def test_a_folder_deleted_while_it_is_filled_is_filled_again(tmp_path, monkeypatch):
    speech, lengths = padded_batch(LENGTHS)
    frontend = build("whisper", freeze="all")
    frontend.cache_dir = tmp_path
    with monkeypatch.context() as patch:
        patch.setattr("ser.models.layer_cache.os.statvfs", lambda path: os.stat(tmp_path / "gone"))
        frontend(speech, lengths)
    assert not list(tmp_path.rglob("*.npy"))
    frontend(speech, lengths)
    assert len(list(tmp_path.rglob("*.npy"))) == len(LENGTHS)


def test_what_is_trained_or_masked_is_computed_every_time(tmp_path):
    speech, lengths = padded_batch(LENGTHS)
    masks = {"num_mask": 1, "mask_width_ratio_range": [0.1, 0.2]}
    for options in ({"freeze": "none"}, {"freeze": "all", "time_mask": masks}):
        frontend = build("whisper", **options).train()
        frontend.cache_dir = tmp_path
        frontend(speech, lengths)
        assert not list(tmp_path.iterdir())
    frontend = build("wav2vec2-base-like", freeze="all", unfreeze_after=1)
    frontend.cache_dir = tmp_path
    frontend.set_epoch(2)
    frontend(speech, lengths)
    assert not list(tmp_path.iterdir())


def test_other_encoders_and_precisions_keep_apart(tmp_path):
    speech, lengths = padded_batch(LENGTHS)
    for seed in (1, 2):
        torch.manual_seed(seed)
        model_type, config = ENCODERS["whisper"]
        frontend = HFFrontend(
            init="random", model_type=model_type, config=config, freeze="all", layers="last"
        )
        frontend.cache_dir = tmp_path
        frontend(speech, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        assert frontend(speech, lengths)[0].dtype == torch.bfloat16
    names = sorted(path.name.split("-")[1] for path in tmp_path.iterdir())
    assert names == ["bfloat16", "float32", "float32"]


@pytest.mark.slow
def test_folds_share_what_is_frozen_and_learn_as_without(tmp_path):
    corpus = make_corpus(tmp_path)
    frontend = {**SYSTEM["frontend_conf"], "freeze": "all"}
    write_system(corpus / "system.yaml", frontend_conf=frontend)
    train(corpus, tmp_path / "plain", extra_args=["--layer_cache", "none"])
    assert not (corpus / "dump/tones/layers").exists()
    train(corpus, tmp_path / "cached", folds=["Ses01F", "Ses01M"])
    files = list((corpus / "dump/tones/layers").rglob("*.npy"))
    # 16 of training and 8 of validation in each fold, 32 in all: the same random encoder twice
    assert len(files) == len({np.load(file).tobytes() for file in files}) == 32
    folds = [tmp_path / run / "Ses01F" for run in ("plain", "cached")]
    plain, cached = (weights(fold, "3epoch.pth") for fold in folds)
    for key, value in plain.items():
        assert torch.allclose(value, cached[key], atol=1e-5), key
    train(corpus, tmp_path / "cached", extra_args=["--layer_cache", "none"])  # no other setting


@pytest.mark.slow
def test_inference_keeps_frozen_layers_and_says_the_same(tmp_path):
    corpus = make_corpus(tmp_path)
    frontend = {**SYSTEM["frontend_conf"], "freeze": 1, "layer_norm": True}
    write_system(corpus / "system.yaml", frontend_conf=frontend)
    train(corpus, tmp_path / "exp/kept", folds=["Ses01F", "Ses01M"])
    train(corpus, tmp_path / "exp/plain", extra_args=["--layer_cache", "none"])
    layers, found = corpus / "dump/tones/layers", {}
    trained = len(list(layers.rglob("*.npy")))
    for name in ("kept", "plain"):
        infer_folds(tmp_path / "exp" / name, corpus / "dump/tones", folds=["Ses01F"])
        lines = (tmp_path / "exp" / name / "Ses01F/predictions.tsv").read_text().splitlines()
        found[name] = [float(p) for line in lines[1:] for p in line.split("\t")[3:7]]
    assert found["kept"] == pytest.approx(found["plain"], abs=1e-5)
    # the tested speaker's eight utterances, which nobody has trained or validated on in float32 yet
    assert len(list(layers.rglob("*.npy"))) == trained
    shutil.rmtree(layers)
    (tmp_path / "exp/kept/Ses01F/predictions.tsv").unlink()
    infer_folds(tmp_path / "exp/kept", corpus / "dump/tones", folds=["Ses01F"])
    assert len(list(layers.rglob("*.npy"))) == 16  # and those of the speaker who validates


def test_layers_that_are_released_later_are_not_kept_for_inference(tmp_path):
    for options, kept in (
        ({"freeze": "all"}, True),
        ({"freeze": 2}, True),
        ({"freeze": 2, "unfreeze_after": 1}, False),
        ({"freeze": "cnn"}, False),
        ({}, False),
    ):
        frontend = build("wav2vec2-base-like", **options)
        frontend.keep_layers(tmp_path)
        assert (frontend.cache_dir == tmp_path) == kept
        frontend.keep_layers(None)
        assert frontend.cache_dir is None
