"""The Hugging Face frontend against transformers itself, and against its own padding."""

import inspect
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ser.errors import UserError
from ser.models.cpu.attention import NAME as ATTENTION
from ser.models.cpu.dropout import Dropout
from ser.models.fusion import WeightedSum
from ser.models.masks import MaskedGroupNorm
from ser.models.spectral import FeatsFrontend
from ser.models.ssl import HFFrontend
from tests.support.frontends import build, hidden_states, padded_batch
from tests.support.tiny import ENCODERS, TINY

WAV2VEC2_LIKE = [name for name in ENCODERS if name != "whisper"]


def test_eq4_weights_layers_by_the_softmax_of_the_scalars():
    fusion = WeightedSum(3)
    with torch.no_grad():
        fusion.scalars.copy_(torch.tensor([0.0, np.log(2.0), np.log(5.0)]))
    layers = [torch.full((1, 2, 2), value) for value in (1.0, 10.0, 100.0)]
    # a = (1, 2, 5) / 8, so 1/8 + 20/8 + 500/8 = 65.125
    assert torch.allclose(fusion(layers), torch.full((1, 2, 2), 65.125))


def test_the_gradient_of_eq4_is_that_of_its_formula():
    fusion = WeightedSum(4).double()
    torch.nn.init.normal_(fusion.scalars)
    layers = [torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True) for _ in range(4)]

    def gradients(fused: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(fused.sin().sum(), [fusion.scalars, *layers])

    written_out = sum(a * h for a, h in zip(fusion.scalars.softmax(0), layers, strict=True))
    expected, found = gradients(written_out), gradients(fusion(layers))
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, atol=1e-6)  # the weights are rounded to float32


def test_eq4_sums_bfloat16_layers_in_float32():
    layers = [torch.tensor([[[value]]], dtype=torch.bfloat16) for value in (256.0, 1.0, 1.0)]
    assert WeightedSum(3)(layers).item() == pytest.approx(258 / 3)  # bfloat16 has no 257


def test_eq4_starts_from_equal_weights_and_thirteen_scalars_for_twelve_layers():
    frontend = HFFrontend(
        init="random", model_type="wav2vec2", config={**TINY, "num_hidden_layers": 12}
    )
    assert frontend.fusion.scalars.tolist() == [0.0] * 13
    assert torch.allclose(frontend.layer_weights(), torch.full((13,), 1 / 13))


