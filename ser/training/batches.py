"""Batches of utterances of similar length, drawn anew in every epoch."""

from collections.abc import Mapping

import numpy as np
from torch.utils.data import Sampler


class JitteredSampler(Sampler):
    """Batches of a fixed number of utterances, sorted by randomly perturbed length.

    ESPnet's ``sorted`` batches hold the same utterances in every epoch. Here each length is
    multiplied by exp(jitter z), z standard normal, before utterances are sorted and split. On
    durations like IEMOCAP's, in batches of four, a jitter of 0.02 pads 2% instead of 0.2%, and in
    30 epochs an utterance meets 71 others instead of three (python -m bench.jitter prints this).
    It is registered as an ESPnet sampler in task.py, so that the bench does not need ESPnet.

    Args:
        lengths: Samples or frames of each utterance.
        batch_size: Utterances per batch; a remainder makes some batches larger by one.
        jitter: 0.0 or more.
        shard: (rank, world size) in distributed training; each process takes its part of every
            batch.
    """

    def __init__(
        self,
        lengths: Mapping[str, int],
        batch_size: int,
        jitter: float,
        shard: tuple[int, int] = (0, 1),
    ):
        self.utterances = sorted(lengths)
        self.lengths = np.array([lengths[utt] for utt in self.utterances], dtype=np.float64)
        self.num_batches = max(len(self.utterances) // batch_size, 1)
        self.jitter, self.shard = jitter, shard

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self):
        return iter(self.generate(0))

    def generate(self, seed: int) -> list[tuple[str, ...]]:
        """Batches of an epoch, in order of length; deterministic given ``seed``."""
        rng = np.random.default_rng(seed)
        order = np.argsort(
            self.lengths * np.exp(self.jitter * rng.standard_normal(len(self.lengths))),
            kind="stable",
        )
        rank, world_size = self.shard
        return [
            tuple(self.utterances[i] for i in batch[rank::world_size])
            for batch in np.array_split(order, self.num_batches)
        ]
