"""Padding masks, and statistics over real frames only."""

import torch
import torch.nn.functional as F


def frame_mask(
    lengths: torch.Tensor, max_length: int, device: torch.device | None = None
) -> torch.Tensor:
    """Boolean mask (B, T), True where frame t < lengths[b]; T is ``max_length``.

    Args:
        device: Device of the mask; that of ``lengths`` if None.
    """
    lengths = beside(lengths, device or lengths.device)
    return torch.arange(max_length, device=lengths.device)[None, :] < lengths[:, None]


def beside(lengths: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy ``lengths``, which are kept on the CPU, to ``device`` without blocking."""
    return lengths.to(device, non_blocking=True)


def without_padding(frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Set the padding of (B, T) or (B, T, D) to zero, given ``lengths`` (B,)."""
    real = frame_mask(lengths, frames.size(1), frames.device)
    return frames.masked_fill(~(real if frames.dim() == 2 else real.unsqueeze(-1)), 0.0)


def masked_softmax(scores: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Softmax of each of R columns over the real frames: (B, T, R) -> (B, T, R)."""
    real = frame_mask(lengths, scores.size(1), scores.device).unsqueeze(-1)
    return scores.masked_fill(~real, -torch.inf).softmax(dim=1)


def normalize(speech: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance over each utterance's own samples (B, L); padding is zero."""
    count = beside(lengths, speech.device).unsqueeze(1)
    mean = without_padding(speech, lengths).sum(1, keepdim=True) / count
    centred = without_padding(speech - mean, lengths)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / (variance + 1e-7).sqrt()  # 1e-7 as in transformers' feature extractor


def none_padded(lengths: torch.Tensor, max_length: int) -> bool:
    """Whether all ``lengths`` (B,) are ``max_length``, as in an exported model."""
    return torch.compiler.is_exporting() or bool((lengths >= max_length).all())


def positions(mask: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Flat indices, on ``device``, of the True values in ``mask`` (B, T), which is on the CPU.

    On a GPU, their number would be known only after a synchronisation. All in an exported model.
    """
    if torch.compiler.is_exporting():
        return torch.arange(mask.numel())
    return beside(mask.flatten().nonzero().flatten(), device)


def attention_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """(B, T), True for real frames -> (B, 1, T, T), True = attend; None without padding."""
    return None if mask is None else mask[:, None, None, :].expand(-1, 1, mask.size(1), -1)


class MaskedGroupNorm(torch.nn.GroupNorm):
    """Group norm whose statistics exclude the padding of a batch.

    wav2vec 2.0 base (and HuBERT, WavLM base) normalises its first convolution over time. Plain
    group norm includes the zero padding in the statistics, so that an utterance's features
    depend on the length of the others in its batch. Here each utterance is normalised over its
    own frames, exactly as if it were alone; padded frames become zeros. The output has the
    precision of the input: CUDA's autocast would double the size of this largest activation.

    Set ``lengths`` ((B,) frame counts) before the call; None means no padding.
    """

    lengths: torch.Tensor | None = None

    @classmethod
    def from_group_norm(cls, norm: torch.nn.GroupNorm) -> "MaskedGroupNorm":
        """Create a drop-in replacement that shares ``norm``'s parameters (and their names)."""
        masked = cls(norm.num_groups, norm.num_channels, eps=norm.eps, affine=norm.affine)
        masked.weight, masked.bias = norm.weight, norm.bias
        return masked

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, C, T) -> (B, C, T)."""
        frames = input.size(-1)
        if self.lengths is None or none_padded(self.lengths, frames):
            return super().forward(input).to(input.dtype)
        normalised = []
        for utterance, length in zip(input.split(1), self.lengths.tolist(), strict=True):
            real = super().forward(utterance[..., :length]).to(input.dtype)  # (1, C, length)
            normalised.append(F.pad(real, (0, frames - length)))
        return torch.cat(normalised)
