"""What a system under test is to the bench."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.workload import SAMPLE_RATE, Batch

EMOTIONS = 4
UNITS = 25  # 24 emotion-tagged classes and the blank
UNITS_PER_SECOND = 10  # spoken phonemes
# What differs from the defaults of transformers, as in the published model's config.json; but
# its masks are left out, which not every system would draw alike.
MODEL = {
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.1,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}


@dataclass
class System:
    """A training step and the batches it is given.

    Attributes:
        name: For the table.
        epoch: All batches of an epoch, from which those of a round are drawn.
        count: Batches of a round on a CPU.
        step: Takes ``make_batch``'s dictionary; adds to the gradients.
        update: One step of the optimiser, and zeroed gradients.
        accumulate: Batches to an update.
        infer: Where it is measured: (B, L) samples, (B,) lengths -> anything.
        notes: What the system is, for the results.
        warm_up: Whether a round is done twice, and the second time counts: what is kept of the
            first is used.
    """

    name: str
    epoch: list[Batch]
    count: int
    step: Callable[[dict[str, torch.Tensor]], None]
    update: Callable[[], None]
    accumulate: int
    notes: str
    infer: Callable[[torch.Tensor, torch.Tensor], object] | None = None
    warm_up: bool = False


def make_batch(seconds: Batch, device: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Noise and random targets for utterances of these durations, padded with zeros.

    Returns:
        ``speech`` (B, L), ``speech_lengths`` (B,), ``emotion`` (B, 1), ``text`` (B, U) of units
        from 1 and -1 as padding, ``text_lengths`` (B,).
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = [int(s * SAMPLE_RATE) for s in seconds]
    speech = torch.zeros(len(seconds), max(lengths))
    counts = [max(1, int(s * UNITS_PER_SECOND)) for s in seconds]
    text = torch.full((len(seconds), max(counts)), -1)
    for i, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        speech[i, :length] = 0.1 * torch.randn(length, generator=generator)
        text[i, :count] = torch.randint(1, UNITS, (count,), generator=generator)
    batch = {
        "speech": speech,
        "speech_lengths": torch.tensor(lengths),
        "emotion": torch.randint(0, EMOTIONS, (len(seconds), 1), generator=generator),
        "text": text,
        "text_lengths": torch.tensor(counts),
    }
    return {key: value.to(device) for key, value in batch.items()}


def wav2vec2_config():
    """wav2vec2-base with its dropout, without the masks and dropped layers of pre-training."""
    from transformers import Wav2Vec2Config

    return Wav2Vec2Config(**MODEL)
