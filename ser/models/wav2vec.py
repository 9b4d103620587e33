"""wav2vec 2.0 and its relatives (HuBERT, WavLM, data2vec), unaffected by padding."""

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ser.data.audio import SAMPLE_RATE
from ser.errors import UserError
from ser.models.cpu.conv_stack import conv_features
from ser.models.cpu.malloc import return_freed_memory
from ser.models.masks import MaskedGroupNorm, attention_mask, frame_mask, normalize

# On a CPU, batches with more samples, padding included, use gradient checkpointing of the
# transformer layers. Four times 16 s, which few batches exceed.
KEPT_SAMPLES = 64 * SAMPLE_RATE


class Wav2Vec:
    """Stages of such an encoder, without parameters of its own.

    Outputs never depend on padding: the group norm of the first convolution sees real frames only
    (MaskedGroupNorm), attention is masked, and positional convolutions see zeros beyond the end.

    Args:
        encoder: A transformers model; some of its modules are replaced or get hooks.
        normalize: Scale each utterance to zero mean and unit variance first.
        fast: Compute the convolutions with ser/models/cpu/conv_stack.py on a CPU.
    """

    masks_features = False  # time masks apply to the projected features

    def __init__(self, encoder: torch.nn.Module, normalize: bool, fast: bool):
        self.encoder, self.normalize, self.fast = encoder, normalize, fast
        self.output_size = encoder.config.hidden_size
        # Whether the transformer's layer norm comes after its layers rather than before them.
        self.norm_is_last = getattr(encoder.config, "do_stable_layer_norm", False)
        self.masked_norm: MaskedGroupNorm | None = None
        first = encoder.feature_extractor.conv_layers[0]
        if isinstance(getattr(first, "layer_norm", None), torch.nn.GroupNorm):
            first.layer_norm = self.masked_norm = MaskedGroupNorm.from_group_norm(first.layer_norm)
        self._lengths: torch.Tensor | None = None
        # data2vec stacks positional convolutions: only the first would see zero padding
        for layer in getattr(encoder.encoder.pos_conv_embed, "layers", []):
            layer.register_forward_hook(self._zero_padding)

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The transformer layers."""
        return self.encoder.encoder.layers

    def output_lengths(self, samples: torch.Tensor) -> torch.Tensor:
        """Convert numbers of samples to numbers of frames, (B,) -> (B,)."""
        for kernel, stride in self._geometry():
            samples = (samples - kernel) // stride + 1
        return samples

    def convolutions(self) -> list[torch.nn.Module]:
        """Modules that ``features`` uses."""
        return [self.encoder.feature_extractor]

    def below_layers(self) -> list[torch.nn.Module]:
        """Modules between the convolutions and the transformer layers."""
        transformer = self.encoder.encoder
        entry = [self.encoder.feature_projection, transformer.pos_conv_embed, transformer.dropout]
        return entry if self.norm_is_last else [*entry, transformer.layer_norm]

    def features(
        self, speech: torch.Tensor, samples: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The convolutional features: (B, L), (B,) -> (B, T, C), (B,).

        Raises:
            UserError: an utterance is too short for one frame.
        """
        lengths = self.output_lengths(samples)
        if not torch.compiler.is_exporting() and lengths.min() < 1:
            raise UserError(
                f"an utterance of {1000 * samples.min().item() / SAMPLE_RATE:.0f} ms is too short "
                "for this encoder, which makes no frame of it; leave it out, or give more of the "
                "recording"
            )
        if self.normalize:
            speech = normalize(speech, samples)
        if self.fast and speech.device.type == "cpu" and not torch.compiler.is_exporting():
            return conv_features(self.encoder.feature_extractor, speech, samples), lengths
        if self.masked_norm is None:
            return self.encoder.feature_extractor(speech).transpose(1, 2), lengths
        kernel, stride = self._geometry()[0]
        self.masked_norm.lengths = (samples - kernel) // stride + 1
        try:
            return self.encoder.feature_extractor(speech).transpose(1, 2), lengths
        finally:
            self.masked_norm.lengths = None

    def project(
        self, features: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """H_l of eq. 4: (B, T, C), (B,) -> (B, T, D), (B,)."""
        projected = self.encoder.feature_projection(features)
        if isinstance(projected, tuple):  # wav2vec 2.0 also returns the unprojected features
            projected = projected[0]
        return projected, lengths

    def enter(
        self, low_level: torch.Tensor, mask: torch.Tensor | None, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Input of the first transformer layer: H_l plus convolutional position embeddings."""
        encoder = self.encoder.encoder
        if mask is not None:
            low_level = low_level * mask.unsqueeze(-1)
        self._lengths = lengths
        try:
            hidden = low_level + encoder.pos_conv_embed(low_level)
        finally:
            self._lengths = None
        if not self.norm_is_last:
            hidden = encoder.layer_norm(hidden)
        return encoder.dropout(hidden)

    def layer_options(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> dict[str, Any]:
        """Keyword arguments that transformers passes to each layer."""
        if self.encoder.config.model_type != "wavlm":
            return {"attention_mask": attention_mask(mask)}
        batch, frames, _ = hidden.shape
        bias = self.layers[0].attention.compute_bias(frames, frames)  # (H, T, T)
        return {"attention_mask": mask, "position_bias": bias.repeat(batch, 1, 1)}

    def leave(self, hidden: torch.Tensor) -> torch.Tensor:
        """H_{h,N} from the last layer's output."""
        return self.encoder.encoder.layer_norm(hidden) if self.norm_is_last else hidden

    def save_memory(self, speech: torch.Tensor, always: bool = False) -> None:
        """Trade time for memory in training, by gradient checkpointing.

        Args:
            speech: (B, L); on a CPU, batches above KEPT_SAMPLES are checkpointed.
            always: Checkpoint every batch.
        """
        on_cpu = speech.device.type == "cpu"
        wanted = always or (speech.numel() > KEPT_SAMPLES and on_cpu)
        if checkpoint_layers(self.layers, wanted) and on_cpu:
            return_freed_memory(wanted)

    def _geometry(self) -> list[tuple[int, int]]:
        """Kernel and stride of each convolution."""
        config = self.encoder.config
        return list(zip(config.conv_kernel, config.conv_stride, strict=True))

    def _zero_padding(self, _module, _inputs, output: torch.Tensor) -> torch.Tensor:
        if self._lengths is None:  # called outside ``enter``, nothing is padded
            return output
        mask = frame_mask(self._lengths, output.size(-1), output.device)
        return output * mask.unsqueeze(1)  # (B, D, T)


def checkpoint_layers(layers: torch.nn.ModuleList, wanted: bool) -> bool:
    """Switch gradient checkpointing of layers on or off; return whether that changed anything."""
    if wanted == layers[0].gradient_checkpointing:
        return False
    for layer in layers:
        layer.gradient_checkpointing = wanted
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    return True
