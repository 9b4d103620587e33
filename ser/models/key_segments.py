"""Key segments chosen by clustering, a ResNet on each and a BLSTM over them (S15)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from ser.models.base import AbsEncoder
from ser.models.encoders import lstm
from ser.models.registry import check_whole
from ser.models.resnet import ResNet

BANDS = 40  # frequency bands of a segment's descriptor
ROUNDS = 20  # clustering iterations
GREY_MEAN, GREY_STD = 0.449, 0.226  # of ImageNet, which the weights were trained on


class KeySegmentsEncoder(AbsEncoder):
    """A frame for each key segment of a spectrogram, after Mustaqeem, Sajjad and Kwon (2020).

    Segments overlap by a quarter; the last ends with the utterance. ``choose`` keeps one of each
    cluster, in order. Each is a picture for a residual network, whose maps' means are normalised
    by the mean and deviation of training (batch norm without parameters); a BLSTM reads them.

    Args:
        input_size: Bins of GreyFrontend.
        segment: Frames; shorter utterances are filled up with black.
        most: Key segments; up to so many, and half of all; 0 keeps every segment.
        picture: Bins and frames that a segment is resized to.
        depth, width: Of ResNet.
        weights: File with the weights of torchvision's ResNet; null: untrained.
        freeze: Leave the residual network as it is.
        hidden_size, num_layers, dropout: Of the BLSTM.

    Raises:
        UserError: an option out of range, incompatible weights, ``freeze`` without weights.
    """

    one_frame = True  # per segment, so CTC is rejected

    def __init__(
        self,
        input_size: int,
        segment: int = 50,
        most: int = 8,
        picture: Sequence[int] = (224, 224),
        depth: int = 101,
        width: int = 64,
        weights: str | None = None,
        freeze: bool = False,
        hidden_size: int = 256,
        num_layers: int = 3,
        dropout: float = 0.3,
    ):
        super().__init__()
        check_whole("encoder_conf.segment", segment, least=4)
        check_whole("encoder_conf.most", most, least=0)
        self.segment, self.most, self.shape = segment, most, tuple(picture)
        self.network = ResNet(3, depth, width, picture=True)
        self.network.start_from(weights, freeze)
        self.norm = torch.nn.BatchNorm1d(self.network.size, affine=False)
        self.recurrent = lstm(self.network.size, hidden_size, num_layers, dropout)
        self._output_size = self.recurrent.output_size()

    def forward(self, xs_pad, ilens, prev_states=None):
        """(B, T, F), (B,) -> (B, K, D) with zeros for padding, (B,), and no state."""
        keys = [
            self.key_segments(spectrogram[:length])
            for spectrogram, length in zip(xs_pad, ilens.tolist(), strict=True)
        ]
        counts = [len(each) for each in keys]
        vectors = self._see(torch.cat(keys)).split(counts)
        return self.recurrent(pad_sequence(vectors, batch_first=True), torch.tensor(counts))

    def key_segments(self, spectrogram: torch.Tensor) -> torch.Tensor:
        """(T, F) grey values -> (K, segment, F)."""
        segments = cut(spectrogram, self.segment)
        if self.most:
            wanted = min(self.most, max(1, (len(segments) + 1) // 2))
            segments = segments[choose(describe(segments), wanted)]
        return segments

    def _see(self, segments: torch.Tensor) -> torch.Tensor:
        """(S, segment, F) -> (S, D)."""
        picture = F.interpolate(segments.transpose(1, 2).unsqueeze(1), self.shape, mode="bilinear")
        picture = ((picture - GREY_MEAN) / GREY_STD).expand(-1, 3, -1, -1)
        sizes = torch.full((len(picture),), self.shape[0])
        vectors = self.network(picture, sizes)[0].mean(dim=(2, 3))
        self.norm.train(self.training and len(vectors) > 1)  # one vector has no deviation
        return self.norm(vectors)


def cut(spectrogram: torch.Tensor, segment: int) -> torch.Tensor:
    """(T, F) -> (N, segment, F), overlapping by a quarter; the last ends at T."""
    frames = len(spectrogram)
    if frames <= segment:
        return F.pad(spectrogram, (0, 0, 0, segment - frames)).unsqueeze(0)
    starts = [*range(0, frames - segment, segment - segment // 4), frames - segment]
    return torch.stack([spectrogram[start : start + segment] for start in starts])


def describe(segments: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation over time of 40 bands, normalised over segments: (N, 80)."""
    bands = F.adaptive_avg_pool1d(segments.detach(), BANDS)  # (N, segment, 40)
    values = torch.cat([bands.mean(dim=1), bands.std(dim=1, correction=0)], dim=-1)
    deviation = values.std(dim=0, correction=0)
    return (values - values.mean(dim=0)) / deviation.clamp(min=1e-6)


@torch.no_grad()
def choose(values: torch.Tensor, wanted: int) -> torch.Tensor:
    """Sorted indices of those nearest to the centres of up to ``wanted`` clusters: (N, D) -> (K,).

    Kernel k-means with k(x, y) = exp(-||x - y||^2 / 2 s^2), s the median distance, deterministic:
    it starts from the first value, then the one farthest from all before. The distance of x from
    the centre of a cluster C is k(x, x) - 2 mean_{y in C} k(x, y) + mean_{y, z in C} k(y, z).
    """
    values = values.double()
    distances = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")
    pairs = distances[torch.ones_like(distances).triu(1).bool()]
    scale = pairs.median() if len(pairs) else distances.new_ones(())
    kernel = torch.exp(-distances.square() / (2 * scale.square()).clamp(min=1e-12))
    centres = [0]
    for _ in range(wanted - 1):
        centres.append(int(distances[:, centres].amin(dim=1).argmax()))
    own = distances[:, centres].argmin(dim=1)
    for _ in range(ROUNDS):
        member = F.one_hot(own, wanted).to(kernel)  # (N, K)
        share = member / member.sum(dim=0).clamp(min=1)
        inner = (share * (kernel @ share)).sum(dim=0)  # (K,)
        away = 1 - 2 * kernel @ share + inner
        away[:, member.sum(dim=0) == 0] = torch.inf  # an empty cluster stays empty
        if torch.equal(own, away.argmin(dim=1)):
            break
        own = away.argmin(dim=1)
    outside = F.one_hot(own, wanted) == 0
    nearest = away.masked_fill(outside, torch.inf).argmin(dim=0)
    return nearest[~outside.all(dim=0)].sort().values
