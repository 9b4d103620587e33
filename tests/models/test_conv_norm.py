"""Convolution, batch norm, ReLU and pooling in one, against one after the other."""

import copy

import pytest
import torch

from ser.models.cpu import conv_norm as module
from ser.models.encoders import ConvLayer
from ser.models.resnet import ResNet

LENGTHS = torch.tensor([21, 14, 7])


@pytest.fixture(autouse=True)
def few_rows_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(module, "ROWS", 50)
    monkeypatch.setattr(module, "VALUES", 4 * 21 * 13)


def one_after_the_other(monkeypatch) -> None:
    for name in ("encoders", "resnet"):
        monkeypatch.setattr(f"ser.models.{name}.quick", lambda maps: False)


def spread(network: torch.nn.Module) -> torch.nn.Module:
    """With scales of either sign, and statistics far from where they begin."""
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
    return network


def batch(channels: int, dtype: torch.dtype = torch.double) -> torch.Tensor:
    maps = torch.randn(len(LENGTHS), channels, int(LENGTHS.max()), 13, dtype=dtype) + 3.0
    for one, length in zip(maps, LENGTHS, strict=True):
        one[:, length:] = 0.0
    return maps.requires_grad_()


def outputs(network: torch.nn.Module, maps: torch.Tensor) -> dict[str, torch.Tensor]:
    """Maps, gradients and statistics after two steps."""
    network = copy.deepcopy(network)
    found = {}
    for step in range(2):
        out, lengths = network(maps, LENGTHS)
        weights = torch.linspace(-1.0, 1.0, out.numel(), dtype=out.dtype).view(out.shape)
        wanted = {"maps": maps, **dict(network.named_parameters())}
        gradients = torch.autograd.grad((out * weights).sum(), list(wanted.values()))
        found |= {f"gradient of {n}": g for n, g in zip(wanted, gradients, strict=True)}
        found |= {f"step {step}": out.detach(), "lengths": lengths}
    return found | dict(network.named_buffers())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("channels", "kernel", "pool"),
    [
        (3, (3, 3), (2, 2)),
        (1, (5, 5), (2, 2)),
        (3, (2, 5), (2, 2)),
        (3, (4, 3), (1, 2)),
        (2, (3, 2), (3, 1)),
        (2, (3, 3), (1, 1)),
    ],
)
def test_a_layer_is_the_same_to_rounding(channels, kernel, pool, training, monkeypatch):
    torch.manual_seed(0)
    layer = spread(ConvLayer(channels, 6, kernel, pool, "batch").double()).train(training)
    maps = batch(channels)
    found = outputs(layer, maps)
    one_after_the_other(monkeypatch)
    torch.testing.assert_close(found, outputs(layer, maps))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("depth", "picture"), [(18, False), (50, True)])
def test_so_is_a_residual_network(depth, picture, training, monkeypatch):
    torch.manual_seed(0)
    network = spread(ResNet(2, depth, 2, picture).double()).train(training)
    maps = batch(2)
    found = outputs(network, maps)
    one_after_the_other(monkeypatch)
    torch.testing.assert_close(found, outputs(network, maps))


def test_in_bfloat16_it_is_as_far_from_float32_as_autocast_is_without_it(monkeypatch):
    torch.manual_seed(0)
    layer, maps = spread(ConvLayer(3, 32, (3, 3), (2, 2), "batch")), batch(3, torch.float)
    exact = outputs(layer, maps)

    def apart() -> dict[str, float]:
        with torch.autocast("cpu", torch.bfloat16):
            mixed = outputs(layer, maps)
        return {
            n: ((mixed[n] - v).float().norm() / v.float().norm()).item() for n, v in exact.items()
        }

    found = apart()
    one_after_the_other(monkeypatch)
    for name, plain in apart().items():
        assert found[name] <= 1.2 * plain + 1e-4, name


def test_nothing_of_a_step_stays_with_the_statistics():
    layer = ConvLayer(2, 4, (3, 3), (2, 2), "batch")
    layer(batch(2, torch.float), LENGTHS)
    assert layer.norm.num_batches_tracked == 1
    assert not layer.norm.running_mean.requires_grad
    assert not layer.norm.running_var.requires_grad


@pytest.mark.parametrize("relu", [True, False])
def test_the_gradient_that_comes_in_stays_as_it_is(relu):
    """It may be that of a shortcut as well."""
    layer = ConvLayer(2, 4, (3, 3), norm="batch")
    lengths = LENGTHS.tolist()
    maps = batch(2, torch.float)
    out = module.conv_norm(maps, lengths, layer.conv, layer.norm, (1, 1), relu=relu)
    gradient = torch.randn_like(out)
    kept = gradient.clone()
    out.backward(gradient)
    assert torch.equal(gradient, kept)
