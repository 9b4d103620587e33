"""Batches of similar lengths: what is in them, and that they change."""

import numpy as np
import pytest

from ser.errors import UserError
from ser.training.batches import JitteredSampler
from tests.support.training import same, train, weights, write_system

LENGTHS = {f"u{i}": 100 + 10 * i for i in range(11)}


def test_every_utterance_is_in_one_batch_of_the_right_size():
    sampler = JitteredSampler(LENGTHS, 4, 0.3)
    for epoch in range(5):
        batches = sampler.generate(epoch)
        assert sorted(map(len, batches)) == [5, 6]  # 11 in batches of 4: two, and the rest
        assert sorted(utt for batch in batches for utt in batch) == sorted(LENGTHS)
    assert len(sampler) == 2
    assert [len(batch) for batch in JitteredSampler(LENGTHS, 100, 0.3).generate(1)] == [11]


def test_without_jitter_neighbours_in_length_are_together_and_stay():
    sampler = JitteredSampler(LENGTHS, 5, 0.0)
    first, second = sampler.generate(1)
    assert first == tuple(f"u{i}" for i in range(6))
    assert sampler.generate(2) == [first, second]


def test_with_jitter_batches_change_with_the_seed_and_only_with_it():
    lengths = {f"u{i}": int(n) for i, n in enumerate(np.linspace(16000, 64000, 400))}
    sampler = JitteredSampler(lengths, 4, 0.02)
    one, again, other = (sampler.generate(seed) for seed in (1, 1, 2))
    assert one == again != other
    # five standard deviations at most between the shortest and the longest of a batch, and the
    # little that separates neighbours
    for batch in one:
        values = [lengths[utt] for utt in batch]
        assert max(values) / min(values) < np.exp(10 * 0.02) * 1.05


def test_processes_share_each_batch():
    parts = [JitteredSampler(LENGTHS, 4, 0.1, (rank, 2)).generate(3) for rank in (0, 1)]
    whole = JitteredSampler(LENGTHS, 4, 0.1).generate(3)
    for one, other, both in zip(*parts, whole, strict=True):
        assert one == both[::2] and other == both[1::2]


def test_training_with_jitter_repeats_itself_and_is_another_than_without(corpus, trained, tmp_path):
    config = write_system(tmp_path / "jittered.yaml", length_jitter=0.5)
    for run in ("one", "two"):
        train(corpus, tmp_path / run, config=config)
    runs = (tmp_path / "one", tmp_path / "two", trained)
    one, two, plain = (weights(run / "Ses01F", "3epoch.pth") for run in runs)
    assert same(one, two)
    assert not same(one, plain)


@pytest.mark.parametrize("option", [{"length_jitter": -0.1}, {"batch_type": "unsorted"}])
def test_jitter_that_cannot_be_is_refused_before_training(corpus, tmp_path, option):
    config = write_system(tmp_path / "bad.yaml", **{"length_jitter": 0.1, **option})
    with pytest.raises(UserError, match=r"length_jitter: found .* needs batch_type: sorted"):
        train(corpus, tmp_path / "exp", config=config)
