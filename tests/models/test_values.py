"""Heads of values: CCC by hand, by NumPy and by autograd; what is kept with the model."""

import numpy as np
import pytest
import torch

from ser.errors import UserError
from ser.models.concordance import MOMENTS, concordance
from ser.models.heads import Encoded, ValueHead, aux_heads, read_heads
from ser.predict.package import build_network_model
from tests.support.heads import model
from tests.support.packable import UNITS, make_network, said


def ccc(x, y) -> float:
    x, y = np.asarray(x), np.asarray(y)
    cov = ((x - x.mean()) * (y - y.mean())).mean()
    return 2 * cov / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def identity_head(**options) -> ValueHead:
    """Gives what the pooled vector (B, 1) holds times 2 plus 3."""
    head = ValueHead(1, 1, [3.0, 2.0], **options)
    with torch.no_grad():
        head.linear.weight.fill_(1.0)
        head.linear.bias.zero_()
    return head


def pooled(values) -> Encoded:
    values = torch.as_tensor(values).view(-1, 1)
    return Encoded(torch.zeros(len(values), 1, 1), torch.ones(len(values)), values)


def told(head: ValueHead, values, target):
    """Loss and statistics where the head says ``values`` of the table's units."""
    vectors = (torch.tensor(values, dtype=head.std.dtype) - 3) / 2
    return head(pooled(vectors), torch.tensor(target, dtype=head.std.dtype)[:, None])


def test_ccc_is_that_of_the_hand_worked_example():
    # x 1 2 3, y 2 2 5: means 2 and 3, variances 2/3 and 2, covariance 1: 2 / (2/3 + 2 + 1)
    above, below = concordance(3, 6, 9, 14, 33, 21)
    assert above / below == pytest.approx(6 / 11)
    head = identity_head()
    assert head.infer(pooled([-0.5, -0.5, 1.0])).tolist() == [2, 2, 5]
    loss, stats = told(head, [2.0, 2.0, 5.0], [1.0, 2.0, 3.0])
    assert loss.item() == pytest.approx(1 - 6 / 11)
    assert stats["skipped"] == 0
    loss, _ = told(identity_head(loss="mse"), [2.0, 2.0, 5.0], [1.0, 2.0, 3.0])
    assert loss.item() == pytest.approx((1 + 0 + 4) / 3 / 4)  # of z-scores, whose unit is 2


def test_moments_of_batches_give_the_ccc_of_all_utterances_as_numpy_has_it():
    generator = np.random.default_rng(0)
    ref, hyp = generator.uniform(1, 5, 12), generator.uniform(1, 5, 12)
    ref[[2, 9]] = np.nan
    parts = (slice(0, 4), slice(4, 12))
    stats = [(told(identity_head(), hyp[part], ref[part])[1], len(ref[part])) for part in parts]
    mean = {key: sum(s[key].item() * n for s, n in stats) / 12 for key in (*MOMENTS, "skipped")}
    above, below = concordance(1 - mean["skipped"], *(mean[key] for key in MOMENTS))
    known = np.isfinite(ref)
    assert above / below == pytest.approx(ccc(ref[known], hyp[known]), abs=1e-5)


@pytest.mark.parametrize("loss", ["ccc", "mse"])
def test_gradients_are_those_of_finite_differences_and_unknown_values_have_none(loss):
    head = identity_head(loss=loss).double()
    vectors = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[2.0], [torch.nan], [4.5], [1.0], [3.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: head(pooled(v), target)[0], (vectors,))
    whole, _ = head(pooled(vectors), target)
    whole.backward()
    assert vectors.grad[1] == 0 and (vectors.grad[[0, 2, 3, 4]] != 0).all()
    kept = [0, 2, 3, 4]
    alone, _ = head(pooled(vectors[kept]), target[kept])
    assert whole.item() == pytest.approx(alone.item() * 4 / 5)


@pytest.mark.parametrize("target", [[torch.nan, torch.nan], [2.0, torch.nan]])
def test_a_batch_that_tells_too_little_has_a_finite_loss_and_no_gradient(target):
    head = identity_head()
    loss, _ = told(head, [1.0, 4.0], target)
    loss.backward()
    assert loss.item() == pytest.approx(np.isfinite(target).mean())
    assert head.linear.weight.grad.item() == head.linear.bias.grad.item() == 0


def test_padding_and_neighbours_do_not_change_a_value():
    net = model({"valence": ValueHead(3, 3, [3.0, 2.0])}, {"valence": 1.0}).eval()
    speech = torch.randn(3, 6, 3)
    lengths = torch.tensor([6, 2, 4])
    together = net.infer(speech, lengths)["aux"]["valence"]
    for i, length in enumerate(lengths):
        alone = net.infer(speech[i : i + 1, :length], lengths[i : i + 1])["aux"]["valence"]
        assert together[i].item() == pytest.approx(alone.item(), abs=1e-6)


def test_mean_and_deviation_are_kept_with_the_weights():
    conf = {"v": {"type": "value", "weight": 1.0, "range": [1, 5]}}
    trained = build_network_model(make_network(aux_conf=conf), UNITS, {"v": [2.5, 0.25]}).eval()
    loaded = build_network_model(make_network(aux_conf=conf), UNITS, {}).eval()
    loaded.load_state_dict(trained.state_dict())
    assert (loaded.aux_heads["v"].mean, loaded.aux_heads["v"].std) == (2.5, 0.25)
    assert torch.equal(said(loaded)["v"], said(trained)["v"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mae"}, "aux_conf.v.loss: 'mae'; choose ccc or mse"),
        ({"range": [5, 1]}, r"aux_conf.v.range: \[5, 1\]; give the least and the largest"),
        ({"range": 5}, "aux_conf.v.range: 5; give"),
        ({"table": ""}, "aux_conf.v.table: ''"),
        ({"gradient_reversal": 1}, "aux_conf.v.gradient_reversal: .* no such option; it takes"),
    ],
)
def test_unfit_options_are_refused(options, message):
    assert "value" in aux_heads()
    with pytest.raises(UserError, match=message):
        read_heads({"v": {"type": "value", "weight": 1.0, **options}})
