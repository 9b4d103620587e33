"""Convolutional recurrent networks and poolings: shapes, sizes, formulas, padding, learning."""

import math

import numpy as np
import pytest
import torch
import yaml

from ser.config import load_config
from ser.data.features import FEATS_SIZES, FEATS_TYPES, FUNCTIONALS
from ser.errors import UserError
from ser.models.encoders import ConvLayer, ConvRecurrentEncoder, MaskedBatchNorm
from ser.models.model import SERModel
from ser.models.pooling import (
    AttentionPooling,
    LastPooling,
    MeanPooling,
    SelfAttentionPooling,
    StatisticsPooling,
)
from ser.models.spectral import GreyFrontend
from ser.training.task import SERTask
from tests.support.systems import CONF, arguments, system
from tests.support.tiny import TINY

SYSTEMS = ("s4_cgru_attention", "s4a_cgru", "s4b_lstm_attention", "s4c_dcnn_lstm") + (
    "s5_cnn_blstm_gender",
    "s5_single",
    "s7_conv_attention",
    "s8_parallel",
    "s10_ladder",
    "s13_graph",
    "s15_key_segments",
    "s15_small",
    "s17_capsules",
    "s18_xvector",
)
SEEN = ("s12_audio_visual", "s12_small")  # tests/models/test_audio_visual.py
# What a test of the whole network makes smaller.
SMALLER = {
    "s15_key_segments": {
        "freeze": "false",
        "segment": 4,
        "depth": 18,
        "width": 8,
        "picture": [32, 32],
    },
    "s15_small": {"segment": 4, "width": 8, "picture": [32, 32]},
    "s18_xvector": {"depth": 18, "width": 8},
}


def small_system(name: str) -> SERModel:
    options = SMALLER.get(name, {}).items()
    changes = [word for key, value in options for word in ("--encoder_conf", f"{key}={value}")]
    return system(name, *changes)


def padded(lengths: list[int], size: int, max_length: int, fill: float = 0.0) -> torch.Tensor:
    """(B, max_length, size): the same random frames for the same lengths, then ``fill``."""
    generator = torch.Generator().manual_seed(7)
    batch = torch.full((len(lengths), max_length, size), fill, dtype=torch.float64)
    for row, length in enumerate(lengths):
        batch[row, :length] = torch.randn(length, size, generator=generator, dtype=torch.float64)
    return batch


def gru(size: int, hidden: int) -> int:
    """Parameters of a layer: three gates, each with two matrices and two biases."""
    return 3 * (size * hidden + hidden * hidden + 2 * hidden)


def lstm(size: int, hidden: int) -> int:
    """Four gates."""
    return 4 * (size * hidden + hidden * hidden + 2 * hidden)


# 201 bins are 101 after pooling by 2, then 51, 26 and 13. A batch norm has two parameters a map,
# and the filters before it no bias.
S4_CONVS = (3 * 2 * 5 + 2) + (1 * 5 * 3 + 2)
S4C_CONVS = (3 * 9 * 8 + 16) + (8 * 9 * 16 + 32) + (16 * 9 * 32 + 64) + (32 * 9 * 32 + 64)
S5_CONVS = (1 * 9 * 16 + 32) + (16 * 9 * 32 + 64) + (32 * 9 * 32 + 64)
S5_REST = 2 * lstm(32 * 26, 128) + (64 * 256 + 64) + (4 * 256 + 4)
HEAD = 4 * 128 + 4
S7_CONVS = (1 * 25 * 32 + 64) + (32 * 9 * 64 + 128)
S7_REST = 2 * lstm(64 * 20, 128) + 2 * lstm(256, 128) + (256 * 9 * 64 + 64) + (4 * 256 + 4)
S8_CONVS = (3 * 9 * 64 + 128) + (64 * 9 * 128 + 256) + (128 * 9 * 256 + 512)
S8_ATTENTION = 4 * (256 * 256 + 256) + (256 * 64 + 64) + 2 * (40 * 40 + 40)
S8_REST = 2 * lstm(40, 128) + 2 * lstm(256, 128) + 2 * 512 + (512 * 128 + 128)
S13_LAYERS = (256 * 128 + 128 * 128 + 4 * 128 + 1) + (2 * 128 * 128 + 4 * 128 + 1)
S17_CONVS = (9 + 25 + 49) * 32 + 3 * 64 + (96 * 9 * 64 + 128)
S17_CAPSULES = (1280 * 128 + 128) + 16 * 4 * 8 * 16  # primary capsules, votes
S15_BLSTM = 2 * lstm(128, 256) + 2 * 2 * lstm(512, 256)
HEAD_OF_512 = 4 * 512 + 4


