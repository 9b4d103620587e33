"""Which frames of a padded batch are real, and norms over those alone."""

import torch
import torch.nn.functional as F


def frame_mask(
    lengths: torch.Tensor, max_length: int, device: torch.device | None = None
) -> torch.Tensor:
    """Boolean mask (B, T), True where frame t < lengths[b]; T is ``max_length``.

    Args:
        device: Of the mask; that of ``lengths`` if None.
    """
    lengths = beside(lengths, device or lengths.device)
    return torch.arange(max_length, device=lengths.device)[None, :] < lengths[:, None]


def beside(lengths: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``lengths``, which are kept on the CPU, on ``device``, for which nobody waits."""
    return lengths.to(device, non_blocking=True)


def none_padded(lengths: torch.Tensor, max_length: int) -> bool:
    """Whether all ``lengths`` (B,) are ``max_length``, as they are of an exported model."""
    return torch.compiler.is_exporting() or bool((lengths >= max_length).all())


def positions(mask: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Where ``mask`` (B, T), of the CPU, is True among its B T values: indices on ``device``.

    A GPU would have to be waited for to learn how many there are. All, of an exported model.
    """
    if torch.compiler.is_exporting():
        return torch.arange(mask.numel())
    return beside(mask.flatten().nonzero().flatten(), device)


def attention_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """(B, T), True for real frames -> (B, 1, T, T), True = attend; None where nothing is padded."""
    return None if mask is None else mask[:, None, None, :].expand(-1, 1, mask.size(1), -1)


class MaskedGroupNorm(torch.nn.GroupNorm):
    """Group norm whose statistics leave out the padding of a batch.

    wav2vec 2.0 base (and HuBERT, WavLM base) normalises its first convolution over time. Plain
    group norm takes the zero padding into the statistics, so that an utterance's features
    depend on how long its batch mates are. Here each utterance is normalised over its own
    frames, which gives exactly what it would get alone; padded frames come out as zeros. The
    output has the precision of the input, where CUDA's autocast would double this largest of all
    maps from here on.

    Set ``lengths`` ((B,) frame counts) before the call; None means no padding.
    """

    lengths: torch.Tensor | None = None

    @classmethod
    def from_group_norm(cls, norm: torch.nn.GroupNorm) -> "MaskedGroupNorm":
        """A drop-in replacement that shares ``norm``'s parameters (and their names)."""
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
