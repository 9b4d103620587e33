"""Pretrain the encoder of egs/mini/encoder: a small wav2vec 2.0, on synthetic speech.

The mini corpus has ten minutes of training speech, too little to learn phonemes from random
initialisation. The paper's encoder was pretrained on hundreds of hours, this one on half an hour of
espeak-ng: voices that are not in the mini corpus speak random sequences of everyday words at widely
varying rates, pitches and levels. It learns the manner classes of their phonemes by CTC, from the
sum of layers that the recipe fuses (eq. 4, with equal weights). No emotion label is used.
"""

import json
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

from ser import provenance
from ser.console import percent, progress
from ser.corpora import mini
from ser.data.audio import SAMPLE_RATE
from ser.files import atomic_dir, atomic_write
from ser.lang import lexicon
from ser.lang.units import ARPABET_TO_CLASS, BLANK, CLASSES, greedy_ctc, unit_error_rate
from ser.models.heads import CTCHead, Encoded
from ser.models.ssl import HFFrontend
from ser.training.batches import JitteredSampler

# Voice variants of espeak-ng; those of the mini corpus are f1 to f5 and m1 to m5.
_VOICES = """
    m6 m7 Alex Alicia Andrea Andy Annie Denis Diogo Gene Henrique Hugo Jacky Lee Marco Michael
    Mike Nguyen Reed adam anika antonio aunty belinda benjamin boris caleb david ed edward grandma
    grandpa gustave ian iven john kaukovalta linda marcelo max michel miguel norbert pablo paul
    pedro quincy rob robert sandro shelby steph travis victor"""
VOICES = tuple(_VOICES.split())
HELD_OUT = ("m8", "Storm", "edward2", "iven2", "steph2", "zac")  # for measuring the error rate
_WORDS = """
    a about after again air all always and animal any apple arm around ask at autumn away baby
    back ball bank basket be beach because bed before begin behind best big bird black book both
    bottle box boy bridge bring brown build but buy by camera can car catch chair change cheese
    child choose church city class clean clock close cloud coat cold color could country cup cut
    dance dark day deep did different dinner dream drink drive during each early earth easy eat egg
    eight enjoy enough even evening every eye face fall family far fast few field finger fire first
    fish five floor flower fly food for forest forget four fresh friend from fruit full garage girl
    give glass go good grass great green grow guess had half hand happy hat have head hear heavy
    help her high hill him his hope horse hot house how huge hurry ice if in is island it join joy
    judge jump just keep kind king know lady land large laugh leave leg less light like listen
    little long look love lunch machine make man many map maybe measure meet middle milk mind money
    month moon more mother mountain mouth move much music my name near need new night nine noise
    north nothing now ocean of often oil old on once one only open or orange other our out over own
    paint paper park people piano pick pleasure point pool pretty pull push put queen quick quiet
    rain reach ready red rest rice right ring river road room round run same sand say school sea
    see sell send seven shall shape sharp she ship short show side sign silver simple sing sister
    sit six sky sleep slow small smile snow so soft some soon sound south speak spring stand star
    start stay still stone stop storm story strong sugar summer sun sure sweet swim take talk tall
    teach tell ten than that the then these they thin thing think third this those thought three
    through time to today together too top town toy tree true try turn twelve two uncle under until
    up us usual very village voice vision visit wait walk wall want warm wash watch water way we
    wear weather week well west what wheel when where which while white who why wide will wind
    window wing winter wish with woman wood word work world would write year yellow yes yet you
    young your zero zoo"""
WORDS = tuple(_WORDS.split())
SENTENCE_WORDS = (1, 4)
UTTERANCES, TESTED = 2400, 120
EPOCHS, BATCH_SIZE, PEAK_LR, WARM_UP = 10, 8, 2e-3, 0.1
# A small wav2vec2-base, also with 20-ms frames: four convolutions instead of seven, the first with
# enough taps for a filter bank.
CONFIG = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [64, 64, 64, 64],
    "conv_kernel": [80, 8, 8, 4],
    "conv_stride": [10, 4, 4, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "activation_dropout": 0.0,
}


