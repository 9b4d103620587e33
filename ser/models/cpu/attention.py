"""Attention for training on a CPU.

With dropout, torch computes attention on a CPU unfused over padded batches, saves every
intermediate and draws a Bernoulli variable for each weight. Here each utterance attends to its own
frames only, and the weights of long ones are recomputed in the backward pass.

Without dropout, the backward pass of torch's fused kernel does not use the processor's bfloat16
matrix products: over 150 frames it takes a quarter of a training step. Here attention of short
utterances is computed unfused instead.

In bfloat16 both round the scores before the softmax, as unfused attention under autocast does; a
fused kernel would not. The output is off by less than 1% for scores of standard deviation 1, and
by less than 2% for 9, which is large (tests/models/test_switches.py).
"""

import ser.models.transformers_import  # noqa: F401, I001 (has to come first)

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ser.models.cpu.dropout import draw_seed, keep, keep_mask, keep_scale

NAME = "ser"  # as registered with transformers
# On recent GPUs torch would prefer cuDNN's attention, which takes tens of milliseconds or more to
# plan for every new batch size and length; here most batches have a new one.
torch.backends.cuda.enable_cudnn_sdp(False)
# Attention weights of utterances up to this many frames are saved for the backward pass; for longer
# ones, where they take most of the memory, they are recomputed.
KEPT_FRAMES = 600


def transformers_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options,
) -> tuple[torch.Tensor, None]:
    """``attention`` with transformers' interface, or scaled_dot_product_attention if faster.

    ``attention_mask`` is None or (B, 1, T, T) booleans that mask the padding of each utterance.
    Without dropout, and on a GPU, torch has fused kernels.
    """
    slow = query.dtype == torch.bfloat16 and query.requires_grad and query.device.type == "cpu"
    if dropout == 0.0 and slow and key.size(2) <= KEPT_FRAMES:
        scale = query.size(-1) ** -0.5 if scaling is None else scaling
        return written_out(query, key, value, attention_mask, scale), None
    if dropout == 0.0 or query.device.type != "cpu":
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
    frames = key.size(2)
    if attention_mask is None:
        lengths = [frames] * len(query)
    else:
        lengths = attention_mask[:, 0, 0].sum(-1).tolist()
    scale = query.size(-1) ** -0.5 if scaling is None else scaling
    return attention(query, key, value, lengths, dropout, scale), None


AttentionInterface.register(NAME, transformers_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def written_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Unfused softmax attention in the precision of its input, (B, H, T, D) -> (B, T, H, D).

    ``mask`` is None or broadcasts to (B, H, T, T), True where a frame is attended to.
    """
    with torch.autocast(query.device.type, enabled=False):
        scores = (query * scale) @ key.transpose(2, 3)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return (scores.softmax(-1) @ value).transpose(1, 2).contiguous()


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    p: float,
    scale: float,
) -> torch.Tensor:
    """Softmax attention with dropout on its weights, each utterance over its own frames.

    Args:
        query, key, value: (B, H, T, D), on a CPU.
        lengths: True frames of each utterance; nothing beyond them is computed or attended to.
        p: Dropout, above 0 and below 1.
        scale: Of the scores, 1 / sqrt(D).

    Returns:
        (B, T, H, D), zeros beyond the lengths.
    """
    rows = [
        F.pad(
            _Attention.apply(q[:, :n], k[:, :n], v[:, :n], p, scale), (0, 0, 0, 0, 0, q.size(1) - n)
        )
        for q, k, v, n in zip(query, key, value, lengths, strict=True)
    ]
    return torch.stack(rows)


class _Attention(torch.autograd.Function):
    """Attention of one utterance: query, key and value (H, T, D) -> (T, H, D)."""

    @staticmethod
    def forward(ctx, query, key, value, p, scale):
        ctx.p, ctx.scale, ctx.seed = p, scale, draw_seed()
        with torch.autocast(query.device.type, enabled=False):
            weights, mask = _weights(query, key, p, scale, ctx.seed)
            output = torch.bmm(keep(weights.clone(), mask), value).mul_(keep_scale(p))
        ctx.kept = (weights, mask) if query.size(1) <= KEPT_FRAMES else None
        ctx.save_for_backward(query, key, value, output)
        return output.transpose(0, 1).contiguous()

    @staticmethod
    def backward(ctx, grad_output):
        query, key, value, output = ctx.saved_tensors
        weights, mask = ctx.kept or _weights(query, key, ctx.p, ctx.scale, ctx.seed)
        grad = grad_output.transpose(0, 1)  # (H, T, D)
        # The weighted mean of the gradient over the keys, which the softmax backward subtracts,
        # is the product of output and gradient.
        wide = torch.promote_types(grad.dtype, torch.float32)
        mean = (grad.to(wide) * output).sum(-1, keepdim=True).to(grad.dtype)
        grad = grad * keep_scale(ctx.p)
        grad_value = torch.bmm(keep(weights.clone(), mask).transpose(1, 2), grad)
        grad_scores = keep(torch.bmm(grad, value.transpose(1, 2)), mask)  # (H, T, T)
        grad_scores = grad_scores.sub_(mean).mul_(weights)
        grad_query = torch.bmm(grad_scores, key).mul_(ctx.scale)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), query).mul_(ctx.scale)
        return grad_query, grad_key, grad_value, None, None


def _weights(
    query: torch.Tensor, key: torch.Tensor, p: float, scale: float, seed: int
) -> tuple[torch.Tensor, np.ndarray]:
    """Attention weights (H, T, T) and which of them dropout keeps."""
    weights = torch.bmm(query * scale, key.transpose(1, 2)).softmax(-1)
    return weights, keep_mask(weights.numel(), p, seed)