def residual(before: int, size: int, blocks: int) -> int:
    """A stage of residual blocks: two 3 x 3 filters each, and 1 x 1 on a shortcut that changes."""
    first = (before * 9 * size + 2 * size) + (size * 9 * size + 2 * size)
    shortcut = before * size + 2 * size if before != size else 0
    return first + shortcut + (blocks - 1) * 2 * (size * 9 * size + 2 * size)


def resnet18(size: int, taps: int) -> int:
    stages = [residual(size << max(n - 1, 0), size << n, 2) for n in range(4)]
    return taps * size + 2 * size + sum(stages)


S12_CONVS = (40 * 20 + 40) + (40 * 40 * 40 + 40)
S12_LSTM = sum(4 * (size * 64 + 64 * 64 + 2 * 64) for size in (320 * 4 + 64, 64))
S18_STAGES = ((32, 32, 3), (32, 64, 4), (64, 128, 6), (128, 256, 3))
S18_NETWORK = (9 * 32 + 2 * 32) + sum(residual(*stage) for stage in S18_STAGES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s4_cgru_attention", S4_CONVS + gru(51, 128) + 128 + HEAD),
        ("s4a_cgru", S4_CONVS + gru(51, 128) + HEAD),
        ("s4b_lstm_attention", lstm(201, 128) + 128 + HEAD),
        ("s4c_dcnn_lstm", S4C_CONVS + lstm(32 * 13, 128) + HEAD),
        ("s5_cnn_blstm_gender", S5_CONVS + S5_REST + (2 * 256 + 2)),
        ("s5_single", S5_CONVS + S5_REST),
        ("s7_conv_attention", S7_CONVS + S7_REST),
        ("s8_parallel", S8_CONVS + S8_ATTENTION + S8_REST + HEAD),
        ("s10_ladder", 2 * (6373 * 256 + 256 * 256 + 256 * 2) + 10 * (6373 + 512) + 4 * 256 + 4),
        ("s12_small", resnet18(8, 3 * 49) + S12_CONVS + S12_LSTM + (4 * 64 + 4)),
        ("s13_graph", 2 * lstm(40, 128) + S13_LAYERS + (4 * (256 + 128 + 128) + 4)),
        ("s15_small", resnet18(16, 3 * 49) + S15_BLSTM + HEAD_OF_512),
        ("s18_xvector", S18_NETWORK + (2 * 256 * 10 * 256 + 256) + (4 * 256 + 4)),
        ("s17_capsules", S17_CONVS + S17_CAPSULES + (4 * (1280 + 4 * 16) + 4)),
    ],
)
def test_a_system_has_the_parameters_that_its_description_adds_up_to(name, expected):
    assert sum(p.numel() for p in system(name).parameters()) == expected


@pytest.mark.parametrize(
    ("name", "lengths", "frame_size", "pooled_size"),
    [
        # 57 frames: 29 and 15 after pooling by 2 and 2; 8: 4, 2; 1: 1, 1
        ("s4_cgru_attention", [15, 2, 1], 128, 128),
        ("s4a_cgru", [15, 2, 1], 128, 128),
        ("s4b_lstm_attention", [57, 8, 1], 128, 128),
        ("s4c_dcnn_lstm", [8, 1, 1], 128, 128),  # once more by 2
        ("s5_cnn_blstm_gender", [15, 2, 1], 256, 256),
        ("s5_single", [15, 2, 1], 256, 256),
    ],
)
def test_a_system_turns_frames_into_the_sizes_worked_out_by_hand(
    name, lengths, frame_size, pooled_size
):
    net = system(name).eval()
    speech = padded([57, 8, 1], 201, 57).float()
    encoded = net.encode(speech, torch.tensor([57, 8, 1]))
    assert encoded.lengths.tolist() == lengths
    assert encoded.frames.shape == (3, lengths[0], frame_size)
    assert encoded.pooled.shape == (3, pooled_size)
    result = net.infer(speech, torch.tensor([57, 8, 1]))
    assert result["emotion_logp"].shape == (3, 4)


