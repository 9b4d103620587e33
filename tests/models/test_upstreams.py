"""S11: several encoders fused, ECAPA-TDNN, attentive statistics; and weights from a file."""

import json

import numpy as np
import pytest
import torch
import yaml

from ser.errors import UserError
from ser.models.masks import frame_mask
from ser.models.ssl import HFFrontend
from ser.models.upstreams import (
    AttentiveStatisticsPooling,
    EcapaEncoder,
    UpstreamsFrontend,
    interpolate,
)
from ser.models.weights import start_from
from ser.training.optim import parameter_groups
from tests.support.systems import CONF, arguments, system
from tests.support.tiny import ENCODERS

CONFS = [
    {"init": "random", "model_type": kind, "config": config, "layers": "last"}
    for kind, config in (ENCODERS["wav2vec2-base-like"], ENCODERS["whisper"])
]


def seeded(make):
    torch.manual_seed(1)
    return make()


def test_frames_are_interpolated_between_the_nearest_two():
    frames = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 3.0, 9.0, 99.0, 99.0, 99.0]])
    found = interpolate(frames.unsqueeze(-1), torch.tensor([6, 3]), torch.tensor([4, 2]), 4)
    # frame t of 4 at 1.5 t + 0.25 of 6; frame t of 2 at 1.5 t + 0.25 of 3
    expected = [[0.25, 1.75, 3.25, 4.75], [0.75, 7.5]]
    assert torch.allclose(found[0, :, 0], torch.tensor(expected[0]))
    assert torch.allclose(found[1, :2, 0], torch.tensor(expected[1]))
    same = interpolate(frames.unsqueeze(-1), torch.tensor([6, 3]), torch.tensor([6, 3]), 6)
    assert torch.equal(same, frames.unsqueeze(-1))


def test_encoders_side_by_side_are_their_projected_frames():
    net = seeded(lambda: UpstreamsFrontend(CONFS, size=8)).eval()
    speech, lengths = torch.randn(2, 8000), torch.tensor([8000, 5000])
    fused, counts = net(speech, lengths)
    assert fused.shape == (2, 24, 16) == (2, 24, net.output_size())
    assert counts.tolist() == [24, 15]  # those of wav2vec 2.0; Whisper has 25 and 16
    alone, _ = net.upstreams[0](speech, lengths)
    expected = net.projections[0](alone)
    assert torch.allclose(fused[0, :, :8], expected[0], atol=1e-6)
    assert not fused[1, 15:].any()


def test_a_weighted_sum_of_two_equal_encoders_is_one_of_them():
    net = UpstreamsFrontend([CONFS[0], CONFS[0]], fusion="weighted_sum", size=None).eval()
    net.upstreams[1].load_state_dict(net.upstreams[0].state_dict())
    speech, lengths = torch.randn(1, 8000), torch.tensor([8000])
    alone, _ = net.upstreams[0](speech, lengths)
    assert torch.allclose(net(speech, lengths)[0], alone, atol=1e-6)
    assert net.output_size() == alone.size(-1)


def test_each_encoder_is_frozen_as_its_own_options_say():
    net = UpstreamsFrontend([{**CONFS[0], "freeze": "all", "unfreeze_after": 1}, CONFS[1]])
    trained = [any(p.requires_grad for p in u.encoder.parameters()) for u in net.upstreams]
    assert trained == [False, True]
    net.set_epoch(2)
    assert any(p.requires_grad for p in net.upstreams[0].encoder.parameters())


def test_layers_learn_at_the_rate_of_their_depth_in_their_own_encoder():
    shallow = {**CONFS[1], "config": {**CONFS[1]["config"], "encoder_layers": 1}}
    options = ["--frontend_conf", f"upstreams={json.dumps([CONFS[0], shallow])}"]
    net = system("s11_modular", *options, "--encoder_conf", "channels=16")
    groups = parameter_groups(net, 1.0, {"heads": 7.0, "fusion": 5.0, "layer_decay": 0.5})
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    first, second = net.frontend.upstreams
    assert [rate[id(layer.layer_norm.weight)] for layer in first.encoder.encoder.layers] == [
        0.25, 0.5, 1.0,
    ]  # fmt: skip
    assert rate[id(second.encoder.layers[0].fc1.weight)] == 1.0
    assert rate[id(second.encoder.conv1.weight)] == 0.5
    new = [*net.frontend.projections.parameters(), *net.encoder.parameters()]
    assert {rate[id(p)] for p in new} == {7.0}


def test_ecapa_has_the_parameters_of_its_description():
    block = 2 * (512 * 512 + 3 * 512) + 7 * (3 * 64 * 64 + 3 * 64) + (512 * 128 * 2 + 128 + 512)
    expected = (5 * 1536 * 512 + 3 * 512) + 3 * block + (3 * 512 * 1536 + 1536)
    assert sum(p.numel() for p in EcapaEncoder(1536).parameters()) == expected
    pooling = (3 * 1536 * 128 + 128) + (128 * 1536 + 1536) + 2 * 3072 + (3072 * 192 + 192)
    assert sum(p.numel() for p in AttentiveStatisticsPooling(1536).parameters()) == pooling


