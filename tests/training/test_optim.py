"""Learning rates by part of the model, against factors worked out by hand."""

from argparse import Namespace

import pytest
import torch

from ser.errors import UserError
from ser.models.ssl import HFFrontend
from ser.training.optim import lr_factor, parameter_groups
from ser.training.task import SERTask
from tests.support.tiny import ENCODERS

CONF = {"heads": 20.0, "fusion": 100.0, "layer_decay": 0.5}


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("emotion_head.weight", 20.0),
        ("aux_heads.pr.linear.bias", 20.0),
        ("aux_heads.gender.linear.weight", 20.0),
        ("frontend.fusion.scalars", 100.0),
        ("frontend.encoder.encoder.layers.2.attention.k_proj.weight", 1.0),  # the top of three
        ("frontend.encoder.encoder.layers.0.attention.k_proj.weight", 0.25),
        ("frontend.encoder.layers.1.fc1.weight", 0.5),  # Whisper
        ("frontend.encoder.layer_norm.weight", 1.0),  # after Whisper's layers
        ("frontend.encoder.encoder.layer_norm.weight", 0.125),  # before wav2vec 2.0's
        ("frontend.encoder.feature_projection.projection.weight", 0.125),
        ("frontend.encoder.conv1.weight", 0.125),
    ],
)
def test_each_part_has_its_factor(name, factor):
    assert lr_factor(name, 3, CONF) == pytest.approx(factor)


class Model(torch.nn.Module):
    def __init__(self, encoder: str):
        super().__init__()
        model_type, config = ENCODERS[encoder]
        self.frontend = HFFrontend(init="random", model_type=model_type, config=config)
        self.emotion_head = torch.nn.Linear(32, 4)


@pytest.mark.parametrize("encoder", ["wav2vec2-base-like", "whisper"])
def test_every_parameter_is_in_one_group_with_its_rate(encoder):
    model = Model(encoder)
    args = Namespace(optim="adamw", optim_conf={"lr": 0.1, "weight_decay": 0.01}, lr_conf=CONF)
    (optimizer,) = SERTask.build_optimizers(args, model)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in optimizer.param_groups)
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.1 * lr_factor(name, 3, CONF)), name
    found = sorted(group["lr"] for group in optimizer.param_groups)
    assert found == pytest.approx([0.0125, 0.025, 0.05, 0.1, 2.0, 10.0])
    assert all(group["weight_decay"] == 0.01 for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"head": 2.0}, "lr_conf.head: unknown; choose from heads, fusion, layer_decay"),
        ({"heads": 0}, "lr_conf.heads: 0; give a number above 0"),
        ({"heads": "2"}, "lr_conf.heads: '2'; give a number"),
    ],
)
def test_wrong_factors_are_refused(conf, message):
    with pytest.raises(UserError, match=message):
        parameter_groups(Model("whisper"), 0.1, conf)
