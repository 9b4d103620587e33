"""Outputs of a frozen encoder on disk, so that it runs once and not in every epoch and fold."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ser.files import atomic_write

LEAST_FREE = 5_000_000_000  # bytes of the disk that are left to others
DIGEST_SIZE = 16  # bytes; two of 10^9 utterances share a key with a probability of 10^-21

Compute = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class FrameCache:
    """Frames of utterances, each in a file that is named after the utterance's samples.

    Args:
        directory: Of one network, see ``fingerprint``. Any number of processes may use it at
            once; deleting it costs only time.
        dtype: What frames are kept in: float32, float16 or bfloat16.
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
        """What ``compute`` gives for a batch, computed only for utterances that are new.

        Args:
            speech: (B, L) samples.
            lengths: (B,) samples.
            compute: (B', L), (B',) -> (B', K, T, D) and the true frames (B',), of some of the
                utterances; what it gives for one must not depend on the others.
            keys: ``digests`` of the batch, if they are known.

        Returns:
            (B, K, T, D) in ``dtype``, zeros beyond an utterance's frames, and those (B,).
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
            # copied at once: the arrays of an epoch would stay mapped
            frames = torch.from_numpy(np.load(self._path(key)))
        except (OSError, ValueError, EOFError):  # not there, or damaged: computed and written anew
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
            pass  # somebody deletes the folder, as they may at any time
        except OSError as err:
            self.full = True
            logging.warning(f"{self.directory}: {err}; the rest is computed every time")


_INTEGERS = {
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


def fingerprint(module: torch.nn.Module, *facts: object) -> str:
    """A name for what ``module`` computes: of its weights and of ``facts`` about their use."""
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=DIGEST_SIZE)
    for name, value in module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def digests(speech: torch.Tensor, lengths: torch.Tensor) -> list[str]:
    """Names of utterances by their samples: (B, L), (B,) -> B of them."""
    rows = zip(speech.detach().cpu(), lengths.tolist(), strict=True)
    data = [wave[:n].contiguous().numpy() for wave, n in rows]
    return [hashlib.blake2b(each, digest_size=DIGEST_SIZE).hexdigest() for each in data]
