"""The two branches of S8: attention and differences by hand, and no trace of padding."""

import numpy as np
import pytest
import torch

from ser.errors import UserError
from ser.models.parallel import DimensionAttention, ParallelEncoder, differences
from tests.support.frontends import frames_of, seeded


def test_every_dimension_has_a_distribution_of_its_own_over_time():
    attention = seeded(lambda: DimensionAttention(3))
    frames = frames_of([4], 3)
    x = frames[0].numpy()
    w1, b1 = (p.detach().numpy() for p in (attention.hidden.weight, attention.hidden.bias))
    w2, b2 = (p.detach().numpy() for p in (attention.score.weight, attention.score.bias))
    scores = np.exp(np.maximum(x @ w1.T + b1, 0) @ w2.T + b2)
    expected = 4 * scores / scores.sum(axis=0) * x
    found = attention(frames, torch.tensor([4]))[0].detach()
    assert np.allclose(found, expected, atol=1e-6)
    with torch.no_grad():
        attention.score.weight.zero_()
    assert torch.allclose(attention(frames, torch.tensor([4])), frames)


def test_differences_are_taken_between_real_frames():
    frames = torch.tensor([[[1.0], [3.0], [8.0], [0.0]], [[2.0], [9.0], [9.0], [9.0]]])
    found = differences(frames, torch.tensor([3, 1]))
    assert found[0].flatten().tolist() == [1.0, 3.5, 2.5, 0.0]
    assert found[1].flatten().tolist() == [0.0, 0.0, 0.0, 0.0]


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="encoder_conf.lld_size: found 12"):
        ParallelEncoder(12, lld_size=12)
    with pytest.raises(UserError, match="encoder_conf.channels: found 6"):
        ParallelEncoder(12, lld_size=4, channels=(6,))
