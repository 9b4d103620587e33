"""S18: the speaker network, its weights from another training, and learning speakers alone."""

import pytest
import torch

from ser.errors import UserError
from ser.models.resnet import XVectorEncoder
from ser.training.task import SERTask
from tests.support.systems import CONF, arguments, system

SMALL = {"depth": 18, "width": 4, "embedding": 6}


def test_the_maps_halve_three_times_and_their_statistics_are_embedded():
    net = XVectorEncoder(80, depth=34, width=32).eval()
    maps, lengths = net.network(torch.zeros(2, 1, 41, 80), torch.tensor([41, 9]))
    assert maps.shape == (2, 256, 6, 10) and lengths.tolist() == [6, 2]
    assert net.embed.in_features == 2 * 256 * 10
    frames, ones, _ = net(torch.randn(2, 41, 80), torch.tensor([41, 9]))
    assert frames.shape == (2, 1, 256) and ones.tolist() == [1, 1]


@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_nothing(training):
    torch.manual_seed(0)
    net = XVectorEncoder(20, **SMALL).train(training)
    frames, lengths = torch.randn(3, 30, 20), torch.tensor([30, 13, 1])
    padded = torch.nn.functional.pad(frames, (0, 0, 0, 9), value=float("nan"))
    padded[1, 13:], padded[2, 1:] = 7.0, float("nan")
    assert torch.allclose(net(frames, lengths)[0], net(padded, lengths)[0], atol=1e-5)


def test_the_network_of_a_speaker_training_is_taken_over_and_its_heads_are_not(tmp_path):
    options = ["--encoder_conf", "depth=18", "--encoder_conf", "width=4"]
    path = tmp_path / "train.loss.best.pth"
    trained = system("s18_xvector", *options)
    torch.manual_seed(5)
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter)
    torch.save(trained.state_dict(), path)
    options += ["--encoder_conf", f"weights={path}"]
    net = system("s18_xvector", *options)
    for name, value in net.encoder.state_dict().items():
        assert torch.equal(value, trained.encoder.state_dict()[name])
    assert not torch.equal(net.emotion_head.weight, trained.emotion_head.weight)
    frozen = system("s18_xvector", *options, "--encoder_conf", "freeze=true").train()
    assert [n for n, p in frozen.named_parameters() if p.requires_grad] == [
        "emotion_head.weight",
        "emotion_head.bias",
    ]
    assert not any(module.training for module in frozen.encoder.modules())
    with pytest.raises(UserError, match=r"encoder.network.conv1.weight: found \(4, 1, 3, 3\)"):
        arguments(CONF / "train_s18_xvector.yaml", "--encoder_conf", f"weights={path}")


def test_with_emotion_weight_zero_speakers_alone_are_learnt():
    args = ["--encoder_conf", "depth=18", "--encoder_conf", "width=4"]
    torch.manual_seed(0)
    net = SERTask.build_model(arguments(CONF / "pretrain_s18_speaker.yaml", *args)).train()
    loss, stats, _ = net(
        torch.randn(2, 20, 80),
        torch.tensor([20, 20]),
        torch.tensor([[0], [1]]),
        speaker_label=torch.tensor([[0], [1]]),
    )
    loss.backward()
    assert loss == stats["loss_speaker"] != stats["loss_er"]
    assert not net.emotion_head.weight.grad.any()
    assert net.encoder.embed.weight.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoder_conf", "freeze=true"], "encoder_conf.weights: not given, and freeze"),
        (["--encoder_conf", "weights=none.pth"], "encoder_conf.weights: none.pth: no such file"),
        (["--encoder_conf", "depth=35"], "encoder_conf.depth: found 35; choose one of 18, 34"),
        (["--model_conf", "emotion_weight=-1"], "emotion_weight: -1; give a number of 0 or more"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(UserError, match=message):
        system("s18_xvector", *options)
