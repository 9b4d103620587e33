"""Fuse the layers of a speech encoder into one sequence of frames."""

from collections.abc import Sequence

import torch

from ser.errors import UserError


class WeightedSum(torch.nn.Module):
    """Softmax-weighted sum of layers with trainable scalars (eq. 4 of Li et al., 2024).

    H_X = a_0 H_l + sum_{i=1..N} a_i H_{h,i},  a = softmax(s),  s initialised to 0.

    ``H_l`` are the low-level features that enter the transformer and ``H_{h,i}`` the output
    of its layer i, so ``num_inputs`` is N + 1 (13 for wav2vec 2.0 base).
    """

    def __init__(self, num_inputs: int):
        super().__init__()
        self.scalars = torch.nn.Parameter(torch.zeros(num_inputs))

    def weights(self) -> torch.Tensor:
        """The softmax weights a_0 .. a_N, (N + 1,)."""
        return torch.softmax(self.scalars.float(), dim=0)

    def forward(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        """N + 1 tensors (B, T, D) -> (B, T, D), summed in float32 or wider."""
        if len(layers) != len(self.scalars):
            raise ValueError(f"{len(layers)} layers for {len(self.scalars)} weights")
        return _Sum.apply(self.weights(), *layers)


class _Sum(torch.autograd.Function):
    """sum_i a_i H_i as one autograd node; plain operations would save every product."""

    @staticmethod
    def forward(ctx, weights, *layers):
        ctx.save_for_backward(*layers)
        # floats on the CPU; on a GPU tensors, to avoid a synchronisation
        on_cpu = weights.device.type == "cpu"
        ctx.weights, ctx.weights_dtype = weights.tolist() if on_cpu else weights, weights.dtype
        dtype = torch.promote_types(weights.dtype, layers[0].dtype)
        fused = torch.zeros_like(layers[0], dtype=dtype)
        for weight, layer in zip(ctx.weights, layers, strict=True):
            if on_cpu:
                fused.add_(layer, alpha=weight)
            else:
                fused.addcmul_(layer, weight)
        return fused

    @staticmethod
    def backward(ctx, grad):
        layers = ctx.saved_tensors
        grad_weights = None
        if ctx.needs_input_grad[0]:
            flat = grad.flatten()
            products = [torch.dot(flat, layer.flatten().to(grad.dtype)) for layer in layers]
            grad_weights = torch.stack(products).to(ctx.weights_dtype)
        grad_layers = [
            (grad * weight).to(layer.dtype) if needed else None
            for weight, layer, needed in zip(
                ctx.weights, layers, ctx.needs_input_grad[1:], strict=True
            )
        ]
        return grad_weights, *grad_layers


def numbers_of_layers(layers: str | int | list[int], low_level: bool, count: int) -> list[int]:
    """Resolve ``frontend_conf.layers`` to numbers of the ``count`` layers; 0 is H_l.

    Raises:
        UserError: ``layers`` is invalid, or names a layer that does not exist.
    """
    if layers in ("weighted_sum", "concat"):
        return list(range(0 if low_level else 1, count + 1))
    if layers == "last":
        return [count]
    if isinstance(layers, list) and layers and all(n in range(count + 1) for n in layers):
        return layers
    if layers in range(1, count + 1):
        return [layers]
    raise UserError(
        f"frontend_conf.layers: {layers!r}; choose weighted_sum, concat, last, a layer from 1 to "
        f"{count}, or a list of layers from 0 to {count}"
    )