@pytest.mark.parametrize("kind", FEATS_TYPES)
def test_the_frame_sizes_that_are_checked_are_those_of_the_features(kind):
    if kind in FUNCTIONALS:
        pytest.importorskip("opensmile", reason="opensmile (requirements-apps.txt) is missing")
    noise = np.random.default_rng(0).integers(-999, 999, 4000).astype(np.int16)
    assert FEATS_TYPES[kind](noise).shape[1] == FEATS_SIZES[kind]


def test_grey_is_the_level_below_the_loudest_bin_in_decibels():
    decibel = math.log(10.0) / 10.0  # in units of ln power
    levels = torch.tensor([[0.0, -20.0], [-40.0, -80.0], [-100.0, -60.0], [999.0, 999.0]])
    spectrogram = (5.0 + levels * decibel)[None]
    grey, lengths = GreyFrontend(2)(spectrogram, torch.tensor([3]))
    expected = torch.tensor([[1.0, 0.75], [0.5, 0.0], [0.0, 0.25], [0.0, 0.0]])
    assert torch.allclose(grey[0], expected, atol=1e-6)
    assert lengths.tolist() == [3]
    grey, _ = GreyFrontend(2, dynamic_range=40.0)(spectrogram, torch.tensor([3]))
    assert torch.allclose(grey[0, 0], torch.tensor([1.0, 0.5]), atol=1e-6)


def test_a_filter_over_three_equal_channels_is_one_over_one_with_their_weights_added():
    conv = {"channels": 1, "kernel": [2, 5], "pool": [2, 2]}
    three = ConvRecurrentEncoder(11, [conv], in_channels=3, rnn_type="none")
    one = ConvRecurrentEncoder(11, [conv], in_channels=1, rnn_type="none")
    weight = three.convs[0].conv.weight  # (1, 3, 2, 5)
    assert weight.shape == (1, 3, 2, 5)
    with torch.no_grad():
        one.convs[0].conv.weight.copy_(weight.sum(dim=1, keepdim=True))
        one.convs[0].conv.bias.copy_(three.convs[0].conv.bias)
    picture, lengths = padded([9], 11, 9).float(), torch.tensor([9])
    assert torch.allclose(three(picture, lengths)[0], one(picture, lengths)[0], atol=1e-6)


def test_a_convolution_layer_is_filter_relu_and_maximum_worked_out_one_by_one():
    layer = ConvLayer(2, 3, kernel=[2, 3], pool=[2, 2]).double()
    maps = padded([5], 2 * 4, 5).view(1, 5, 2, 4).transpose(1, 2)  # (1, C, T, F)
    out, lengths = layer(maps, torch.tensor([5]))
    weight, bias = layer.conv.weight.detach().numpy(), layer.conv.bias.detach().numpy()
    # two frames need one more at the end, three bins one at each side
    x = np.pad(maps[0].numpy(), ((0, 0), (0, 1), (1, 1)))
    filtered = np.zeros((3, 5, 4))
    for c in range(3):
        for t in range(5):
            for f in range(4):
                filtered[c, t, f] = (weight[c] * x[:, t : t + 2, f : f + 3]).sum() + bias[c]
    filtered = np.maximum(filtered, 0.0)
    expected = np.stack(
        [[[filtered[c, t : t + 2, f : f + 2].max() for f in (0, 2)] for t in (0, 2, 4)]
         for c in range(3)]
    )  # fmt: skip
    assert lengths.tolist() == [3]
    np.testing.assert_allclose(out[0].detach().numpy(), expected, atol=1e-12)


