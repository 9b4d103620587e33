"""Fused convolution, batch norm over real frames, ReLU and max pooling for a CPU.

Separately they make ten passes over maps that do not fit in cache, and PyTorch pools (B, C, T, F)
more slowly than it convolves. Here channels are innermost (``channels_last``), and few utterances
are convolved at a time, so that their maps are still cached for statistics and pooling. Neither
scaling by |gamma| nor ReLU changes which value is the largest: with the sign of gamma folded into
the filters, pooling comes first, and [2, 2] pooling leaves a quarter of the values to normalise.
"""

import math
from collections.abc import Sequence

import torch

VALUES = 1 << 19  # of maps per chunk; a single utterance may have more
ROWS = 4096  # summed at a time
_SHAPE = (1, -1, 1, 1)


def conv_norm(
    maps: torch.Tensor,
    lengths: Sequence[int],
    conv: torch.nn.Conv2d,
    norm: torch.nn.BatchNorm1d,
    padding: tuple[int, int],
    pool: tuple[int, int] = (1, 1),
    relu: bool = True,
) -> torch.Tensor:
    """(B, C, T, F) with zeros for padding -> (B, C', T', F') likewise, in ``channels_last``.

    Args:
        lengths: Real frames of each of B utterances after the convolution.
        conv: Without a bias; its own padding is ignored.
        norm: Its running statistics are updated in training, and used otherwise.
        padding: Zeros on each side of frames and bins.
        pool: Frames and bins; a remainder at the end makes one more.
        relu: Apply ReLU before the pooling; if False, there must be no pooling.
    """
    if torch.is_autocast_enabled("cpu"):
        maps = maps.to(torch.get_autocast_dtype("cpu"))
    stride = conv.stride
    if conv.kernel_size == (1, 1):  # oneDNN's strided gradient can crash, e.g. with 8 channels
        maps, stride = maps[:, :, :: stride[0], :: stride[1]], (1, 1)
    maps = _channels_last(maps)
    if not norm.training:
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        kernel = (conv.weight * scale.view(-1, 1, 1, 1)).to(maps)
        bias = (norm.bias - norm.running_mean * scale).to(maps)
        out = torch.conv2d(maps, _channels_last(kernel), bias, stride, padding)
        out = _fill(out, lengths, 0.0)
        return _pool(out.relu_() if relu else out, pool)[0]
    weights, sizes = (conv.weight, norm.weight, norm.bias), (stride, padding, pool)
    out, mean, variance, count = _ConvNorm.apply(maps, *weights, lengths, *sizes, relu, norm.eps)
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (count / max(count - 1, 1)), norm.momentum)
    return out


def quick(maps: torch.Tensor) -> bool:
    """Whether to use ``conv_norm`` for these maps: on a CPU, except when exporting."""
    return maps.device.type == "cpu" and not torch.compiler.is_exporting()