@pytest.mark.parametrize("name", WAV2VEC2_LIKE)
def test_layers_equal_those_of_transformers_on_one_utterance(name):
    frontend = build(name)
    speech, lengths = padded_batch([8000])
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    inputs = extractor(speech[0].numpy(), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        ours, frames = hidden_states(frontend, speech, lengths)
        low_level = frontend.encoder.feature_projection(
            frontend.encoder.feature_extractor(inputs).transpose(1, 2)
        )
        theirs = frontend.encoder(inputs, output_hidden_states=True)
    low_level = low_level[0] if isinstance(low_level, tuple) else low_level
    assert torch.allclose(ours[0], low_level, atol=1e-4)
    # H_l is the feature projection and not the transformer's input
    assert not torch.allclose(ours[0], theirs.hidden_states[0], atol=1e-2)
    for layer in range(1, 3):
        assert torch.allclose(ours[layer], theirs.hidden_states[layer], atol=1e-4), layer
    assert torch.allclose(ours[3], theirs.last_hidden_state, atol=1e-4)
    assert frames.tolist() == [theirs.last_hidden_state.size(1)]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", ENCODERS)
def test_padding_changes_neither_frames_nor_their_number(name, fast):
    frontend = build(name, fast=fast)
    samples = [16000, 9001, 4320]
    speech, lengths = padded_batch(samples)
    with torch.no_grad():
        together, frames = hidden_states(frontend, speech, lengths)
        fused, _ = frontend(speech, lengths)
        for row, length in enumerate(samples):
            alone, count = hidden_states(frontend, speech[row : row + 1, :length], lengths[[row]])
            assert (
                count.item() == frames[row].item() == frontend.output_lengths(count.new([length]))
            )
            for layer, (one, many) in enumerate(zip(alone, together, strict=True)):
                scale = one.abs().max()
                assert torch.allclose(one[0], many[row, :count], atol=2e-5 * scale), layer
            alone_fused, _ = frontend(speech[row : row + 1, :length], lengths[[row]])
            assert torch.allclose(alone_fused[0], fused[row, :count], atol=1e-4)


def test_plain_group_norm_would_let_padding_in():
    """The trap itself: without MaskedGroupNorm the previous test has something to catch."""
    frontend = build("wav2vec2-base-like", fast=False)
    speech, lengths = padded_batch([16000, 4320])
    with torch.no_grad():
        good, _ = hidden_states(frontend, speech, lengths)
        frontend.stages.masked_norm = None  # statistics now include the padding
        bad, _ = hidden_states(frontend, speech, lengths)
    assert (good[0][1, :13] - bad[0][1, :13]).abs().max() > 0.05


@pytest.mark.parametrize("name", WAV2VEC2_LIKE)
def test_the_fast_step_is_the_plain_step(name):
    """Outputs and every gradient, in float64 and without dropout, whose draws are others."""
    options = {"attention_dropout": 0.0, "hidden_dropout": 0.0, "activation_dropout": 0.0}
    model_type, config = ENCODERS[name]
    config = {**config, **options, "feat_proj_dropout": 0.0}
    speech, lengths = padded_batch([9000, 16000, 4320])
    results = []
    for fast in (True, False):
        torch.manual_seed(0)
        frontend = HFFrontend(init="random", model_type=model_type, config=config, fast=fast)
        frontend = frontend.double().train()
        fused, frames = frontend(speech.double(), lengths)
        real = torch.arange(fused.size(1)) < frames[:, None]
        (fused.sin() * real.unsqueeze(-1)).sum().backward()
        found = {n: p.grad for n, p in frontend.named_parameters() if p.grad is not None}
        results.append({"fused": fused[real], **found})
    (fast, plain) = results
    assert fast.keys() == plain.keys()
    for key, value in plain.items():
        assert (fast[key] - value).abs().max() <= 1e-6 * value.abs().max() + 1e-9, key


def test_what_is_fast_can_be_chosen():
    assert inspect.signature(HFFrontend).parameters["fast"].default is True
    for fast, kind in [(["attention"], torch.nn.Dropout), (["dropout"], Dropout)]:
        encoder = build("wav2vec2-base-like", fast=fast).encoder
        assert type(encoder.encoder.dropout) is kind
        assert (encoder.config._attn_implementation == ATTENTION) is (fast == ["attention"])
    with pytest.raises(UserError, match="frontend_conf.fast: 'convs'; choose true, false or"):
        build("wav2vec2-base-like", fast=["convs"])


def test_masked_group_norm_is_group_norm_when_nothing_is_padded():
    norm = torch.nn.GroupNorm(4, 8)
    torch.nn.init.normal_(norm.weight)
    masked = MaskedGroupNorm.from_group_norm(norm)
    x = torch.randn(3, 8, 50)
    assert torch.equal(masked(x), norm(x))
    masked.lengths = torch.tensor([50, 50, 50])
    assert torch.equal(masked(x), norm(x))
    masked.lengths = torch.tensor([50, 20, 7])
    assert torch.allclose(masked(x)[1, :, :20], norm(x[1:2, :, :20])[0])
    assert masked(x)[2, :, 7:].abs().max() == 0
    assert masked.weight is norm.weight


def test_masked_group_norm_keeps_the_precision_of_its_input(monkeypatch):
    """On CUDA autocast computes group norm in float32."""
    norm = MaskedGroupNorm(4, 8)
    group_norm = F.group_norm
    monkeypatch.setattr(F, "group_norm", lambda x, *rest: group_norm(x.float(), *rest))
    x = torch.randn(2, 8, 50).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    norm.lengths = torch.tensor([50, 20])
    assert norm(x).dtype == torch.bfloat16


@pytest.mark.parametrize("name", WAV2VEC2_LIKE)
def test_frame_lengths_are_those_of_the_encoder(name):
    frontend = build(name)
    for samples in (400, 719, 720, 16000, 16079, 33333):
        frames = frontend.output_lengths(torch.tensor([samples])).item()
        assert frames == frontend.encoder._get_feat_extract_output_lengths(samples)


def test_an_utterance_of_which_the_encoder_makes_no_frame_is_refused():
    frontend = build("wav2vec2-base-like")
    shortest = next(n for n in range(1, 2000) if frontend.output_lengths(torch.tensor([n])) > 0)
    speech, lengths = padded_batch([9000, shortest])
    assert frontend(speech, lengths)[1].tolist()[1] == 1
    with pytest.raises(UserError, match="ms is too short for this encoder"):
        frontend(speech, lengths - torch.tensor([0, 1]))


def test_whisper_on_thirty_seconds_equals_transformers():
    frontend = build("whisper")
    speech, lengths = padded_batch([480000])
    inputs = WhisperFeatureExtractor()(
        speech[0].numpy(), sampling_rate=16000, return_tensors="pt"
    ).input_features
    with torch.no_grad():
        mels, _ = frontend.log_mel(speech, lengths)
        ours, frames = hidden_states(frontend, speech, lengths)
        theirs = frontend.encoder(inputs, output_hidden_states=True)
    assert torch.allclose(mels, inputs, atol=1e-4)
    assert frames.tolist() == [1500]
    for layer in range(3):
        assert torch.allclose(ours[layer], theirs.hidden_states[layer], atol=1e-4), layer
    assert torch.allclose(ours[3], theirs.last_hidden_state, atol=1e-4)


def test_whisper_takes_audio_beyond_its_thirty_seconds():
    frontend = build("whisper")
    with torch.no_grad():
        frames, lengths = frontend(*padded_batch([34 * 16000]))
    assert lengths.tolist() == [1700] == [frames.size(1)]


def test_single_layers_can_be_chosen_instead_of_the_sum():
    speech, lengths = padded_batch([8000])
    frontend, last = build("hubert", layers=2), build("hubert", layers="last")
    with torch.no_grad():
        hidden, _ = hidden_states(frontend, speech, lengths)
        assert torch.equal(frontend(speech, lengths)[0], hidden[2])
        assert torch.equal(last(speech, lengths)[0], hidden_states(last, speech, lengths)[0][3])
    assert frontend.layer_weights() is None


@pytest.mark.parametrize(
    ("layers", "low_level", "expected"),
    [("concat", True, [0, 1, 2, 3]), ("concat", False, [1, 2, 3]), ([3, 0], True, [3, 0])],
)
def test_layers_can_stand_side_by_side(layers, low_level, expected):
    frontend = build("hubert", layers=layers, low_level=low_level)
    speech, lengths = padded_batch([8000, 6000])
    with torch.no_grad():
        hidden, _ = hidden_states(frontend, speech, lengths)
        frames, _ = frontend(speech, lengths)
    assert frames.size(-1) == frontend.output_size()
    assert torch.equal(frames, torch.cat([hidden[i] for i in expected], dim=-1))


@pytest.mark.parametrize("layers", ["weighted_sum", "concat"])
def test_a_layer_norm_scales_every_frame_of_every_layer_by_itself(layers):
    speech, lengths = padded_batch([8000])
    frontend = build("hubert", layers=layers, layer_norm=True)
    with torch.no_grad():
        frames, _ = frontend(speech, lengths)
        frontend.layer_norm = False
        plain, _ = frontend(speech, lengths)
    for ours, raw in zip(frames.chunk(4 if layers == "concat" else 1, -1), [plain], strict=False):
        raw = raw[..., : ours.size(-1)]
        centred = raw - raw.mean(-1, keepdim=True)
        expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        assert torch.allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("layers", ["middle", 0, 4, [], [1, 9]])
def test_layers_that_the_encoder_lacks_are_refused(layers):
    with pytest.raises(UserError, match="frontend_conf.layers: .* from 1 to 3, or a list"):
        build("hubert", layers=layers)


def trainable(frontend: HFFrontend) -> set[str]:
    return {name for name, p in frontend.encoder.named_parameters() if p.requires_grad}


def test_freeze_policies_leave_exactly_their_parameters_untrained():
    everything = trainable(build("wav2vec2-base-like"))
    names = {name for name, _ in build("wav2vec2-base-like").encoder.named_parameters()}
    assert names - everything == {"masked_spec_embed"}  # pre-training's
    cnn = trainable(build("wav2vec2-base-like", freeze="cnn"))
    assert everything - cnn == {n for n in everything if n.startswith("feature_extractor.")}
    two = trainable(build("wav2vec2-base-like", freeze=2))
    assert not any(n.startswith(("feature_", "encoder.pos_conv", "encoder.layers.1")) for n in two)
    assert any(n.startswith("encoder.layers.2") for n in two)
    assert not any(n.startswith("encoder.layer_norm") for n in two)  # it precedes the layers
    assert trainable(build("wav2vec2-base-like", freeze="all")) == set()
    stable = trainable(build("wav2vec2-large-like", freeze=2))
    assert any(n.startswith("encoder.layer_norm") for n in stable)  # it follows them


def test_a_frozen_encoder_has_no_dropout_and_no_gradient_but_its_fusion_learns():
    frontend = build("wav2vec2-base-like", freeze="all").train()
    speech, lengths = padded_batch([8000])
    first, _ = frontend(speech, lengths)
    second, _ = frontend(speech, lengths)
    assert torch.equal(first, second)
    first.square().sum().backward()
    assert frontend.fusion.scalars.grad.abs().sum() > 0
    assert all(p.grad is None for p in frontend.encoder.parameters())


def test_unfreezing_happens_after_the_given_epoch():
    frontend = build("wav2vec2-base-like", freeze="all", unfreeze_after=2)
    for epoch, frozen in ((1, True), (2, True), (3, False)):
        frontend.set_epoch(epoch)
        assert (trainable(frontend) == set()) is frozen


def test_a_saved_model_is_loaded_from_its_folder_with_its_normalisation(tmp_path):
    model_type, config = ENCODERS["wav2vec2-base-like"]
    torch.manual_seed(3)
    source = build("wav2vec2-base-like").encoder
    # a fresh copy with plain group norm, as anybody would save it
    plain = AutoModel.from_config(source.config)
    plain.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    frontend = HFFrontend(model=str(tmp_path))
    assert frontend.normalize is False
    loaded = frontend.encoder.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(loaded[name], value), name
    assert frontend.encoder.config.layerdrop == 0.0


def test_a_whisper_encoder_folder_is_loaded(tmp_path):
    source = build("whisper").encoder
    source.save_pretrained(tmp_path)
    loaded = HFFrontend(model=str(tmp_path)).encoder
    assert isinstance(loaded, WhisperEncoder)
    assert torch.equal(loaded.conv1.weight, source.conv1.weight)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    AutoModel.from_config(build("hubert").encoder.config).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_hidden_layers"] = 5
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="weights of the encoder are not in the checkpoint"):
        HFFrontend(model=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "/nowhere/model"}, "/nowhere/model: no such folder"),
        ({}, "model: not given"),
        ({"init": "random", "model_type": "bert"}, "'bert' is not a supported encoder"),
        ({"init": "random", "model_type": "nonsense"}, "'nonsense' is not a supported encoder"),
        (
            {"init": "random", "model_type": "wav2vec2", "config": {"hidden": 3}},
            "wav2vec2 has no setting 'hidden'",
        ),
        ({"init": "random", "model_type": "wav2vec2", "layers": 13, "config": TINY}, "1 to 3"),
        ({"init": "random", "model_type": "wav2vec2", "freeze": "half", "config": TINY}, "freeze"),
        ({"init": "randomly"}, "pretrained or random"),
    ],
)
def test_unfit_options_are_explained(options, message):
    with pytest.raises(UserError, match=message):
        HFFrontend(**options)