README = """# The encoder of the mini corpus

A wav2vec 2.0 of {parameters:,} parameters (fp16), pretrained by CTC on synthetic speech to tell
the six manner classes of phonemes. `conf/mini_*.yaml` start from it.

    make mini-encoder

wrote this folder, seed {seed}, in {minutes:.0f} minutes on one CPU core.

- **Data.** {sentences:,} random sequences of {words} everyday words, {heard:.0f} minutes, in
  {voices} voices of espeak-ng with rate, pitch, range and level drawn widely. No emotion is used.
- **Result.** PER {per} % on {tested} more sentences in {held_out} voices not trained on.
- **Apart from the corpus.** None of its voices and sentences is in the mini corpus: `heard.json`
  lists the voices, and stage 1 refuses the corpus otherwise.
- **Start.** The first convolution began as a bank of filters equally spaced in mel, all else at
  random (`local/mini_encoder.py`).
"""


@dataclass(frozen=True)
class Spoken:
    """One utterance: 16-kHz samples (L,) in [-1, 1] and the classes of its phonemes."""

    samples: np.ndarray
    units: list[str]


def sentences(count: int, generator: random.Random) -> list[str]:
    """Sample random sequences of ``WORDS``, none of them a sentence of the mini corpus."""
    taken = {plain(sentence) for sentence in (*mini.SCRIPTED, *mini.IMPROVISED)}
    found: list[str] = []
    while len(found) < count:
        sentence = " ".join(generator.choices(WORDS, k=generator.randint(*SENTENCE_WORDS)))
        if sentence not in taken:
            taken.add(sentence)
            found.append(sentence)
    return found


def plain(sentence: str) -> str:
    return " ".join(lexicon.split_text({"": sentence}, "en").words[""]).lower()


def speak(texts: Sequence[str], voices: Sequence[str], generator: random.Random) -> list[Spoken]:
    """Synthesise ``texts`` with ``voices`` in turn, each with its own prosody."""
    words = lexicon.split_text({str(i): text for i, text in enumerate(texts)}, "en").words
    phones = lexicon.build_lexicon(words, "en").phones
    spoken = []
    for index, text in enumerate(texts):
        prosody = mini.Prosody(
            rate=generator.uniform(115, 250),
            pitch=generator.uniform(5, 95),
            range=generator.uniform(5, 95),
            level=generator.uniform(-38, -14),
        )
        turn = mini.Turn(str(index), "", "", text, text, prosody)
        samples = mini.speak(turn, f"{mini.LANGUAGE}+{voices[index % len(voices)]}", generator)
        units = [ARPABET_TO_CLASS[phone] for word in words[str(index)] for phone in phones[word]]
        spoken.append(Spoken(samples.astype(np.float32) / 32768, units))
    return spoken


def filterbank(channels: int, taps: int) -> torch.Tensor:
    """Filters (C, 1, K): Hann-windowed sinusoids from 100 to 7000 Hz, equally spaced in mel.

    Adjacent filters differ in phase by a quarter period. Each has unit power gain for white noise.
    """
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (100, 7000))
    mel = torch.linspace(low, high, channels).unsqueeze(1)  # (C, 1)
    cycles = 700 * (10 ** (mel / 2595) - 1) * torch.arange(taps) / SAMPLE_RATE  # (C, K)
    quarter = 0.25 * (torch.arange(channels) % 2).unsqueeze(1)
    filters = torch.cos(2 * math.pi * (cycles + quarter)) * torch.hann_window(taps, False)
    return (filters / filters.norm(dim=1, keepdim=True)).unsqueeze(1)


