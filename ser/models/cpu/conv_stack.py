"""The convolutions of wav2vec 2.0-like encoders as matrix products over real samples only.

PyTorch keeps Conv1d features as (B, C, T) and rearranges them around every product. Here frames
are rows, (N, C), and the utterances of a batch are concatenated into one long signal, so that no
padding is computed. Each starts at a multiple of the total stride S (320 samples), so that every
layer of stride s maps N rows to exactly N / s. A kernel of k taps is ceil(k / s) products on views
of s rows at a time, each product shifted by one group. The last rows of an utterance see the start
of the next one; no real frame depends on them, and they are cut off at the end. So is the silence
after the last utterance: total lengths are rounded up to a few values, since oneDNN recompiles a
product for every new number of rows.
"""

import math
import os

import torch
import torch.nn.functional as F

# Frames (1.3 s): more would waste computation, fewer would leave more different lengths.
FILLED_TO = 64
# By default oneDNN keeps 1,024 compiled kernels, enough for a dozen batches. It reads the variable
# when it compiles the first one.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "2048")


def conv_features(
    extractor: torch.nn.Module, speech: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Compute the features of each utterance as a transformers feature extractor does it alone.

    Args:
        extractor: ``feature_extractor`` of a wav2vec 2.0, HuBERT, WavLM or data2vec model, with
            either kind of norm (``feat_extract_norm: group`` or ``layer``). A group norm has one
            channel per group, as in all of them.
        speech: (B, L) samples; anything beyond ``lengths`` is ignored.
        lengths: (B,) samples.

    Returns:
        Zero-padded frames (B, T, C), equal to the extractor's output up to rounding: 1e-5 of its
        range in float32, 2e-2 in bfloat16.
        Gradients reach the parameters, not ``speech``.
    """
    layers = extractor.conv_layers
    strides = [layer.conv.stride[0] for layer in layers]
    total_stride = math.prod(strides)
    samples = lengths.tolist()
    slots = [math.ceil(n / total_stride) for n in samples]  # frames' worth of samples
    first_frames, frames = _frames(layers[:1], samples), _frames(layers, samples)
    filled = -sum(slots) % FILLED_TO
    signal = torch.cat(
        [
            F.pad(wave[:n], (0, slot * total_stride - n))
            for wave, n, slot in zip(speech.detach(), samples, slots, strict=True)
        ]
        + [speech.new_zeros(filled * total_stride)]
    )
    dtype = _product_dtype(signal)
    rows = [slot * total_stride // strides[0] for slot in (*slots, filled)]
    hidden = _first_layer(layers[0], signal, rows, first_frames, dtype)
    for layer in layers[1:]:
        kernel, bias = _kernel(layer.conv, dtype)
        hidden = _ActivatedConv.apply(hidden, kernel, bias, layer.conv.stride[0], layer.activation)
        norm = getattr(layer, "layer_norm", None)
        if norm is not None:
            hidden = norm(hidden).to(dtype)
    hidden = layers[-1].activation(hidden)
    *utterances, _ = hidden.split([*slots, filled])
    real = [one[:n] for one, n in zip(utterances, frames, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(real, batch_first=True)


def _frames(layers, samples: list[int]) -> list[int]:
    """Numbers of frames after ``layers`` for these numbers of samples."""
    for layer in layers:
        (kernel,), (stride,) = layer.conv.kernel_size, layer.conv.stride
        samples = [max((n - kernel) // stride + 1, 0) for n in samples]
    return samples


def _product_dtype(signal: torch.Tensor) -> torch.dtype:
    device = signal.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else signal.dtype


def _kernel(conv: torch.nn.Conv1d, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weights (C_out, C_in, k) as (C_out, k C_in), tap by tap, and the bias."""
    taps = conv.weight.to(dtype).transpose(1, 2).flatten(1)
    return taps, None if conv.bias is None else conv.bias.to(dtype)


def _first_layer(
    layer: torch.nn.Module,
    signal: torch.Tensor,
    rows: list[int],
    frames: list[int],
    dtype: torch.dtype,
) -> torch.Tensor:
    """The first convolution and its norm, before the activation: (S,) samples -> (sum rows, C).

    A channel of a convolution over samples is linear in windows of k samples, so its mean and
    variance over an utterance follow from those of the windows, a vector and a (k, k) matrix:
    the group norm is folded into the kernel of each utterance and costs no pass over the frames.
    """
    (kernel,), (stride,) = layer.conv.kernel_size, layer.conv.stride
    windows = F.pad(signal, (0, max(kernel - stride, 0))).unfold(0, kernel, stride)  # (N, k)
    weight, bias = layer.conv.weight.squeeze(1), layer.conv.bias  # (C, k), (C,)
    norm = getattr(layer, "layer_norm", None)
    if isinstance(norm, torch.nn.GroupNorm):
        *utterances, silence = windows.split(rows)
        with torch.autocast(signal.device.type, enabled=False):
            kernels = [
                _normalised_kernel(weight, bias, norm, utterance[: max(count, 1)])
                for utterance, count in zip(utterances, frames, strict=True)
            ]
        outputs = [
            _window_product(utterance, scaled, shift, dtype)
            for utterance, (scaled, shift) in zip(utterances, kernels, strict=True)
        ]
        return torch.cat([*outputs, outputs[0].new_zeros(len(silence), outputs[0].size(1))])
    hidden = _window_product(windows, weight, bias, dtype)
    return hidden if norm is None else norm(hidden).to(dtype)


def _window_product(
    windows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    bias = None if bias is None else bias.to(dtype)
    return F.linear(windows.to(dtype).contiguous(), weight.to(dtype), bias)


def _normalised_kernel(
    weight: torch.Tensor, bias: torch.Tensor | None, norm: torch.nn.GroupNorm, windows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Kernel (C, k) and shift (C,) that convolve and normalise windows (T, k) in one step.

    In float64: windows of speech are nearly parallel, and a kernel that takes differences leaves
    little of their variance.
    """
    windows, kernel = windows.double(), weight.double()
    centre = windows.mean(0)  # (k,)
    centred = windows - centre
    covariance = centred.T @ centred / len(windows)  # (k, k)
    mean = kernel @ centre
    if bias is not None:
        mean = mean + bias
    variance = ((kernel @ covariance) * kernel).sum(1)
    scale = norm.weight * (variance.clamp(min=0.0) + norm.eps).rsqrt()
    offset = -mean if bias is None else bias - mean
    return (scale[:, None] * kernel).to(weight.dtype), (norm.bias + scale * offset).to(weight.dtype)


class _ActivatedConv(torch.autograd.Function):
    """An activation and the convolution after it, on rows: (N, C_in) -> (N / s, C_out).

    Only the input is saved; the activation is recomputed in the backward pass.
    """

    @staticmethod
    def forward(ctx, hidden, kernel, bias, stride, activation):
        ctx.save_for_backward(hidden, kernel)
        ctx.stride, ctx.activation, ctx.has_bias = stride, activation, bias is not None
        groups = _groups(activation(hidden), stride)
        output = None
        for shift, taps in _blocks(kernel, hidden.size(1), stride):
            inputs = groups[shift:, : taps.size(1)]
            if output is None:
                output = F.linear(inputs, taps, bias)
            else:
                output[: len(inputs)].addmm_(inputs, taps.T)
        return output

    @staticmethod
    def backward(ctx, grad_output):
        hidden, kernel = ctx.saved_tensors
        with torch.enable_grad():
            leaf = hidden.detach().requires_grad_()
            activated = ctx.activation(leaf)
        groups = _groups(activated.detach(), ctx.stride)
        grad_groups = None
        # a product that reads rows along the frames is fastest when they are contiguous
        transposed = grad_output.T.contiguous() if ctx.needs_input_grad[1] else None
        grad_taps = []
        for shift, taps in _blocks(kernel, hidden.size(1), ctx.stride):
            count, width = len(groups) - shift, taps.size(1)
            if ctx.needs_input_grad[0]:
                if grad_groups is None and width == groups.size(1):
                    grad_groups = grad_output @ taps
                else:
                    grad_groups = torch.zeros_like(groups) if grad_groups is None else grad_groups
                    grad_groups[shift:, :width].addmm_(grad_output[:count], taps)
            if transposed is not None:
                grad_taps.append(transposed[:, :count] @ groups[shift:, :width])
        grad_hidden = None
        if grad_groups is not None:
            (grad_hidden,) = torch.autograd.grad(activated, leaf, grad_groups.view_as(leaf))
        grad_kernel = torch.cat(grad_taps, 1) if grad_taps else None
        grad_bias = grad_output.sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return grad_hidden, grad_kernel, grad_bias, None, None


def _groups(hidden: torch.Tensor, stride: int) -> torch.Tensor:
    """(N, C) -> (N / s, s C), the same memory."""
    return hidden.reshape(len(hidden) // stride, stride * hidden.size(1))


def _blocks(kernel: torch.Tensor, channels: int, stride: int) -> list[tuple[int, torch.Tensor]]:
    """Split the taps of a kernel (C_out, k C_in) into groups of s, each with its group offset."""
    return list(enumerate(kernel.split(stride * channels, dim=1)))
