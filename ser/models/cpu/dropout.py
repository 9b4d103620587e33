"""Dropout whose random numbers cost little on a CPU.

torch draws a Bernoulli variable for each element at 6 ns; in the transformer of wav2vec 2.0 that
is a tenth of a training step. Here every call takes one seed from torch's generator, so that
``torch.manual_seed`` and the random state of a checkpoint still decide everything, and makes its
mask from the numbers of SFC64, 16 bits to an element: 1 ns with its application. The probability
is the multiple of 2^-16 nearest to p, and what is kept is scaled for exactly that one. On a GPU
torch's own dropout is used.
"""

import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

CHUNK = 1 << 18  # elements of one generator, whatever the number of threads
LEVELS = 1 << 16  # of a 16-bit number
# A product with 0 or 1 on the bits of a number is quicker than one that converts the mask.
BITS = {2: np.int16, 4: np.int32, 8: np.int64}


class Dropout(torch.nn.Dropout):
    """torch.nn.Dropout with cheap random numbers on a CPU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Any shape; in training each element becomes 0 with probability p, or is scaled."""
        if not self.training or not 0.0 < self.p < 1.0 or input.device.type != "cpu":
            return super().forward(input)
        return _Dropout.apply(input, self.p)


def replace_dropout(module: torch.nn.Module) -> None:
    """Put Dropout in the place of every torch.nn.Dropout within ``module``."""
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
    """Set the elements of a contiguous tensor to 0, in place, where ``mask`` is False."""
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
