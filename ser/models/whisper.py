"""The Whisper encoder on audio of any length, without its padding to 30 s."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ser.models.masks import attention_mask, frame_mask
from ser.models.wav2vec import checkpoint_layers

N_FFT = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms


class LogMel(torch.nn.Module):
    """Whisper's log-mel spectrogram, computed for each utterance over its own samples.

    Radford et al., 2022: 80 (or 128) mel bands, 25-ms Hann windows every 10 ms, log10 clamped
    8 below the utterance's maximum, then (x + 4) / 4. On 30 s of audio it equals transformers'
    WhisperFeatureExtractor; on shorter audio the maximum and the edges are the utterance's own.
    """

    def __init__(self, num_mel_bins: int):
        super().__init__()
        from transformers import WhisperFeatureExtractor

        extractor = WhisperFeatureExtractor(feature_size=num_mel_bins)
        filters = torch.from_numpy(np.asarray(extractor.mel_filters, dtype=np.float32))
        self.register_buffer("mel_filters", filters, persistent=False)  # (n_fft // 2 + 1, mels)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    def forward(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L) samples, (B,) -> (B, mels, T) and (B,) with T = L // 160."""
        if torch.compiler.is_exporting():
            return self._utterances(speech), lengths // HOP
        mels = [
            self._utterances(wave[:length])
            for wave, length in zip(speech, lengths.tolist(), strict=True)
        ]
        frames = torch.tensor([m.size(1) for m in mels])
        longest = int(frames.max())
        return torch.stack([F.pad(m, (0, longest - m.size(1))) for m in mels]), frames

    def _utterances(self, waves: torch.Tensor) -> torch.Tensor:
        """(L,) or (B, L) samples without padding -> (mels, T) or (B, mels, T)."""
        stft = torch.stft(waves, N_FFT, HOP, window=self.window, return_complex=True)
        frames = waves.size(-1) // HOP  # without the one centred at the end
        power = stft.narrow(waves.dim(), 0, frames).abs().square()  # (n_fft // 2 + 1, T)
        log_mel = (self.mel_filters.T @ power).clamp(min=1e-10).log10()  # (mels, T)
        log_mel = torch.maximum(log_mel, log_mel.amax(dim=(-2, -1), keepdim=True) - 8.0)
        return (log_mel + 4.0) / 4.0


class Whisper:
    """Stages of Whisper's encoder, with the interface of Wav2Vec and no parameters of its own.

    Args:
        encoder: A transformers WhisperEncoder.
        log_mel: With the encoder's number of mel bands.
    """

    masks_features = True  # time masks apply to the log-mels
    normalize = False

    def __init__(self, encoder: torch.nn.Module, log_mel: LogMel):
        self.encoder, self.log_mel = encoder, log_mel
        self.output_size = encoder.config.d_model

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The transformer layers."""
        return self.encoder.layers

    def output_lengths(self, samples: torch.Tensor) -> torch.Tensor:
        """Convert numbers of samples to numbers of frames, (B,) -> (B,)."""
        return (samples // HOP + 1) // 2

    def convolutions(self) -> list[torch.nn.Module]:
        """The first layers of ``project``."""
        return [self.encoder.conv1, self.encoder.conv2]

    def below_layers(self) -> list[torch.nn.Module]:
        """Empty: no parameters between the convolutions and the transformer layers."""
        return []

    def features(
        self, speech: torch.Tensor, samples: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-mels: (B, L), (B,) -> (B, T, mels), (B,)."""
        mels, frames = self.log_mel(speech, samples)
        return mels.transpose(1, 2), frames

    def project(
        self, mels: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """H_l of eq. 4, convolutions and positions: (B, T, mels), (B,) -> (B, T', D), (B,).

        T' = ceil(T / 2). transformers' own forward requires 30 s; here the position embeddings are
        cut to the actual frames. For audio beyond their 30 s, they repeat from the start.
        """
        encoder = self.encoder
        stem = F.gelu(encoder.conv1(mels.transpose(1, 2)))  # (B, D, T)
        # padding stays zero for conv2
        stem = stem * frame_mask(lengths, stem.size(-1), stem.device).unsqueeze(1)
        stem = F.gelu(encoder.conv2(stem)).transpose(1, 2)  # (B, T', D)
        table = encoder.embed_positions.weight
        positions = torch.arange(stem.size(1), device=stem.device) % table.size(0)
        hidden = stem + table[positions]
        training = encoder.training and encoder.conv1.training  # no dropout where it is frozen
        return F.dropout(hidden, p=encoder.dropout, training=training), (lengths + 1) // 2

    def enter(
        self, low_level: torch.Tensor, mask: torch.Tensor | None, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Input of the first transformer layer: H_l."""
        return low_level

    def layer_options(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> dict[str, Any]:
        """Keyword arguments that transformers passes to each layer."""
        return {"attention_mask": attention_mask(mask)}

    def leave(self, hidden: torch.Tensor) -> torch.Tensor:
        """H_{h,N} from the last layer's output."""
        return self.encoder.layer_norm(hidden)

    def save_memory(self, speech: torch.Tensor, always: bool = False) -> None:
        """Use gradient checkpointing only if ``always``: Whisper's maps are half as long."""
        checkpoint_layers(self.layers, always)
