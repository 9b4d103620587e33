"""Dropout and attention against torch's own, with the masks written out."""

import numpy as np
import pytest
import torch

from ser.models.cpu import attention as attention_module
from ser.models.cpu.attention import attention
from ser.models.cpu.dropout import CHUNK, Dropout, keep, keep_mask, keep_scale, replace_dropout
from tests.support.frontends import build, padded_batch


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_each_element_is_dropped_with_probability_p_and_independently(p):
    mask = keep_mask(1_000_003, p, seed=1).astype(float)
    error = (p * (1 - p) / mask.size) ** 0.5
    assert abs(mask.mean() - (1 - p)) < 5 * error
    for lag in (1, 2, 3, 4, CHUNK):  # four elements share a number of 64 bits
        both = (mask[lag:] * mask[:-lag]).mean()
        assert abs(both - (1 - p) ** 2) < 10 * error, lag
    assert abs(mask[: CHUNK // 2].mean() - mask[CHUNK // 2 :].mean()) < 20 * error


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_kept_elements_are_scaled_and_gradients_take_the_same_mask(dtype):
    x = torch.rand(7, 50_000, dtype=dtype).add(0.5).requires_grad_()
    y = Dropout(0.1)(x)
    y.backward(torch.ones_like(y))
    kept = y != 0
    scale = torch.tensor(65536 / (65536 - 6554), dtype=torch.float64)  # 0.1 of 2^16 is 6553.6
    assert torch.equal(y, torch.where(kept, (x * scale.item()), 0.0))
    assert torch.equal(x.grad, torch.where(kept, torch.ones_like(x) * scale.item(), 0.0))
    assert y.double().mean().item() == pytest.approx(1.0, abs=0.01)


def test_the_seed_of_torch_decides_and_threads_do_not():
    x = torch.ones(3 * CHUNK + 5)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(5)
            results.append([Dropout(0.3)(x), Dropout(0.3)(x)])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[0][1])


def test_evaluation_and_probability_zero_leave_everything_as_it_is():
    x = torch.randn(10)
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(10))


def test_every_dropout_of_a_model_is_replaced_under_its_name():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.2))
    names = list(model.state_dict())
    replace_dropout(model)
    assert type(model[1]) is Dropout and model[1].p == 0.2
    assert list(model.state_dict()) == names


def reference(query, key, value, p, scale, seeds, lengths):
    """Attention written out in the order in which seeds are drawn, padding cut off."""
    rows = []
    for b, n in enumerate(lengths):
        q, k, v = query[b, :, :n], key[b, :, :n], value[b, :, :n]
        weights = torch.softmax(q @ k.transpose(1, 2) * scale, -1)
        mask = torch.from_numpy(keep_mask(weights.numel(), p, seeds[b])).view_as(weights)
        out = (weights * mask * keep_scale(p)) @ v
        rows.append(
            torch.nn.functional.pad(out.transpose(0, 1), (0, 0, 0, 0, 0, query.size(2) - n))
        )
    return torch.stack(rows)


@pytest.mark.parametrize("kept_frames", [600, 5])
def test_attention_and_its_gradients_are_those_of_the_formula(monkeypatch, kept_frames):
    monkeypatch.setattr(attention_module, "KEPT_FRAMES", kept_frames)
    seeds = iter([11, 12, 13])
    monkeypatch.setattr(attention_module, "draw_seed", lambda: next(seeds))
    torch.manual_seed(0)
    inputs = [torch.randn(3, 2, 9, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    lengths, direction = [9, 4, 7], torch.randn(3, 9, 2, 4, dtype=torch.float64)
    found = attention(*inputs, lengths, 0.25, 0.5)
    expected = reference(*inputs, 0.25, 0.5, [11, 12, 13], lengths)
    assert torch.allclose(found, expected, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad((found * direction).sum(), inputs),
        torch.autograd.grad((expected * direction).sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-12)


def test_written_out_attention_is_scaled_dot_product_attention():
    torch.manual_seed(0)
    inputs = [torch.randn(2, 2, 7, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    mask = (torch.arange(7) < torch.tensor([7, 3])[:, None])[:, None, None, :]
    for hidden in (None, mask):
        expected = torch.nn.functional.scaled_dot_product_attention(
            *inputs, attn_mask=hidden, scale=0.3
        ).transpose(1, 2)
        found = attention_module.written_out(*inputs, hidden, 0.3)
        assert torch.allclose(found, expected, atol=1e-12)
        for one, other in zip(
            torch.autograd.grad(found.sin().sum(), inputs),
            torch.autograd.grad(expected.sin().sum(), inputs),
            strict=True,
        ):
            assert torch.allclose(one, other, atol=1e-12)


def test_whisper_trains_in_bfloat16_on_written_out_attention(monkeypatch):
    calls = []
    written_out = attention_module.written_out
    monkeypatch.setattr(
        attention_module, "written_out", lambda *args: calls.append(1) or written_out(*args)
    )
    speech, lengths = padded_batch([16000, 4320])
    outputs = {}
    for fast in (True, False):
        frontend = build("whisper", fast=fast).train()
        with torch.autocast("cpu", torch.bfloat16):
            outputs[fast], frames = frontend(speech, lengths)
        if fast:
            assert len(calls) == frontend.num_layers
            frontend.eval()(speech, lengths)  # float32
    assert len(calls) == 3
    for b, n in enumerate(frames.tolist()):
        apart = (outputs[True][b, :n] - outputs[False][b, :n]).abs().max()
        assert apart <= 0.02 * outputs[False].abs().max()


def test_a_model_takes_this_attention_in_training_and_ignores_padding_there(monkeypatch):
    """With masks that keep everything, training differs from evaluation by nothing."""
    everything = lambda size, p, seed: np.ones(size, dtype=bool)  # noqa: E731
    monkeypatch.setattr("ser.models.cpu.dropout.keep_mask", everything)
    monkeypatch.setattr(attention_module, "keep_mask", everything)
    for name in ("ser.models.cpu.dropout", "ser.models.cpu.attention"):
        monkeypatch.setattr(f"{name}.keep_scale", lambda p: 1.0)
    frontend = build("wav2vec2-base-like")
    speech, lengths = padded_batch([16000, 4320])
    with torch.no_grad():
        expected, frames = frontend(speech, lengths)
        found, _ = frontend.train()(speech, lengths)
    for b, n in enumerate(frames.tolist()):
        assert torch.allclose(found[b, :n], expected[b, :n], atol=1e-5)


def test_clearing_works_on_bits_whatever_they_stand_for():
    values = torch.tensor([1.5, -2.0, float("inf"), 4.0])
    assert keep(values, np.array([True, False, False, True])).tolist() == [1.5, 0.0, 0.0, 4.0]
