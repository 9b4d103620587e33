"""SpeechBrain's recipe for IEMOCAP with wav2vec 2.0: its lobe, convolutions frozen.

As in recipes/IEMOCAP/emotion_recognition: Wav2Vec2 lobe, mean over time, one linear layer,
batches of 4 in random order, float32, an Adam for the encoder and one for the rest.
"""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
import torchaudio
import transformers

# SpeechBrain imports names that later versions have dropped, and that this recipe does not use.
if not hasattr(torchaudio, "list_audio_backends"):
    torchaudio.list_audio_backends = lambda: ["soundfile"]
if not hasattr(transformers, "AutoModelWithLMHead"):
    transformers.AutoModelWithLMHead = transformers.AutoModelForCausalLM

from speechbrain.lobes.models.huggingface_transformers.wav2vec2 import Wav2Vec2  # noqa: E402
from speechbrain.nnet.linear import Linear  # noqa: E402
from speechbrain.nnet.pooling import StatisticsPooling  # noqa: E402
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model  # noqa: E402

from bench.system import EMOTIONS, System, wav2vec2_config  # noqa: E402
from bench.workload import durations, random_batches  # noqa: E402

BATCH, BATCHES = 4, 2


def build(device: str) -> System:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "wav2vec2-base"
        Wav2Vec2Model(wav2vec2_config()).save_pretrained(source)
        Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(source)
        encoder = Wav2Vec2(
            source=str(source),
            save_path=folder,
            output_norm=True,
            freeze=False,
            freeze_feature_extractor=True,
        ).to(device)
    encoder.train()
    # As its recipe does: train() has put the gradients of the convolutions on again.
    encoder.model.feature_extractor._freeze_parameters()
    pooling = StatisticsPooling(return_std=False)
    head = Linear(input_size=768, n_neurons=EMOTIONS, bias=False).to(device)
    optimizers = [
        torch.optim.Adam(head.parameters(), lr=1e-4),
        torch.optim.Adam(encoder.parameters(), lr=1e-5),
    ]

    def step(batch: dict[str, torch.Tensor]) -> None:
        relative = batch["speech_lengths"] / batch["speech_lengths"].max()
        pooled = pooling(encoder(batch["speech"], relative), relative)  # (B, 1, D)
        F.nll_loss(head(pooled[:, 0]).log_softmax(-1), batch["emotion"][:, 0]).backward()

    def update() -> None:
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    epoch = random_batches(durations(), BATCH)
    return System(
        name="SpeechBrain's IEMOCAP recipe, convolutions frozen",
        epoch=epoch,
        count=BATCHES,
        step=step,
        update=update,
        accumulate=1,
        notes=f"float32, random batches of {BATCH}, an update (two Adams) after every {BATCH} "
        "utterances",
    )
