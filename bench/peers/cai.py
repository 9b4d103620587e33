"""The step of Cai et al. (2021), as the Trainer of Hugging Face runs it.

wav2vec 2.0 with two linear heads: cross-entropy on the mean over time, and 0.1 times CTC on the
frames. The published script gives the Trainer batches of 2 in random order, padded to the longest,
and updates after 8 utterances; batches of 4 are the same step made in half as many parts.
float32 (the published run.sh asks for fp16 and gradient checkpointing, for a GPU), the fused AdamW
that is the Trainer's default, gradients clipped at 1.
"""

import torch
import torch.nn.functional as F
from transformers import Wav2Vec2Model

from bench.system import EMOTIONS, UNITS, System, wav2vec2_config
from bench.workload import durations, random_batches

UTTERANCES = 8  # of a round, and to an update


class MultiTask(torch.nn.Module):
    """The encoder and its two heads."""

    def __init__(self):
        super().__init__()
        self.wav2vec2 = Wav2Vec2Model(wav2vec2_config())
        size = self.wav2vec2.config.hidden_size
        self.dropout = torch.nn.Dropout(0.1)
        self.ctc_head = torch.nn.Linear(size, UNITS)
        self.emotion_head = torch.nn.Linear(size, EMOTIONS)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss. Models with a group norm are trained without an attention mask."""
        frames = self.dropout(self.wav2vec2(batch["speech"]).last_hidden_state)  # (B, T, D)
        logp = self.ctc_head(frames).log_softmax(-1).transpose(0, 1)
        lengths = self.wav2vec2._get_feat_extract_output_lengths(batch["speech_lengths"])
        ctc = F.ctc_loss(
            logp, batch["text"].clamp(min=0), lengths, batch["text_lengths"], zero_infinity=True
        )
        return (
            F.cross_entropy(self.emotion_head(frames.mean(1)), batch["emotion"][:, 0]) + 0.1 * ctc
        )


def build(device: str, size: int) -> System:
    torch.manual_seed(0)
    model = MultiTask().to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    accumulate = UTTERANCES // size

    def step(batch: dict[str, torch.Tensor]) -> None:
        (model(batch) / accumulate).backward()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    epoch = random_batches(durations(), size)
    return System(
        name=f"Cai et al.'s step as Hugging Face's Trainer takes it, batches of {size}",
        epoch=epoch,
        count=accumulate,
        step=step,
        update=update,
        accumulate=accumulate,
        notes=f"float32, random batches of {size}, an update (fused AdamW) after every "
        f"{UTTERANCES} utterances",
    )


def build_2(device: str) -> System:
    return build(device, 2)


def build_4(device: str) -> System:
    return build(device, 4)
