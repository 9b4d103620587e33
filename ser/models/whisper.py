"""The Whisper encoder on audio of any length, without its padding to 30 s."""

import numpy as np
import torch
import torch.nn.functional as F

from ser.models.masks import frame_mask

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
        mels = [
            self._utterance(wave[:length])
            for wave, length in zip(speech, lengths.tolist(), strict=True)
        ]
        frames = torch.tensor([m.size(1) for m in mels], device=speech.device)
        longest = int(frames.max())
        return torch.stack([F.pad(m, (0, longest - m.size(1))) for m in mels]), frames

    def _utterance(self, wave: torch.Tensor) -> torch.Tensor:
        stft = torch.stft(wave, N_FFT, HOP, window=self.window, return_complex=True)
        power = stft[:, :-1].abs().square()  # (n_fft // 2 + 1, T)
        log_mel = (self.mel_filters.T @ power).clamp(min=1e-10).log10()  # (mels, T)
        log_mel = torch.maximum(log_mel, log_mel.max() - 8.0)
        return (log_mel + 4.0) / 4.0


def whisper_stem(
    encoder: torch.nn.Module, mels: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The convolutions and positions: (B, mels, T) of true lengths (B,) -> (B, T', D), (B,).

    T' = ceil(T / 2). transformers' own forward insists on 30 s; here the positional table is cut
    to the frames there are. Audio beyond the table's 30 s starts the table again.
    """
    stem = F.gelu(encoder.conv1(mels))  # (B, D, T)
    stem = stem * frame_mask(lengths, stem.size(-1)).unsqueeze(1)  # padding stays zero for conv2
    stem = F.gelu(encoder.conv2(stem)).transpose(1, 2)  # (B, T', D)
    table = encoder.embed_positions.weight
    positions = torch.arange(stem.size(1), device=stem.device) % table.size(0)
    hidden = stem + table[positions]
    training = encoder.training and encoder.conv1.training  # no dropout where it is frozen
    return F.dropout(hidden, p=encoder.dropout, training=training), (lengths + 1) // 2


def whisper_attention_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """(B, T), True for real frames -> (B, 1, T, T), True = attend; None where nothing is padded."""
    return None if mask is None else mask[:, None, None, :].expand(-1, 1, mask.size(1), -1)
