"""Co-attention over spectrogram, MFCC and speech encoder frames of 3-s segments (S9)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from ser.data.audio import SAMPLE_RATE
from ser.errors import UserError
from ser.models.base import AbsEncoder
from ser.models.masks import frame_mask
from ser.models.upstreams import UpstreamsFrontend
from ser.models.weights import start_from

SEGMENT = 3 * SAMPLE_RATE
SHORTEST = SAMPLE_RATE // 10  # samples; a shorter remainder after a full segment is dropped
SLOTS = 150  # 20-ms slots of a segment
PRE_EMPHASIS = 0.97
N_FFT, WINDOW, HOP = 800, 640, 160  # samples: 20-Hz bins, 40-ms window, 10-ms hop
BINS, MELS, CEPSTRA = 200, 64, 40
RANGE = 80.0  # dB, from white to black
SPECTRAL = 2 * (CEPSTRA + BINS)  # values of two 10-ms frames


class CoAttentionFrontend(UpstreamsFrontend):
    """Segments of 3 s as slots of 20 ms: encoder's frame, MFCC and spectrogram side by side.

    Pre-emphasis is applied to the samples; the last segment is filled up with zeros. A slot holds
    one frame of the speech encoder, zeros where it has none, and two frames of 10 ms of 40 MFCC
    (HTK's mels, length 1 each) and of 200 bins up to 4 kHz, as grey values in [0, 1] over 80 dB.

    Args:
        upstreams, fusion, size: As of UpstreamsFrontend.

    Raises:
        UserError: an encoder with more than 150 frames in 3 s.
    """

    def __init__(self, upstreams=(), fusion: str = "concat", size: int | None = None):
        super().__init__(upstreams, fusion, size)
        self._output_size += SPECTRAL
        counts = [int(u.output_lengths(torch.tensor(SEGMENT))) for u in self.upstreams]
        if max(counts) > SLOTS:
            raise UserError(
                f"frontend_conf.upstreams: an encoder makes {max(counts)} frames of 3 s; "
                f"co_attention takes up to {SLOTS}: choose one with frames of 20 ms"
            )
        import torchaudio

        mels = torchaudio.functional.melscale_fbanks(
            N_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, MELS, SAMPLE_RATE, mel_scale="htk"
        )
        dct = torchaudio.functional.create_dct(CEPSTRA, MELS, "ortho")
        self.register_buffer("mels", mels, persistent=False)  # (bins, mels)
        self.register_buffer("dct", dct, persistent=False)  # (mels, cepstra)
        self.register_buffer("window", torch.hamming_window(WINDOW), persistent=False)

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L), (B,) -> (B, 150 N, D), N segments in the longest, (B,) multiples of 150."""
        segments, lengths, counts = cut(input, input_lengths)
        frames, _ = super().forward(segments, lengths)
        frames = F.pad(frames, (0, 0, 0, SLOTS - frames.size(1)))
        slots = torch.cat([frames, self._spectral(segments)], dim=-1)  # (S, 150, D)
        return pad_sequence(
            [part.flatten(0, 1) for part in slots.split(counts)], batch_first=True
        ), SLOTS * torch.tensor(counts)

    def _spectral(self, segments: torch.Tensor) -> torch.Tensor:
        """(S, 48000) -> (S, 150, 480)."""
        spectrum = torch.stft(
            segments, N_FFT, HOP, WINDOW, self.window, return_complex=True, pad_mode="constant"
        )[..., :-1]
        power = spectrum.abs().square().clamp(min=1e-10).transpose(1, 2)  # (S, 300, 401)
        cepstra = F.normalize(10 * (power @ self.mels).clamp(min=1e-10).log10() @ self.dct, dim=-1)
        level = 10 * power[..., :BINS].log10()
        grey = 1 + (level - level.amax(dim=(1, 2), keepdim=True)) / RANGE
        return torch.cat([cepstra, grey.clamp(min=0.0)], dim=-1).reshape(-1, SLOTS, SPECTRAL)


def cut(
    speech: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Cut utterances (B, L), (B,) into segments (S, 48000), lengths (S,), counts per utterance."""
    before = F.pad(speech, (1, 0))[:, :-1]
    emphasised = speech - PRE_EMPHASIS * before
    segments, sizes, counts = [], [], []
    for wave, length in zip(emphasised, lengths.tolist(), strict=True):
        count = max(1, math.ceil((length - SHORTEST + 1) / SEGMENT))
        whole = F.pad(wave[: min(length, count * SEGMENT)], (0, max(0, count * SEGMENT - length)))
        segments.append(whole.view(count, SEGMENT))
        sizes += [min(SEGMENT, length - start * SEGMENT) for start in range(count)]
        counts.append(count)
    return torch.cat(segments), torch.tensor(sizes), counts


class CoAttentionEncoder(AbsEncoder):
    """Three branches over a segment, the third weighted by the other two (Zou et al., 2022).

    AlexNet's convolutions over the spectrogram and a BLSTM over the MFCC give two vectors s and m.
    w = ReLU(W [s; m] + b) has a weight, no distribution, for each of the encoder's frames h_t, and
    z = sum_t w_t h_t. The three vectors pass two linear layers with ReLU.

    Args:
        input_size: Frame size of CoAttentionFrontend.
        frames: Of the speech encoder in 3 s, at most 150: wav2vec 2.0 has 149, Whisper 150.
        hidden_size: Of the BLSTM, in each direction.
        size: Of each vector.
        rnn_dropout: Between the two layers of the BLSTM.
        dropout: Before each linear layer.
        picture: Bins and frames that a segment's spectrogram is resized to, 63 or more.
        weights: File with the weights of AlexNet, as torchvision names them; null: untrained.

    Raises:
        UserError: a different frontend, ``frames`` out of range, incompatible weights.
    """

    one_frame = True  # per segment, so CTC is rejected

    def __init__(
        self,
        input_size: int,
        frames: int = 149,
        hidden_size: int = 256,
        size: int = 128,
        rnn_dropout: float = 0.5,
        dropout: float = 0.1,
        picture: Sequence[int] = (256, 384),
        weights: str | None = None,
    ):
        super().__init__()
        self.encoder_size = input_size - SPECTRAL
        if self.encoder_size < 1:
            raise UserError("encoder: co_attention reads segments; set frontend: co_attention")
        if not 1 <= frames <= SLOTS:
            raise UserError(f"encoder_conf.frames: found {frames}; expected 1 to {SLOTS}")
        self.frames, self.shape, self._output_size = frames, tuple(picture), size
        self.features = alexnet_features()
        start_from(self.features, weights, within="features.")
        self.rnn = torch.nn.LSTM(
            CEPSTRA, hidden_size, 2, batch_first=True, dropout=rnn_dropout, bidirectional=True
        )
        values = 2 * SLOTS * 2 * hidden_size  # per segment, flattened
        self.picture = _dense(dropout, 256 * 6 * 6, size)
        self.cepstra = _dense(0.0, values, size)
        self.weigh = torch.nn.Linear(2 * size, frames)  # W, b
        self.speech = _dense(dropout, self.encoder_size, size)
        self.fuse = torch.nn.Sequential(
            *_dense(dropout, 3 * size, size), *_dense(dropout, size, size)
        )

    def forward(self, xs_pad, ilens, prev_states=None):
        """(B, 150 N, D), (B,) -> one frame per segment (B, N, P), (B,), and no state."""
        counts = ilens // SLOTS
        slots = xs_pad.unflatten(1, (-1, SLOTS))  # (B, N, 150, D)
        real = frame_mask(counts, slots.size(1))
        speech, spectral = slots[real].split([self.encoder_size, SPECTRAL], dim=-1)
        cepstra, bins = spectral.reshape(-1, 2 * SLOTS, CEPSTRA + BINS).split([CEPSTRA, BINS], -1)
        picture = F.interpolate(bins.transpose(1, 2).unsqueeze(1), self.shape, mode="bilinear")
        maps = F.adaptive_avg_pool2d(self.features(picture.expand(-1, 3, -1, -1)), 6)
        two = [self.picture(maps.flatten(1)), self.cepstra(self.rnn(cepstra)[0].flatten(1))]
        vectors = self.fuse(torch.cat([*two, self.speech(self.attend(two, speech))], dim=-1))
        out = vectors.new_zeros(*real.shape, self._output_size)
        out[real] = vectors
        return out, counts, None

    def attend(self, two: list[torch.Tensor], speech: torch.Tensor) -> torch.Tensor:
        """Two vectors (S, size) and zero-padded frames (S, 150, D) -> z (S, D)."""
        weights = self.weigh(torch.cat(two, dim=-1)).relu()
        return (weights.unsqueeze(1) @ speech[:, : self.frames]).squeeze(1)


def alexnet_features() -> torch.nn.Sequential:
    """The five convolutions of AlexNet (Krizhevsky, 2014), numbered as in torchvision."""
    conv, relu, pool = torch.nn.Conv2d, torch.nn.ReLU, torch.nn.MaxPool2d
    return torch.nn.Sequential(
        *(conv(3, 64, 11, stride=4, padding=2), relu(), pool(3, 2)),
        *(conv(64, 192, 5, padding=2), relu(), pool(3, 2)),
        *(conv(192, 384, 3, padding=1), relu()),
        *(conv(384, 256, 3, padding=1), relu()),
        *(conv(256, 256, 3, padding=1), relu(), pool(3, 2)),
    )


def _dense(dropout: float, size: int, output_size: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Dropout(dropout), torch.nn.Linear(size, output_size), torch.nn.ReLU()
    )
