"""Interface of a system under test."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.workload import SAMPLE_RATE, Batch

EMOTIONS = 4
UNITS = 25  # 24 emotion-tagged classes and the blank
UNITS_PER_SECOND = 10  # spoken phonemes
# Differences from the defaults of transformers, as in the published model's config.json, except
# for its masks, which not every system would sample the same way.
MODEL = {
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.1,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}


@dataclass
class System:
    """A training step and its batches.

    Attributes:
        name: Name in the table.
        epoch: All batches of an epoch, from which those of a round are sampled.
        count: Batches per round on a CPU.
        step: Takes ``make_batch``'s dictionary; accumulates gradients.
        update: One step of the optimiser; zeroes the gradients.
        accumulate: Batches per update.
        infer: If inference is measured: (B, L) samples, (B,) lengths -> anything.
        notes: Description of the system for the results.
        warm_up: Whether a round is run twice and the second one counts, which uses caches filled
            by the first.
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
    """Make noise and random targets for utterances of these durations, zero-padded.

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
    """wav2vec2-base with dropout, but without pre-training's masking and LayerDrop."""
    from transformers import Wav2Vec2Config

    return Wav2Vec2Config(**MODEL)