def test_batch_norm_takes_its_statistics_over_real_frames_only():
    norm = MaskedBatchNorm(2).double()
    lengths = [3, 1]
    maps = padded(lengths, 2 * 5, 4, fill=1e6).view(2, 4, 2, 5).transpose(1, 2)  # (B, C, T, F)
    real = torch.tensor([[True, True, True, False], [True, False, False, False]])
    out = norm(maps, real).detach().numpy()
    x = maps.numpy()
    values = np.concatenate([x[0, :, :3].reshape(2, -1), x[1, :, :1].reshape(2, -1)], axis=1)
    mean, var = values.mean(axis=1), values.var(axis=1)
    expected = (x - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
    np.testing.assert_allclose(out[0, :, :3], expected[0, :, :3], atol=1e-9)
    np.testing.assert_allclose(out[1, :, :1], expected[1, :, :1], atol=1e-9)
    assert not out[0, :, 3:].any() and not out[1, :, 1:].any()
    # what evaluation uses: a twentieth of the new mean and of the unbiased variance
    np.testing.assert_allclose(norm.running_mean, 0.1 * mean, atol=1e-9)
    np.testing.assert_allclose(norm.running_var, 0.9 + 0.1 * var * 20 / 19, atol=1e-9)


def test_eq5_attention_weights_frames_by_the_softmax_of_a_scalar_product():
    pooling = AttentionPooling(3).double()
    frames, lengths = padded([4, 2], 3, 4, fill=9.0), [4, 2]
    pooled = pooling(frames, torch.tensor(lengths)).detach().numpy()
    w = pooling.score.weight.detach().numpy()[0]
    for row, length in enumerate(lengths):
        y = frames[row, :length].numpy()
        a = np.exp(y @ w) / np.exp(y @ w).sum()
        np.testing.assert_allclose(pooled[row], (a[:, None] * y).sum(axis=0), atol=1e-12)


def test_self_attention_is_that_of_lin_et_al():
    pooling = SelfAttentionPooling(3, size=5, hops=2).double()
    frames, lengths = padded([4, 2], 3, 4, fill=9.0), [4, 2]
    pooled = pooling(frames, torch.tensor(lengths)).detach().numpy()
    w1, w2 = pooling.hidden.weight.detach().numpy(), pooling.score.weight.detach().numpy()
    assert (w1.shape, w2.shape, pooled.shape) == ((5, 3), (2, 5), (2, 6))
    for row, length in enumerate(lengths):
        h = frames[row, :length].numpy()  # (T, D)
        scores = w2 @ np.tanh(w1 @ h.T)  # (hops, T)
        a = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(pooled[row], (a @ h).flatten(), atol=1e-12)


def test_the_last_state_is_that_of_the_last_real_frame_and_of_the_first_backwards():
    frames = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]] * 2)
    lengths = torch.tensor([3, 2])
    assert LastPooling(2)(frames, lengths).tolist() == [[3.0, 30.0], [2.0, 20.0]]
    both = LastPooling(2, bidirectional=True)(frames, lengths)
    assert both.tolist() == [[3.0, 10.0], [2.0, 10.0]]


def test_the_last_states_are_those_that_a_recurrent_network_ends_with():
    encoder = ConvRecurrentEncoder(3, hidden_size=4, bidirectional=True, rnn_type="gru").double()
    frames, lengths = padded([5], 3, 7), torch.tensor([5])
    _, final = encoder.rnn(frames[:, :5])  # (2, 1, 4): forward, backward
    outputs, olens, _ = encoder(frames, lengths)
    pooled = LastPooling(8, bidirectional=True)(outputs, olens)
    assert torch.allclose(pooled, torch.cat([final[0], final[1]], dim=-1))


def test_the_mean_without_mask_counts_padding_and_that_with_mask_does_not():
    frames = torch.tensor([[[3.0], [5.0], [0.0], [0.0]]])
    assert MeanPooling(1)(frames, torch.tensor([2])).tolist() == [[4.0]]
    assert MeanPooling(1, mask=False)(frames, torch.tensor([2])).tolist() == [[2.0]]


