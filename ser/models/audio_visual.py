"""Audio-visual network (S12): an LSTM over 40-ms steps of samples and face pictures."""

import torch

from ser.data.video import FRAME_BYTES, PICTURE, SOUND_BYTES, STEP
from ser.errors import UserError
from ser.models.base import AbsEncoder, AbsFrontend
from ser.models.encoders import lstm
from ser.models.masks import frame_mask, without_padding
from ser.models.raw import RawConv, RawFrontend
from ser.models.resnet import ResNet

STREAMS = ("both", "audio", "video")
# ImageNet statistics, as used to train the weights
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class AudioVisualFrontend(AbsFrontend):
    """The frames of ``feats_type: audio_video`` as they are."""

    reads = ("audio_video",)
    _output_size = FRAME_BYTES

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, 28928), (B,) -> the same with zeros for padding."""
        return without_padding(input, input_lengths), input_lengths


class AudioVisualEncoder(AbsEncoder):
    """Convolutions over samples, a ResNet over faces, and an LSTM, after Tzirakis et al. (2017).

    Args:
        input_size: Frame size of AudioVisualFrontend.
        streams: ``both``, or ``audio`` or ``video`` alone.
        channels, kernel1, pool, kernel2, channel_pool: Of RawConv.
        input_dropout: Share of the samples that training sets to 0.
        depth, width: Of ResNet.
        weights: File with the weights of torchvision's ResNet; null: untrained.
        freeze: Leave the ResNet as it is.
        hidden_size, num_layers, dropout: Of the LSTM, which reads forwards.

    Raises:
        UserError: unknown streams, incompatible sizes or weights, ``freeze`` without weights.
    """

    def __init__(
        self,
        input_size: int,
        streams: str = "both",
        channels: int = 40,
        kernel1: int = 20,
        pool: int = 2,
        kernel2: int = 40,
        channel_pool: int = 10,
        input_dropout: float = 0.5,
        depth: int = 50,
        width: int = 64,
        weights: str | None = None,
        freeze: bool = False,
        hidden_size: int = 256,
        num_layers: int = 2,
        dropout: float = 0.0,
    ):
        super().__init__()
        if input_size != FRAME_BYTES:
            raise UserError("encoder: audio_visual reads bytes; set frontend: audio_visual")
        if streams not in STREAMS:
            raise UserError(
                f"encoder_conf.streams: found {streams}; choose one of {', '.join(STREAMS)}"
            )
        size = 0
        self.standardise = RawFrontend()
        self.input_dropout = torch.nn.Dropout(input_dropout)
        self.sound, self.sight = None, None
        if streams != "video":
            self.sound = RawConv(channels, kernel1, pool, kernel2, channel_pool, STEP)
            size += self.sound.size
        if streams != "audio":
            self.sight = ResNet(3, depth, width, picture=True)
            self.sight.start_from(weights, freeze)
            size += self.sight.size
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(STD), persistent=False)
        self.recurrent = lstm(size, hidden_size, num_layers, dropout, bidirectional=False)
        self._output_size = self.recurrent.output_size()

    def forward(self, xs_pad, ilens, prev_states=None):
        """(B, T, 28928), (B,) -> (B, T, D) with zeros for padding, (B,), and no state."""
        streams = []
        if self.sound is not None:
            samples, lengths = self.standardise(samples_of(xs_pad), ilens * STEP)
            streams.append(self.sound(self.input_dropout(samples.squeeze(-1)), lengths)[0])
        if self.sight is not None:
            real = frame_mask(ilens, xs_pad.size(1), xs_pad.device)
            seen = self._see(xs_pad[..., SOUND_BYTES:][real])  # (sum of T, D)
            streams.append(seen.new_zeros(*real.shape, seen.size(1)).index_put((real,), seen))
        return self.recurrent(torch.cat(streams, dim=-1), ilens)

    def _see(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 96 * 96 * 3) bytes -> (N, D), spatial means of the last feature maps."""
        pictures = (pictures.unflatten(1, (PICTURE, PICTURE, 3)) / 255 - self.mean) / self.std
        sizes = torch.full((len(pictures),), PICTURE)
        return self.sight(pictures.permute(0, 3, 1, 2), sizes)[0].mean(dim=(2, 3))


def samples_of(frames: torch.Tensor) -> torch.Tensor:
    """Extract the samples: (B, T, 28928) -> (B, T * 640) in [-1, 1)."""
    high, low = frames[..., :SOUND_BYTES].unflatten(-1, (STEP, 2)).unbind(-1)
    signed = high - 256 * (high >= 128)
    return ((256 * signed + low) / 32768).flatten(1)