@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_nothing(training):
    net = seeded(lambda: EcapaEncoder(6, channels=8, scale=4, squeeze=3, output_size=10))
    pooling = AttentiveStatisticsPooling(10, size=4, embedding=5)
    frames, lengths = torch.randn(3, 9, 6), torch.tensor([9, 4, 1])
    padded = torch.nn.functional.pad(frames, (0, 0, 0, 20), value=float("nan"))
    padded[1, 4:], padded[2, 1:] = float("nan"), 5.0
    net.train(training)
    tight, loose = net(frames, lengths)[0], net(padded, lengths)[0]
    assert torch.allclose(tight, loose[:, :9], atol=1e-5)
    assert not loose[1, 4:].any()
    unknown = loose.masked_fill(~frame_mask(lengths, 29).unsqueeze(-1), float("nan"))
    assert torch.allclose(pooling(tight, lengths), pooling(unknown, lengths), atol=1e-5)
    assert not training or net.first.norm.num_batches_tracked == 2


def test_attentive_statistics_against_numpy():
    pooling = seeded(lambda: AttentiveStatisticsPooling(2, size=3)).double()
    frames, lengths = torch.randn(2, 5, 2).double(), [5, 3]
    found = pooling.statistics(frames, torch.tensor(lengths)).detach().numpy()
    (w1, b1), (w2, b2) = (
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in (pooling.hidden, pooling.score)
    )
    for row, length in enumerate(lengths):
        h = frames[row, :length].numpy()
        context = np.hstack([h, np.tile(h.mean(0), (length, 1)), np.tile(h.std(0), (length, 1))])
        e = np.exp(np.tanh(context @ w1.T + b1) @ w2.T + b2)
        a = e / e.sum(axis=0)
        m = (a * h).sum(axis=0)
        s = np.sqrt((a * h**2).sum(axis=0) - m**2)
        np.testing.assert_allclose(found[row], np.hstack([m, s]), atol=1e-9)


def test_the_statistics_of_one_frame_have_a_gradient():
    pooling = AttentiveStatisticsPooling(2, size=3)
    frame = torch.randn(1, 1, 2, requires_grad=True)
    pooling(frame, torch.tensor([1])).sum().backward()
    assert frame.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["upstreams=[]"], "frontend_conf.upstreams: no speech encoder given"),
        (["upstreams=facebook/hubert"], "frontend_conf.upstreams: found 'facebook/hubert'"),
        (["upstreams=[{modle: x}]"], "frontend_conf: HFFrontend has no option 'modle'"),
        (["upstreams=[{model: ./none}]"], "frontend_conf.model: ./none: no such folder"),
    ],
)
def test_unfit_encoders_are_refused_before_any_fold_is_trained(options, message):
    with pytest.raises(UserError, match=message):
        arguments(CONF / "train_s11_modular.yaml", "--frontend_conf", *options)


def test_a_linear_fit_needs_every_encoder_frozen(tmp_path):
    confs = [{**CONFS[0], "freeze": "all"}, CONFS[1]]
    content = {"frontend": "upstreams", "frontend_conf": {"upstreams": confs}, "fit": "linear_svm"}
    (tmp_path / "linear.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="frontend_conf.freeze: fit: linear_svm learns the emotion"):
        arguments(tmp_path / "linear.yaml")


def test_sizes_that_do_not_fit_are_named():
    other = {**CONFS[1], "config": {**CONFS[1]["config"], "d_model": 16}}
    with pytest.raises(UserError, match="frames of 32, 16 values cannot be summed"):
        UpstreamsFrontend([CONFS[0], other], fusion="weighted_sum", size=None)
    with pytest.raises(UserError, match="fusion: found 'sum'; choose concat or weighted_sum"):
        UpstreamsFrontend(CONFS, fusion="sum")
    with pytest.raises(UserError, match="channels: found 12; expected a multiple of scale, 8"):
        EcapaEncoder(4, channels=12)


def test_the_frames_of_frozen_encoders_are_kept(tmp_path):
    frozen = [{**conf, "freeze": "all"} for conf in CONFS]
    net = seeded(lambda: UpstreamsFrontend(frozen)).eval()
    speech, lengths = torch.randn(1, 8000), torch.tensor([8000])
    expected, _ = net(speech, lengths)
    net.keep_layers(tmp_path)
    net(speech, lengths)
    assert len(list(tmp_path.iterdir())) == 2
    assert all(isinstance(upstream, HFFrontend) for upstream in net.upstreams)
    assert torch.equal(net(speech, lengths)[0], expected)


def test_weights_come_from_a_file_whole_or_not_at_all(tmp_path):
    source, target = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    torch.save(source.state_dict(), tmp_path / "a.pth")
    start_from(target, str(tmp_path / "a.pth"))
    assert torch.equal(source.weight, target.weight)
    (tmp_path / "text.pth").write_text("no weights")
    for network, name, message in (
        (torch.nn.Linear(2, 4), "a.pth", r"weight: found \(3, 2\), expected \(4, 2\)"),
        (torch.nn.PReLU(), "a.pth", "weight: found"),
        (torch.nn.Sequential(target), "a.pth", "0.weight: found nothing"),
        (target, "text.pth", "not a file of weights"),
        (target, "b.pth", "no such file"),
    ):
        with pytest.raises(UserError, match=f"encoder_conf.weights: .*{message}"):
            start_from(network, str(tmp_path / name))
