"""Workload of every system: IEMOCAP-like durations, in the batches that each system makes."""

import math

import numpy as np

UTTERANCES = 5531  # of IEMOCAP's four classes
MEAN, SHORTEST, LONGEST = 4.55, 0.6, 34.1  # seconds
SPREAD = 0.7  # standard deviation of the logarithm
SAMPLE_RATE = 16000

# An epoch trains on eight of ten speakers and validates on one, with a forward pass only.
TRAINED, VALIDATED = 0.8, 0.1
FORWARD = 1 / 3  # of the cost of a training step
EPOCHS = 10 * 100  # folds x epochs

Batch = tuple[float, ...]  # seconds of each utterance


def durations(seed: int = 0) -> np.ndarray:
    """Durations of 5,531 utterances in s: log-normal, mean 4.55 s, clipped to 0.6 and 34.1 s."""
    rng = np.random.default_rng(seed)
    drawn = rng.lognormal(math.log(MEAN) - SPREAD**2 / 2, SPREAD, UTTERANCES)
    for _ in range(3):  # clipping changes the mean
        drawn = np.clip(drawn * MEAN / drawn.mean(), SHORTEST, LONGEST)
    return drawn


def random_batches(seconds: np.ndarray, size: int, seed: int = 1) -> list[Batch]:
    """Make an epoch of batches of ``size`` utterances in random order, dropping a remainder."""
    order = np.random.default_rng(seed).permutation(len(seconds))
    return _cut(seconds[order], size)


def sorted_batches(seconds: np.ndarray, size: int) -> list[Batch]:
    """Make an epoch of batches of ``size`` utterances of similar length."""
    return _cut(np.sort(seconds), size)


def batches_by_seconds(seconds: np.ndarray, limit: float) -> list[Batch]:
    """Make an epoch of batches of similar length, each of up to ``limit`` seconds with padding.

    Like ESPnet's ``batch_type: numel``: a batch ends with the utterance that exceeds the limit.
    """
    batches, batch = [], []
    for value in np.sort(seconds):
        batch.append(value)
        if len(batch) * value > limit:
            batches.append(tuple(batch))
            batch = []
    return [*batches, tuple(batch)] if batch else batches


def experiment_seconds(rate: float) -> float:
    """Seconds of ten folds of 100 epochs, with validation, at ``rate`` audio seconds per second."""
    return EPOCHS * durations().sum() * (TRAINED + FORWARD * VALIDATED) / rate


def _cut(seconds: np.ndarray, size: int) -> list[Batch]:
    return [tuple(row) for row in seconds[: len(seconds) // size * size].reshape(-1, size)]


def padding_share(batches: list[Batch]) -> float:
    """Share of padding in the samples of padded batches."""
    padded = sum(len(batch) * max(batch) for batch in batches)
    return 1.0 - sum(map(sum, batches)) / padded


def representative(batches: list[Batch], count: int, seed: int) -> list[Batch]:
    """Choose ``count`` batches, the best of 2,000 random draws, that represent the epoch.

    Every round of a measurement has its own ``seed`` and batches, since training hardly sees a
    length twice: kernels are compiled when a length first occurs.

    Compared are the means over batches of audio, of padded audio, and of the squared length of the
    longest utterance, the cost of attention.
    """

    def means(indices: np.ndarray) -> np.ndarray:
        chosen = [batches[i] for i in indices]
        rows = [(sum(b), len(b) * max(b), len(b) * max(b) ** 2) for b in chosen]
        return np.mean(rows, axis=0)

    rng = np.random.default_rng(seed)
    whole = means(np.arange(len(batches)))
    draws = [rng.choice(len(batches), count, replace=False) for _ in range(2000)]
    best = min(draws, key=lambda draw: np.abs(np.log(means(draw) / whole)).sum())
    return [batches[i] for i in best]
