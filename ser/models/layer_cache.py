"""Disk cache of a frozen encoder's outputs, shared by all epochs and folds."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ser.files import atomic_write

LEAST_FREE = 5_000_000_000  # bytes to leave free on the disk
DIGEST_SIZE = 16  # bytes; among 10^9 utterances a collision has probability 10^-21

Compute = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class FrameCache:
    """Feature cache with one file per utterance, named by a hash of its samples.

    Args:
        directory: Cache of one network, see ``fingerprint``. Any number of processes may use it
            at once; deleting it costs only time.
        dtype: Storage precision: float32, float16 or bfloat16.
    """

    def __init__(self, directory: Path, dtype: torch.dtype):
        self.directory, self.dtype = directory, dtype
        self.full = False

    def __call__(
        self,
        speech: torch.Tensor,
        lengths: torch.Tensor,
        compute: Compute,
        keys: Sequence[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output of ``compute`` for a batch, calling it only for new utterances.

        Args:
            speech: (B, L) samples.
            lengths: (B,) samples.
            compute: (B', L), (B',) -> (B', K, T, D) and true frame counts (B',) for a subset of
                the batch; the output for an utterance must not depend on the others.
            keys: ``digests`` of the batch, if already known.

        Returns:
            Zero-padded (B, K, T, D) in ``dtype``, and frame counts (B,).
        """
        keys = keys or digests(speech, lengths)
        outputs = [self._read(key) for key in keys]
        new = [i for i, output in enumerate(outputs) if output is None]
        if new:
            computed, frames = compute(speech[new], lengths[new])
            for i, output, count in zip(new, computed, frames.tolist(), strict=True):
                outputs[i] = output[:, :count].detach().to("cpu", self.dtype)
                self._write(keys[i], outputs[i])
        counts = [output.size(1) for output in outputs]
        shape = (len(outputs), outputs[0].size(0), max(counts), outputs[0].size(2))
        batch = torch.zeros(shape, dtype=self.dtype)
        for row, output, count in zip(batch, outputs, counts, strict=True):
            row[:, :count] = output
        return batch.to(speech.device, non_blocking=True), torch.tensor(counts)

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key[2:]}.npy"

    def _read(self, key: str) -> torch.Tensor | None:
        try:
            # not memory-mapped: the arrays of an epoch would stay mapped
            frames = torch.from_numpy(np.load(self._path(key)))
        except (OSError, ValueError, EOFError):  # missing or damaged: compute and write it again
            return None
        return frames.view(self.dtype)

    def _write(self, key: str, output: torch.Tensor) -> None:
        if self.full:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            disk = os.statvfs(path.parent)
            if disk.f_bavail * disk.f_frsize < LEAST_FREE + output.numel() * output.element_size():
                raise OSError(f"less than {LEAST_FREE / 1e9:.0f} GB would be left on the disk")
            with atomic_write(path, "wb") as stream:
                # NumPy has no bfloat16
                np.save(stream, output.contiguous().view(_INTEGERS[self.dtype]).numpy())
        except FileNotFoundError:
            pass  # the folder was deleted, which is allowed at any time
        except OSError as err:
            self.full = True
            logging.warning(f"{self.directory}: {err}; the rest is computed every time")


_INTEGERS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def fingerprint(module: torch.nn.Module, *facts: object) -> str:
    """Hash of what ``module`` computes: of its weights and of ``facts`` about their use."""
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=DIGEST_SIZE)
    for name, value in module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def digests(speech: torch.Tensor, lengths: torch.Tensor) -> list[str]:
    """Hash the samples of each utterance: (B, L), (B,) -> B hex digests."""
    rows = zip(speech.detach().cpu(), lengths.tolist(), strict=True)
    data = [wave[:n].contiguous().numpy() for wave, n in rows]
    return [hashlib.blake2b(each, digest_size=DIGEST_SIZE).hexdigest() for each in data]
