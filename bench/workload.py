"""What every system trains on: durations like IEMOCAP's, in the batches that each system makes."""

import math

import numpy as np

UTTERANCES = 5531  # of IEMOCAP's four classes
MEAN, SHORTEST, LONGEST = 4.55, 0.6, 34.1  # seconds
SPREAD = 0.7  # standard deviation of the logarithm
SAMPLE_RATE = 16000

# An epoch trains on eight of ten speakers; one validates, which is a forward pass.
TRAINED, VALIDATED = 0.8, 0.1
FORWARD = 1 / 3  # of the work of a training step
EPOCHS = 10 * 100  # folds x epochs

Batch = tuple[float, ...]  # seconds of each utterance


def durations(seed: int = 0) -> np.ndarray:
    """Seconds of 5,531 utterances: log-normal with a mean of 4.55 s, cut at 0.6 s and 34.1 s."""
    rng = np.random.default_rng(seed)
    drawn = rng.lognormal(math.log(MEAN) - SPREAD**2 / 2, SPREAD, UTTERANCES)
    for _ in range(3):  # the cuts move the mean
        drawn = np.clip(drawn * MEAN / drawn.mean(), SHORTEST, LONGEST)
    return drawn


def random_batches(seconds: np.ndarray, size: int, seed: int = 1) -> list[Batch]:
    """An epoch of ``size`` utterances at a time in random order; a remainder is left out."""
    order = np.random.default_rng(seed).permutation(len(seconds))
    return _cut(seconds[order], size)


def sorted_batches(seconds: np.ndarray, size: int) -> list[Batch]:
    """An epoch of ``size`` utterances of similar length at a time."""
    return _cut(np.sort(seconds), size)


def batches_by_seconds(seconds: np.ndarray, limit: float) -> list[Batch]:
    """An epoch of batches of similar length, each as large as a padded ``limit`` of seconds allows.

    As ESPnet's ``batch_type: numel`` cuts them: a batch ends with what exceeds the limit.
    """
    batches, batch = [], []
    for value in np.sort(seconds):
        batch.append(value)
        if len(batch) * value > limit:
            batches.append(tuple(batch))
            batch = []
    return [*batches, tuple(batch)] if batch else batches


def experiment_seconds(rate: float) -> float:
    """Ten folds of a hundred epochs at ``rate`` audio seconds a second, validation included."""
    return EPOCHS * durations().sum() * (TRAINED + FORWARD * VALIDATED) / rate


def _cut(seconds: np.ndarray, size: int) -> list[Batch]:
    return [tuple(row) for row in seconds[: len(seconds) // size * size].reshape(-1, size)]


def padding_share(batches: list[Batch]) -> float:
    """Which part of the samples in padded batches is padding."""
    padded = sum(len(batch) * max(batch) for batch in batches)
    return 1.0 - sum(map(sum, batches)) / padded


def representative(batches: list[Batch], count: int, seed: int) -> list[Batch]:
    """The ``count`` batches, of 2,000 draws, that are most like the epoch they are drawn from.

    Every round of a measurement has a ``seed`` and so batches of its own, as a training hardly sees
    a length twice: kernels are prepared for a length when it first comes.

    Alike are the means over batches of audio, of padded audio, and of the square of the longest
    utterance, which attention takes.
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