def test_statistics_are_mean_and_standard_deviation_of_the_real_frames():
    # 1, 2 and 6 beside padding: mean 3, variance (4 + 1 + 9) / 3
    frames = torch.tensor([[[1.0], [2.0], [6.0], [99.0]], [[5.0], [9.0], [9.0], [9.0]]])
    pooled = StatisticsPooling(1)(frames, torch.tensor([3, 1]))
    assert pooled[0].tolist() == pytest.approx([3.0, (14 / 3 + 1e-5) ** 0.5])
    assert pooled[1].tolist() == pytest.approx([5.0, 1e-5**0.5])
    frames.requires_grad_()
    StatisticsPooling(1)(frames, torch.tensor([3, 1])).sum().backward()
    assert frames.grad.isfinite().all() and frames.grad[0, 3] == 0


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_scores_of_a_system_do_not_depend_on_batch_mates(name):
    net = small_system(name).eval()
    lengths = [30, 1, 13, 22]
    size = net.frontend.output_size()
    batch = padded(lengths, size, 33, fill=float("nan")).float()
    together = net.infer(batch, torch.tensor(lengths))["emotion_logp"]
    for row, length in enumerate(lengths):
        alone = net.infer(batch[row : row + 1, :length], torch.tensor([length]))["emotion_logp"]
        assert torch.allclose(alone[0], together[row], atol=1e-5)


