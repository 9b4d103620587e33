"""Batching of utterances: reading, sorting by length, padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ser.data.audio import FULL_SCALE
from ser.data.features import compute_features
from ser.errors import UserError

if TYPE_CHECKING:
    import torch


def make_batches(lengths: Mapping[str, int], max_samples: float) -> list[list[str]]:
    """Group utterances of similar length to limit padding and bound memory.

    The longest come first, so that running out of memory shows within seconds. The padded size
    of a batch (its longest utterance times its count) stays within ``max_samples``, except for
    a single utterance that is longer by itself.
    """
    batches: list[list[str]] = []
    longest = 0
    for utt_id in sorted(lengths, key=lambda u: (-lengths[u], u)):
        if batches and longest * (len(batches[-1]) + 1) <= max_samples:
            batches[-1].append(utt_id)
        else:
            batches.append([utt_id])
            longest = lengths[utt_id]
    return batches


def load_input(entry: str, feats_type: str = "raw") -> np.ndarray:
    """Load one utterance as float32: samples in [-1, 1) of shape (L,), or features (T, D).

    Args:
        entry: the utterance's value in wav.scp or feats.scp.
        feats_type: ``raw`` for waveforms.
    """
    import kaldiio

    loaded = kaldiio.load_mat(entry)
    # kaldiio returns (rate, samples) for a WAV file, (samples, rate) for an ark of sound files.
    parts = loaded if isinstance(loaded, tuple) else (loaded,)
    array = next(part for part in parts if isinstance(part, np.ndarray))
    if feats_type != "raw":
        return array.astype(np.float32)
    if array.dtype != np.int16 or array.ndim != 1:
        raise UserError(
            f"{entry}: expected 16-bit samples of one channel, found {array.dtype} "
            f"{array.shape}; run stage 3 again: ./run.sh --stage 3 --stop-stage 3"
        )
    return array.astype(np.float32) / np.float32(FULL_SCALE)


def to_input(samples: np.ndarray, feats_type: str = "raw", *more: str) -> np.ndarray:
    """Convert (L,) int16 samples to model input: (L,) in [-1, 1) or (T, F) features.

    ``more`` is a line of utt2video for ``audio_video``.
    """
    if feats_type == "raw":
        return samples.astype(np.float32) / np.float32(FULL_SCALE)
    return compute_features(feats_type, samples, *more)


def pad(arrays: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Zero-pad and stack inputs of different lengths: (B, L) or (B, T, D), and lengths (B,)."""
    import torch

    tensors = [torch.from_numpy(array) for array in arrays]
    lengths = torch.tensor([len(array) for array in arrays])
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True), lengths