class _ConvNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, maps, weight, gamma, beta, lengths, stride, padding, pool, relu, eps):
        sign = torch.where(gamma < 0, -1.0, 1.0)
        kernel = _channels_last((weight * sign.view(-1, 1, 1, 1)).to(maps))
        pooled = [-(-n // pool[0]) for n in lengths]
        size = max(1, VALUES * math.prod(stride) // (len(gamma) * maps[0, 0].numel()))
        convolved, tops, indices, sums = [], [], [], _Moments()
        for few, real, left in zip(
            maps.split(size), *(_few(n, size) for n in (lengths, pooled)), strict=True
        ):
            values = torch.conv2d(few, kernel, None, stride, padding)
            sums.add(values, real)
            top, index = _pool(_fill(values, real, -torch.inf), pool)
            convolved.append(_fill(values, real, 0.0))
            tops.append(_fill(top, left, 0.0))
            indices.append(index)
        mean, variance = sums.result()
        deviation = (variance + eps).sqrt()
        scale = gamma.abs() / deviation
        shift = beta - scale * mean
        out = []
        for top in tops:
            value = torch.addcmul(shift.view(_SHAPE), top, scale.view(_SHAPE))
            out.append((value.clamp_(min=0.0) if relu else value).to(maps))
        out = _fill(torch.cat(out), pooled, 0.0)
        ctx.save_for_backward(maps, kernel, gamma, sign, mean, deviation, out)
        ctx.convolved, ctx.tops, ctx.indices, ctx.count = convolved, tops, indices, sums.count
        ctx.options = lengths, pooled, size, stride, padding, pool, relu
        mean = mean * sign
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance, sums.count

    @staticmethod
    def backward(ctx, grad_out, *_):
        maps, kernel, gamma, sign, mean, deviation, out = ctx.saved_tensors
        lengths, pooled, size, stride, padding, pool, relu = ctx.options
        # With z = gamma y^ + beta: d y = gamma / deviation (d z - mean d z - y^ mean (d z y^)).
        grad_out = _channels_last(grad_out)
        if relu:  # out is 0 for padding
            grad_top = torch.ops.aten.threshold_backward(grad_out, out, 0.0)
        else:
            grad_top = _fill(grad_out.clone(), pooled, 0.0)
        grads = grad_top.split(size)
        grad_beta = sum(_sum(grad) for grad in grads)
        products = sum(_sum(grad * top) for grad, top in zip(grads, ctx.tops, strict=True))
        grad_gamma = (products - mean * grad_beta) / deviation
        scale = gamma.abs() / deviation
        slope = -scale * grad_gamma / deviation / ctx.count
        offset = -scale * grad_beta / ctx.count - slope * mean
        scale, slope, offset = (x.view(_SHAPE) for x in (scale, slope, offset))
        grad_maps, grad_kernel = [], torch.zeros_like(kernel, dtype=gamma.dtype)
        wanted = [ctx.needs_input_grad[0], True, False]
        for few, real, values, grad, index in zip(
            maps.split(size), _few(lengths, size), ctx.convolved, grads, ctx.indices, strict=True
        ):
            grad = (grad * scale).to(maps)
            if index is not None:
                grad = torch.ops.aten.max_pool2d_with_indices_backward(
                    grad, values, pool, pool, 0, 1, True, index
                )
            grad = torch.addcmul(offset, values, slope).add_(grad).to(maps)
            grad = _fill(grad, real, 0.0)
            before, taps, _ = torch.ops.aten.convolution_backward(
                grad, few, kernel, None, stride, padding, [1, 1], False, [0, 0], 1, wanted
            )
            grad_maps.append(before)
            grad_kernel += taps
        grad_maps = torch.cat(grad_maps) if wanted[0] else None
        grad_kernel *= sign.view(-1, 1, 1, 1)
        return grad_maps, grad_kernel, sign * grad_gamma, grad_beta, *[None] * 6


class _Moments:
    """Channel means and variances, accumulated relative to the mean of the first rows."""

    def __init__(self):
        self.count, self.shift = 0, None

    def add(self, maps: torch.Tensor, lengths: Sequence[int]) -> None:
        """Add maps (B, C, T, F) with B numbers of real frames."""
        if min(lengths) == maps.size(2):
            self._add(maps)
            return
        for one, length in zip(maps.split(1), lengths, strict=True):
            self._add(one[:, :, :length])

    def _add(self, maps: torch.Tensor) -> None:
        rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
        if self.shift is None:
            self.shift = _wide(rows[:ROWS]).mean(0)
            self.sums = rows.new_zeros(2, rows.size(1), dtype=torch.float64)
        self.count += len(rows)
        for some in rows.split(ROWS):
            some = _wide(some) - self.shift
            self.sums[0] += some.sum(0)
            self.sums[1] += some.square_().sum(0)

    def result(self) -> tuple[torch.Tensor, torch.Tensor]:
        away, square = self.sums / self.count
        variance = (square - away.square()).clamp(min=0.0)
        return (self.shift + away).to(self.shift), variance.to(self.shift)


def _channels_last(maps: torch.Tensor) -> torch.Tensor:
    """Set channels-last strides explicitly: PyTorch treats one-channel maps as contiguous."""
    _, channels, height, width = maps.shape
    strides = (channels * height * width, 1, channels * width, channels)
    if maps.stride() == strides:
        return maps
    return torch.empty_strided(maps.shape, strides, dtype=maps.dtype).copy_(maps)


def _few(lengths: Sequence[int], size: int) -> list[Sequence[int]]:
    return [lengths[start : start + size] for start in range(0, len(lengths), size)]


def _fill(maps: torch.Tensor, lengths: Sequence[int], value: float) -> torch.Tensor:
    """Set the padding to ``value``, in place."""
    for i, length in enumerate(lengths):
        if length < maps.size(2):
            maps[i, :, length:] = value
    return maps


def _pool(maps: torch.Tensor, pool: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    if pool == (1, 1):
        return maps, None
    return torch.ops.aten.max_pool2d_with_indices(maps, pool, pool, 0, 1, True)


def _sum(maps: torch.Tensor) -> torch.Tensor:
    """(B, C, T, F) -> (C,)."""
    return _wide(maps.permute(0, 2, 3, 1).flatten(0, 2)).sum(0)


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