def sixteen_utterances(size: int) -> dict[str, torch.Tensor]:
    """Noise with a tone of the emotion's frequency and, in every other one, of the gender's."""
    generator = torch.Generator().manual_seed(3)
    speech = 2.0 * torch.randn(16, 16, size, generator=generator)
    twentieth = size // 20
    for row in range(16):
        band = 4 * twentieth * (row % 4) + twentieth
        speech[row, 2:12, band : band + 2 * twentieth] += 9.0
        speech[row, 4:8, (18 + row // 4 % 2) * twentieth] += 9.0
    lengths = torch.tensor([16, 11, 15, 12] * 4)
    return {
        "speech": speech,
        "speech_lengths": lengths,
        "emotion": (torch.arange(16) % 4)[:, None],
        "gender_label": (torch.arange(16) // 4 % 2)[:, None],
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_learns_sixteen_utterances_by_heart(name):
    net = small_system(name).train()
    data = sixteen_utterances(net.frontend.output_size())
    optimizer = torch.optim.Adam(net.parameters(), lr=0.005)
    for _ in range(80):
        net.counts.zero_()
        loss, stats, _ = net(**data)
        if loss < 0.05:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert stats["WA"] == 1.0
    if net.aux_heads:
        assert stats["correct_gender"] == 1.0


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_gradient_reaches_every_parameter(name):
    net = small_system(name).train()
    data = sixteen_utterances(net.frontend.output_size())
    if name == "s10_ladder":  # whose denoisers begin with zeros
        for _ in range(2):
            net.zero_grad()
            net(**data)[0].backward()
            torch.optim.SGD(net.parameters(), lr=0.1).step()
    net(**data)[0].backward()
    untouched = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


def test_a_gradient_reaches_every_parameter_of_s1(tmp_path):
    content = load_config(CONF / "train_s1_mtl_phoneme.yaml")
    del content["frontend_conf"]["model"]
    content["frontend_conf"].update(init="random", model_type="wav2vec2", config=TINY)
    (tmp_path / "s1.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "units.txt").write_text("<blank> 0\nV0 1\nN0 2\n")
    args = arguments(tmp_path / "s1.yaml")
    args.units = str(tmp_path / "units.txt")
    torch.manual_seed(0)
    net = SERTask.build_model(args).train()
    loss, _, _ = net(
        speech=torch.randn(2, 8000),
        speech_lengths=torch.tensor([8000, 6000]),
        emotion=torch.tensor([[0], [1]]),
        text=torch.tensor([[1, 2], [2, -1]]),
        text_lengths=torch.tensor([2, 1]),
    )
    loss.backward()
    untouched = {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert untouched == {"frontend.encoder.masked_spec_embed"}  # pre-training's


CONV = {"channels": 2, "kernel": [3, 3]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convs": [{**CONV, "kernel": [3, 5, 2]}]}, r"convs\[0\]\.kernel: found \[3, 5, 2\]"),
        ({"convs": [{**CONV, "kernel": 3}]}, r"convs\[0\]\.kernel: found 3; expected \[frames"),
        ({"convs": [CONV, {**CONV, "pool": [2, 0]}]}, r"convs\[1\]\.pool: found \[2, 0\]"),
        ({"convs": [{**CONV, "pool": [2, 1.5]}]}, r"convs\[0\]\.pool"),
        ({"convs": [{**CONV, "norm": "layer"}]}, r"convs\[0\]\.norm: .*none, batch"),
        ({"convs": [{**CONV, "channels": 0}]}, r"convs\[0\]\.channels: found 0"),
        ({"convs": [{"channels": 2}]}, r"convs\[0\]: found .*; expected the key kernel"),
        ({"convs": [{**CONV, "width": 2}]}, r"convs\[0\]: ConvLayer has no option 'width'"),
        ({"convs": [[3, 3]]}, r"convs\[0\]: found \[3, 3\]; expected a mapping"),
        ({"convs": 3}, "convs: found 3; expected a list"),
        ({"convs": CONV}, "convs: found .*; expected a list"),
        ({"rnn_type": "rnn"}, "rnn_type: found 'rnn'; expected one of gru, lstm, none"),
        ({"in_channels": 2}, "in_channels: found 2; expected 1 or 3"),
        ({"hidden_size": 0}, "hidden_size: found 0"),
        ({"num_layers": 1.5}, "num_layers: found 1.5"),
        ({"dropout": 1.0}, "dropout: found 1.0"),
    ],
)
def test_an_unfit_encoder_option_is_named_with_what_was_expected(options, message):
    with pytest.raises(UserError, match=f"encoder_conf.{message}"):
        ConvRecurrentEncoder(201, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoder_conf", "convs=[{channels: 1, kernel: [2]}]"], r"encoder_conf.convs\[0\]"),
        (["--feats_type", "raw"], "feats_type: found raw; frontend grey reads spectrogram or"),
        (["--feats_type", "cepstra"], "feats_type: found cepstra"),
        (["--feats_type", "fbank"], "frontend_conf.input_size: found 201; .* set input_size: 80"),
        (["--frontend_conf", "dynamic_range=0"], "frontend_conf.dynamic_range: found 0"),
        (["--pooling", "self_attention", "--pooling_conf", "hops=0"], "pooling_conf.hops: found 0"),
        (["--frontend", "feats"], "frontend_conf: FeatsFrontend has no option .dynamic_range."),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_any_fold_is_trained(options, message):
    with pytest.raises(UserError, match=message):
        arguments(CONF / "train_s4_cgru_attention.yaml", *options)


def test_features_are_no_input_for_a_frontend_that_reads_waveforms():
    with pytest.raises(UserError, match="feats_type: found fbank; frontend hf reads raw"):
        arguments(CONF / "mini_s1.yaml", "--feats_type", "fbank")


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("train_s14_egemaps_svm", ["--frontend_conf", "norm_means=true"]),
        ("train_s14_egemaps_svm", ["--frontend_conf", "norm_vars=true"]),
        ("train_s4_cgru_attention", ["--feats_type", "egemaps"]),
    ],
)
def test_one_vector_for_an_utterance_is_not_normalised_over_its_frames(config, options):
    with pytest.raises(UserError, match="egemaps is one vector .* norm_vars: false"):
        arguments(CONF / f"{config}.yaml", *options)


def test_units_cannot_be_aligned_to_a_single_frame():
    with pytest.raises(UserError, match="aux_conf.pr: encoder parallel gives one frame"):
        arguments(CONF / "train_s8_parallel.yaml", "--aux_conf", "pr={type: ctc, weight: 0.1}")


def test_two_directions_of_an_odd_size_are_refused():
    with pytest.raises(UserError, match="pooling_conf.bidirectional: found true .* size 3"):
        LastPooling(3, bidirectional=True)


def test_every_network_on_features_is_among_those_tested_here():
    configs = {path.stem.removeprefix("train_"): load_config(path) for path in CONF.glob("train_*")}
    trained = {name for name, conf in configs.items() if conf["feats_type"] != "raw"}
    assert trained - {name for name in configs if "fit" in configs[name]} == {*SYSTEMS, *SEEN}
