"""A model with nothing below its heads, a batch of three utterances for it, and how it learns."""

import torch

from ser.models.encoders import IdentityEncoder
from ser.models.heads import AuxHead
from ser.models.model import SERModel
from ser.models.pooling import MeanPooling
from ser.models.spectral import FeatsFrontend
from tests.support.tiny import EMOTIONS


def model(heads: dict[str, AuxHead], weights: dict[str, float], **options) -> SERModel:
    """Heads on frames of three values and on their mean."""
    torch.manual_seed(0)
    return SERModel(
        emotions=EMOTIONS,
        frontend=FeatsFrontend(3, norm_means=False, norm_vars=False),
        encoder=IdentityEncoder(3),
        pooling=MeanPooling(3),
        aux_heads=heads,
        aux_weights=weights,
        **options,
    )


def batch() -> dict[str, torch.Tensor]:
    """The second utterance is shorter and of no known speaker, the third has no words."""
    generator = torch.Generator().manual_seed(2)
    speech = torch.randn(3, 5, 3, generator=generator)
    speech[1, 4:] = 0.0
    return {
        "speech": speech,
        "speech_lengths": torch.tensor([5, 4, 5]),
        "emotion": torch.tensor([[0], [3], [1]]),
        "text": torch.tensor([[1, 2], [2, -1], [-1, -1]]),
        "text_lengths": torch.tensor([2, 1, 0]),
        "gender_label": torch.tensor([[0], [1], [0]]),
        "speaker_label": torch.tensor([[2], [-1], [0]]),
    }


def learn(net: SERModel, data: dict[str, torch.Tensor], lr: float, steps: int) -> None:
    """Train on one batch by Adam."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(steps):
        loss, _, _ = net(**data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