def test_a_folder_without_config_is_explained(tmp_path):
    with pytest.raises(UserError, match="no config.json in this folder"):
        HFFrontend(model=str(tmp_path))


def test_features_are_normalised_over_real_frames_only():
    frontend = FeatsFrontend(input_size=2)
    feats = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]]])
    out, lengths = frontend(feats, torch.tensor([2]))
    assert lengths.tolist() == [2]
    # means 2 and 2, standard deviations 1 and 2
    assert torch.allclose(out[0, :2], torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), atol=1e-6)


@pytest.mark.parametrize("norm_means", [True, False])
@pytest.mark.parametrize("norm_vars", [True, False])
def test_features_do_not_depend_on_padding(norm_means, norm_vars):
    frontend = FeatsFrontend(3, norm_means, norm_vars)
    feats = torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(0)) + 5.0
    together, _ = frontend(feats.clone(), torch.tensor([10, 4]))
    alone, _ = frontend(feats[1:, :4].clone(), torch.tensor([4]))
    assert torch.allclose(together[1, :4], alone[0], atol=1e-6)


@pytest.mark.parametrize("name", ["wav2vec2-base-like", "whisper"])
def test_time_masks_are_there_in_training_only(name):
    model_type, config = ENCODERS[name]
    dropouts = ["dropout"] if name == "whisper" else ["hidden_dropout", "feat_proj_dropout"]
    dropouts += ["attention_dropout", "activation_dropout"]
    config = {**config, **dict.fromkeys(dropouts, 0.0)}
    options = {"init": "random", "model_type": model_type, "config": config}
    masks = {"num_mask": 2, "mask_width_ratio_range": [0.2, 0.4]}
    torch.manual_seed(0)
    plain = HFFrontend(**options)
    masked = HFFrontend(**options, time_mask=masks)
    masked.load_state_dict(plain.state_dict())
    speech, lengths = torch.randn(2, 16000), torch.tensor([16000, 16000])
    with torch.no_grad():
        expected = plain.train()(speech, lengths)[0]
        assert not torch.allclose(masked.train()(speech, lengths)[0], expected)
        assert torch.allclose(masked.eval()(speech, lengths)[0], plain.eval()(speech, lengths)[0])
