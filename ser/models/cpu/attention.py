"""Attention on a CPU while training.

Where there is dropout, torch computes attention on a CPU step by step over padded batches, keeps
every step and draws a Bernoulli variable for each weight. Here each utterance is attended to over
its own frames, and of long ones only what the weights can be computed from is kept.

Where there is none, torch's fused kernel has a backward pass without the processor's products of
bfloat16 matrices: over 150 frames it takes a quarter of a training step. There the weights of short
utterances are written out.

In bfloat16 either way rounds the scores before the softmax, as attention by single operations under
autocast does; a fused kernel would not. For scores of standard deviation 1 the output is off by
less than 1%, for 9, which are large, by less than 2% (tests/models/test_switches.py).
"""

import ser.models.transformers_import  # noqa: F401, I001 (has to come first)

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ser.models.cpu.dropout import draw_seed, keep, keep_mask, keep_scale

NAME = "ser"  # among transformers' implementations of attention
# On recent GPUs torch would prefer cuDNN's attention, which prepares a plan, for tens of
# milliseconds or more, for every new size and length of a batch; here most batches bring one.
torch.backends.cuda.enable_cudnn_sdp(False)
# Weights of utterances up to so many frames are kept for the backward pass; of longer ones, where
# they are most of the memory, they are computed again.
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
    """``attention`` as transformers calls it; scaled_dot_product_attention where that is quicker.

    ``attention_mask`` is None or (B, 1, T, T) booleans that hide the padding behind each
    utterance. Without dropout, and on a GPU, torch has fused kernels.
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
    """Softmax attention step by step in the precision of its input, (B, H, T, D) -> (B, T, H, D).

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
    """One utterance, (H, T, D) three times -> (T, H, D)."""

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
        # What the softmax takes off, the weighted mean of the gradient over the keys, is the
        # product of output and gradient.
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
