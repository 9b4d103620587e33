"""Recordings embedded in the page, and a fold's frame-level outputs for one utterance."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ser.data.audio import FULL_SCALE, SAMPLE_RATE, read_16k_mono
from ser.data.tables import read_table
from ser.errors import UserError
from ser.lang.units import greedy_ctc, units_head
from ser.models.inputs import load_input, pad
from ser.reporting.charts import Chart
from ser.reporting.inputs import ReportInput
from ser.reporting.tracks import tracks_chart

MOST_BYTES = 3_000_000  # of all recordings on a page: in base64 4 MB, so that it stays below 5
LoadModel = Callable[[Path, str], Any]  # (exp/<corpus>/<tag>, fold) -> a model for inference


@dataclass(frozen=True)
class Player:
    """A recording as the source of an audio element, or why there is none."""

    src: str = ""
    problem: str = ""


@dataclass
class Recordings:
    """Locations of the utterances' recordings, and the bytes left for them on the page."""

    dumped: Mapping[str, str]  # dump/<corpus>/wav.scp: the model's input
    original: Mapping[str, str]  # the corpus's files, for utterances not in the dump
    left: int = MOST_BYTES
    cache: dict[str, bytes] = field(default_factory=dict)

    def flac(self, utt_id: str) -> bytes:
        """Encode the recording as FLAC at 16 kHz; UserError or OSError without one."""
        if utt_id not in self.cache:
            if utt_id in self.dumped:
                samples = FULL_SCALE * load_input(self.dumped[utt_id])
            elif utt_id in self.original:
                samples = read_16k_mono(self.original[utt_id])
            else:
                raise UserError(f"{utt_id}: no recording known; run stages 1 and 3 on this machine")
            stream = io.BytesIO()
            samples = np.clip(np.round(samples), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
            soundfile.write(stream, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            self.cache[utt_id] = stream.getvalue()
        return self.cache[utt_id]

    def player(self, utt_id: str) -> Player:
        """Content of the page's audio element, as long as the page stays small enough."""
        try:
            content = self.flac(utt_id)
        except (UserError, OSError) as err:
            name = err.strerror if isinstance(err, OSError) and err.strerror else "not found"
            return Player(problem=f"{name} on the machine that wrote this page")
        if len(content) > self.left:
            why = f"its {len(content) / 1e6:.1f} MB would make the page too large to pass on"
            return Player(problem=why)
        self.left -= len(content)
        return Player(data_uri("audio/flac", content))


@dataclass(frozen=True)
class Analysis:
    """Outputs of a fold's model for one utterance; no posteriors without a CTC head."""

    fold: str
    ref: str
    hyp: str
    words: str
    reference: str  # units
    probs: tuple[float, ...]  # by emotion
    posteriors: np.ndarray | None  # (T, V)
    decoded: Sequence[str]  # best path
    draw: Callable[[float], Chart]  # by width


def data_uri(kind: str, content: bytes) -> str:
    """Encode ``content`` of the media type ``kind`` as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def find_recordings(dump_dir: Path, original: Mapping[str, str]) -> Recordings:
    """Find the recordings in ``dump_dir``, or else the files in ``original``."""
    scp = dump_dir / "wav.scp"
    return Recordings(read_table(scp) if scp.is_file() else {}, original)


def load_trained(exp_dir: Path, fold: str) -> Any:
    """Load the model that stage 5 tests a fold with, on the CPU."""
    from ser.predict.package import open_model

    return open_model(exp_dir).load(fold)


def analyse(
    m: ReportInput, utt_id: str, words: str, load_model: LoadModel = load_trained
) -> Analysis:
    """Infer one utterance with the model of its fold, as stage 5 does.

    Raises:
        UserError: no model, or a damaged one, or no input for the utterance.
        OSError: a file that cannot be read.
    """
    import torch

    experiment, fold = m.experiment, m.fold_of(utt_id)
    if fold is None:
        raise UserError(f"{utt_id}: not tested in a scored fold of {m.exp_dir}")
    entry = read_table(experiment.input_scp).get(utt_id)
    wav = read_table(experiment.dump_dir / "wav.scp").get(utt_id)
    if entry is None or wav is None:
        raise UserError(f"{experiment.input_scp}: {utt_id} is not in it; run stage 3 again")
    model = load_model(experiment.exp_dir, fold)
    with torch.inference_mode():
        out = model.infer(*pad([load_input(entry, experiment.feats_type)]))
    probs = tuple(float(p) for p in out["emotion_logp"][0].float().exp())
    head, posteriors, units, decoded = units_head(model), None, (), ()
    if head is not None:
        frames = int(out["lengths"][0])
        posteriors = out["aux"][head][0, :frames].float().exp().numpy()  # (T, V)
        units = model.aux_units[head]
        decoded = greedy_ctc(posteriors.argmax(axis=-1), units)
    labels, speech = experiment.labels, load_input(wav)
    text = read_table(experiment.text, allow_empty=True) if experiment.text.is_file() else {}

    def draw(width: float) -> Chart:
        title = f"{utt_id} over time, {m.name}"
        return tracks_chart(speech, posteriors, units, labels, title, width)

    return Analysis(
        fold=fold,
        ref=experiment.references(fold)[utt_id],
        hyp=labels[max(range(len(labels)), key=lambda i: probs[i])],
        words=words,
        reference=text.get(utt_id, ""),
        probs=probs,
        posteriors=posteriors,
        decoded=decoded,
        draw=draw,
    )
