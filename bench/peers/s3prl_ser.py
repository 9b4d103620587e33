"""s3prl's upstream, featurizer and downstream for emotion, the upstream fine-tuned.

As ``run_downstream.py -u hf_wav2vec2_custom -d emotion -f``: the weighted sum of all hidden states,
the projector and UtteranceLevel model of its downstream, batches of 4 in random order, float32,
an update after every 8 batches.
"""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
import torchaudio

# s3prl asks torchaudio for what torchaudio has dropped since; the bench reads no audio.
for name in ("set_audio_backend", "sox_effects"):
    if not hasattr(torchaudio, name):
        setattr(torchaudio, name, lambda *args: None)

from s3prl.downstream.model import UtteranceLevel  # noqa: E402
from s3prl.upstream.hf_wav2vec2.expert import UpstreamExpert  # noqa: E402
from s3prl.upstream.interfaces import Featurizer  # noqa: E402
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model  # noqa: E402

from bench.system import EMOTIONS, System, wav2vec2_config  # noqa: E402
from bench.workload import durations, random_batches  # noqa: E402

BATCH, BATCHES = 4, 2  # of a round
ACCUMULATE = 8
PROJECTOR = 256


def build(device: str) -> System:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        Wav2Vec2Model(wav2vec2_config()).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(Path(folder))
        upstream = UpstreamExpert(folder).to(device)
    featurizer = Featurizer(upstream, upstream_device=device).to(device)
    projector = torch.nn.Linear(featurizer.output_dim, PROJECTOR).to(device)
    downstream = UtteranceLevel(PROJECTOR, EMOTIONS, pooling="MeanPooling").to(device)
    upstream.train()
    modules = torch.nn.ModuleList([upstream, featurizer, projector, downstream])
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-4)

    def step(batch: dict[str, torch.Tensor]) -> None:
        waves = [w[:n] for w, n in zip(batch["speech"], batch["speech_lengths"].tolist())]  # noqa: B905
        features = featurizer(waves, upstream(waves))
        lengths = torch.tensor([len(f) for f in features], device=device)
        frames = projector(torch.nn.utils.rnn.pad_sequence(features, batch_first=True))
        logits, _ = downstream(frames, lengths)
        (F.cross_entropy(logits, batch["emotion"][:, 0]) / ACCUMULATE).backward()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    epoch = random_batches(durations(), BATCH)
    return System(
        name="s3prl's featurizer and downstream",
        epoch=epoch,
        count=BATCHES,
        step=step,
        update=update,
        accumulate=ACCUMULATE,
        notes=f"float32, upstream fine-tuned, random batches of {BATCH}, an update (Adam) after "
        f"every {ACCUMULATE * BATCH} utterances, to which three rounds on a CPU do not come",
    )
