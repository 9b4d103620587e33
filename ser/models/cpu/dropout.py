"""Dropout with cheap random numbers on a CPU.

torch draws a Bernoulli variable for each element in 6 ns; in the transformer of wav2vec 2.0 that
is a tenth of a training step. Here every call draws one seed from torch's generator, so that
``torch.manual_seed`` and the random state of a checkpoint still determine everything, and
generates its mask with SFC64, 16 bits per element: 1 ns including its application. The probability
is the multiple of 2^-16 nearest to p, and kept values are scaled accordingly. On a GPU torch's own
dropout is used.
"""

import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

CHUNK = 1 << 18  # elements per generator, regardless of the number of threads
LEVELS = 1 << 16  # values of a 16-bit number
# Multiplying the bits of a number by 0 or 1 is faster than converting the mask.
BITS = {2: np.int16, 4: np.int32, 8: np.int64}


class Dropout(torch.nn.Dropout):
    """torch.nn.Dropout with cheap random numbers on a CPU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Any shape; in training each element becomes 0 with probability p, or is scaled."""
        if not self.training or not 0.0 < self.p < 1.0 or input.device.type != "cpu":
            return super().forward(input)
        return _Dropout.apply(input, self.p)


def replace_dropout(module: torch.nn.Module) -> None:
    """Replace every torch.nn.Dropout within ``module`` by Dropout."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(parent, name, Dropout(child.p))


def keep_scale(p: float) -> float:
    """1 / (1 - p) for the p that 16 bits can express."""
    return LEVELS / (LEVELS - round(p * LEVELS))


def keep_mask(size: int, p: float, seed: int) -> np.ndarray:
    """(size,) booleans, False with probability p; the same for the same seed."""
    threshold = round(p * LEVELS) - LEVELS // 2  # among signed numbers
    mask = np.empty(size, dtype=bool)

    def fill(start: int) -> None:
        part = mask[start : start + CHUNK]
        source = np.random.Generator(np.random.SFC64([seed, start]))
        words = source.integers(0, 1 << 64, dtype=np.uint64, size=-(-len(part) // 4))
        np.greater_equal(words.view(np.int16)[: len(part)], threshold, out=part)

    _for_each(fill, range(0, size, CHUNK))
    return mask


def keep(values: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
    """Set elements of a contiguous tensor to 0 where ``mask`` is False, in place."""
    flat = values.view(-1).view(getattr(torch, BITS[values.element_size()].__name__)).numpy()

    def clear(start: int) -> None:
        part = flat[start : start + CHUNK]
        np.multiply(part, mask[start : start + CHUNK], out=part)

    _for_each(clear, range(0, len(flat), CHUNK))
    return values


def draw_seed() -> int:
    """A seed from torch's generator."""
    return int(torch.randint(1 << 62, ()))


def _for_each(work: Callable[[int], None], items: Iterable[int]) -> None:
    """Call ``work`` for all items, in as many threads as torch uses."""
    items, threads = list(items), torch.get_num_threads()
    if threads == 1 or len(items) == 1:
        for item in items:
            work(item)
    else:
        list(_pool(threads).map(work, items))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, p):
        ctx.scale, ctx.mask = keep_scale(p), keep_mask(input.numel(), p, draw_seed())
        return keep(input.detach().contiguous() * ctx.scale, ctx.mask)

    @staticmethod
    def backward(ctx, grad_output):
        return keep(grad_output.contiguous() * ctx.scale, ctx.mask), None