class _Recognizer(torch.nn.Module):
    """The encoder, its layers summed with equal weights, and a CTC head over ``units``."""

    def __init__(self, units: Sequence[str]):
        super().__init__()
        self.frontend = HFFrontend(
            init="random", model_type="wav2vec2", config=CONFIG, normalize=False
        )
        self.frontend.fusion.requires_grad_(False)
        convolution = self.frontend.encoder.feature_extractor.conv_layers[0].conv
        with torch.no_grad():
            convolution.weight.copy_(filterbank(*convolution.weight.shape[::2]))
        self.head = CTCHead(self.frontend.output_size(), 0, units)

    def encode(self, batch: Sequence[Spoken]) -> Encoded:
        lengths = torch.tensor([len(one.samples) for one in batch])
        speech = torch.zeros(len(batch), int(lengths.max()))
        for row, one in zip(speech, batch, strict=True):
            row[: len(one.samples)] = torch.from_numpy(one.samples)
        frames, lengths = self.frontend(speech, lengths)
        return Encoded(frames, lengths, frames[:, 0, :0])

    def loss(self, batch: Sequence[Spoken]) -> torch.Tensor:
        index = {unit: i for i, unit in enumerate(self.head.inventory)}
        lengths = torch.tensor([len(one.units) for one in batch])
        target = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
        for row, one in zip(target, batch, strict=True):
            row[: len(one.units)] = torch.tensor([index[unit] for unit in one.units])
        return self.head(self.encode(batch), target, lengths)[0]

    @torch.no_grad()
    def error_rate(self, spoken: Sequence[Spoken]) -> float:
        """PER in evaluation mode, with greedy decoding."""
        self.eval()
        hyps = {}
        for index, one in enumerate(spoken):
            best = self.head.infer(self.encode([one]))[0].argmax(dim=-1).tolist()
            hyps[str(index)] = greedy_ctc(best, self.head.inventory)
        self.train()
        refs = {str(index): one.units for index, one in enumerate(spoken)}
        return unit_error_rate(refs, hyps).rate


def train(
    heard: Sequence[Spoken], tested: Sequence[Spoken], seed: int
) -> tuple[_Recognizer, float]:
    """Train on ``heard``; return the recogniser and its PER on ``tested``."""
    torch.manual_seed(seed)
    model = _Recognizer([BLANK, *CLASSES]).train()
    lengths = {str(index): len(one.samples) for index, one in enumerate(heard)}
    sampler = JitteredSampler(lengths, BATCH_SIZE, jitter=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LR, total_steps=EPOCHS * len(sampler), pct_start=WARM_UP
    )
    generator = random.Random(seed)
    for epoch in range(1, EPOCHS + 1):
        batches, total = sampler.generate(generator.getrandbits(32)), 0.0
        generator.shuffle(batches)
        for names in batches:
            loss = model.loss([heard[int(name)] for name in names])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        rate = model.error_rate(tested)
        progress(
            f"epoch {epoch} of {EPOCHS}: loss {total / len(batches):.2f}, "
            f"PER {percent(rate)} % on voices not trained on"
        )
    return model, rate


def make(directory: Path, seed: int) -> None:
    """Pretrain the encoder and write it to ``directory`` as a Hugging Face model.

    Also writes ``heard.json`` (voices and sentences) and a README.md. The same ``seed`` gives the
    same weights on the same machine and versions. An existing ``directory`` is replaced at the
    end.
    """
    began = time.process_time()
    torch.set_num_threads(1)
    generator = random.Random(seed)
    texts = sentences(UTTERANCES + TESTED, generator)
    heard = speak(texts[:UTTERANCES], VOICES, generator)
    tested = speak(texts[UTTERANCES:], HELD_OUT, generator)
    model, rate = train(heard, tested, seed)
    facts = {
        "seed": seed,
        "voices": [f"{mini.LANGUAGE}+{name}" for name in (*VOICES, *HELD_OUT)],
        "sentences": {"count": len(texts), "sha256": provenance.digest(texts)},
        "minutes": round(sum(len(one.samples) for one in heard) / SAMPLE_RATE / 60, 1),
        "held_out_voices": len(HELD_OUT),
        "held_out_per": round(rate, 4),
        "versions": provenance.versions() | {"espeakng-loader": version("espeakng-loader")},
    }
    plain = AutoModel.from_config(AutoConfig.for_model("wav2vec2", **CONFIG))
    plain.load_state_dict(model.frontend.encoder.state_dict())
    with atomic_dir(directory) as temporary:
        plain.half().save_pretrained(temporary)
        extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
        extractor.save_pretrained(temporary)
        with atomic_write(temporary / mini.HEARD) as stream:
            json.dump(facts, stream, indent=1)
            stream.write("\n")
        minutes = (time.process_time() - began) / 60
        parameters = sum(parameter.numel() for parameter in plain.parameters())
        (temporary / "README.md").write_text(
            README.format(
                seed=seed,
                minutes=minutes,
                parameters=parameters,
                per=percent(rate),
                voices=len(VOICES),
                held_out=len(HELD_OUT),
                heard=facts["minutes"],
                sentences=UTTERANCES,
                tested=TESTED,
                words=len(WORDS),
            ),
            encoding="utf-8",
        )


if __name__ == "__main__":  # FOLDER [SEED]
    make(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
