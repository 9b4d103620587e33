"""Predict the emotions in a recording with a trained model, or with an ensemble of its folds.

model = SpeechEmotion.from_pretrained("exp/iemocap/s1_mtl_phoneme_strict_seed1")
result = model("recording.mp3")
result.emotion, result.probabilities, result.segments, result.units
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser.data.audio import FRAME_SAMPLES, SAMPLE_RATE, silent, too_short
from ser.data.video import AUDIO_VIDEO, whole_picture
from ser.errors import UserError
from ser.models.inputs import to_input
from ser.predict.inputs import SYNTHETIC, Meter, Trained, differences
from ser.predict.models import Model
from ser.predict.recordings import Recording, open_recording
from ser.predict.windows import (
    FLOOR,
    Segment,
    Unit,
    UnitTrack,
    Window,
    cut,
    cut_auto,
    cut_whole,
    decide,
    has_sound,
    mean_values,
    most_probable,
)

if TYPE_CHECKING:
    import torch

AUTO, NONE = "auto", "none"
# Attention over a whole recording takes memory quadratic in its length.
LONGEST_SECONDS = 300.0
SHORTEST_SECONDS = 0.5  # minimum window; shorter ones are too short for an emotion
BATCH_SECONDS = 30.0  # of padded audio per batch


@dataclass(frozen=True)
class Prediction:
    """The prediction for one recording.

    ``segments`` are consecutive; there is none for digital silence in the recording.
    ``units`` is the output of the CTC head, empty if the model has none.
    """

    emotion: str
    probabilities: dict[str, float]  # in the order of the model's emotions; they sum to 1
    segments: list[Segment]
    units: list[Unit]
    duration: float  # seconds
    warnings: tuple[str, ...] = ()  # why the model may be wrong about it
    values: dict[str, float] = field(default_factory=dict)  # arousal ..., if there are such heads
    speakers: dict[str, Segment] = field(default_factory=dict)  # mean over each one's turns


class SpeechEmotion:
    """Emotion classifier for recordings.

    Args:
        models: One model per fold (predict/models.py); their probabilities are averaged.
        feats_type: Input of the models, ``raw`` or one of ser.data.features.FEATS_TYPES.
        synthetic: Whether they were trained on synthetic voices.
        trained: Properties of their training utterances; None if unknown.
        classes: Decide between these emotions only: the probabilities are restricted to them
            and renormalised. All if None.
        abstain: Minimum probability of a decision; below it the answer is ``unsure``.

    Raises:
        UserError: Invalid ``classes`` or ``abstain``.
    """

    def __init__(
        self,
        models: Sequence[Model],
        feats_type: str = "raw",
        synthetic: bool = False,
        trained: Trained | None = None,
        classes: Sequence[str] | None = None,
        abstain: float = 0.0,
    ):
        self.models, self.feats_type = list(models), feats_type
        self.synthetic, self.trained = synthetic, trained
        self._all = list(models[0].emotions)
        check_decision(self._all, classes, abstain)
        self.emotions = [e for e in self._all if classes is None or e in classes]
        self.abstain = abstain
        self.units, self.values = models[0].units, models[0].values

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        device: str = "cpu",
        folds: str | Sequence[str] | None = None,
        backend: str = "auto",
        precision: str = "auto",
        classes: Sequence[str] | None = None,
        abstain: float = 0.0,
    ) -> SpeechEmotion:
        """Load a model.

        Args:
            source: A packed model's folder, zip or hub id, or exp/<corpus>/<tag>.
            device: cpu, cuda, cuda:1, mps...; auto takes a GPU if there is one.
            folds: The folds whose models are used, or "NAME NAME"; all if None. Each is kept
                in memory.
            backend, precision: See ser.predict.package.load_models.
            classes, abstain: See the class.

        Raises:
            UserError: No such model, a damaged one, unknown folds, no such device, a backend or
                precision that the model or the machine does not support.
        """
        from ser.predict.package import load_models, open_model

        packed = open_model(source)
        folds = folds.split() if isinstance(folds, str) else folds
        unknown = [fold for fold in folds or () if fold not in packed.folds]
        if unknown:
            raise UserError(
                f"--folds {' '.join(unknown)}: not in {source}, which has {' '.join(packed.folds)}"
            )
        check_decision(packed.emotions, classes, abstain)  # before weights are loaded
        models = load_models(packed, folds or packed.folds, device, backend, precision)
        synthetic, trained = packed.card.get("synthetic", False), packed.card.get("input")
        trained = None if trained is None else Trained.model_validate(trained)
        return cls(models, packed.feats_type, synthetic, trained, classes, abstain)

    def __call__(
        self,
        audio: str | Path | np.ndarray | torch.Tensor | Mapping[str, Any],
        sampling_rate: int | None = None,
        segments: str | float = AUTO,
        on_progress: Callable[[float, float], None] | None = None,
    ) -> Prediction:
        """Predict one recording; memory does not grow with its length.

        Args:
            audio: A file, or samples (L,), (L, channels) or (channels, L): floats in [-1, 1] or
                full-scale integers; or {"array": samples, "sampling_rate": Hz}.
            sampling_rate: Sampling rate of the samples, Hz.
            segments: ``auto`` (see ser/predict/windows.py), ``none`` for the whole recording as one
                utterance, or the window length in seconds.
            on_progress: Called with the seconds done and the total seconds.

        Raises:
            UserError: Unreadable audio (predict/recordings.py), a recording that is entirely silent
                or shorter than one frame; ``none`` with more than LONGEST_SECONDS.
        """
        check_segments(segments)
        recording = open_recording(audio, sampling_rate)
        name = recording.name
        done: list[Segment] = []
        track = UnitTrack(self.units)
        meter = Meter()
        end = 0  # samples
        face = self._face(audio)
        for batch in _batches(_windows(recording, segments)):
            for window in batch:
                meter.add(window.samples)
            heard = [window for window in batch if has_sound(window.samples)]
            for window, probs, values, posteriors in self._infer(name, heard, face):
                start, end = (edge / SAMPLE_RATE for edge in window.owns)
                done.append(Segment(start, end, self._named(probs), values, self.abstain))
                if posteriors is not None:
                    track.add(window, posteriors)
            end = batch[-1].owns[1]
            if on_progress is not None:
                on_progress(end / SAMPLE_RATE, recording.duration)
        if not done:
            raise too_short(name, 0, SAMPLE_RATE) if end == 0 else silent(name, end)
        probabilities = decide(done)
        return Prediction(
            emotion=most_probable(probabilities, self.abstain),
            probabilities=probabilities,
            segments=done,
            units=track.units,
            duration=end / SAMPLE_RATE,
            warnings=self.warnings_of(meter, recording.rate),
            values=mean_values(done),
        )

    def warnings_of(self, meter: Meter, rate: float | None) -> tuple[str, ...]:
        """Why the model may be wrong about a recording of ``rate`` Hz, as measured by ``meter``."""
        synthetic = (SYNTHETIC,) if self.synthetic else ()
        return (*synthetic, *differences(meter, rate, self.trained))

    def _named(self, probs: np.ndarray) -> dict[str, float]:
        """Restrict the model's probabilities (C,) to ``emotions`` and renormalise them."""
        if self.emotions != self._all:
            chosen = np.array([emotion in self.emotions for emotion in self._all])
            probs = np.where(chosen, probs + FLOOR, 0)
            probs = probs / probs.sum()
        return {e: float(p) for e, p in zip(self._all, probs, strict=True) if e in self.emotions}

    def _face(self, audio: Any) -> str:
        """Box and file of the face for a model of ``audio_video``; else empty."""
        if self.feats_type != AUDIO_VIDEO:
            return ""
        if not isinstance(audio, str | Path):
            raise UserError("this model reads faces too (audio_video); give the file of a video")
        return whole_picture(str(audio))

    def _infer(
        self, name: str, windows: Sequence[Window], face: str
    ) -> Iterator[tuple[Window, np.ndarray, dict[str, float], np.ndarray | None]]:
        """Yield each window, its probabilities (C,), values, and unit posteriors (T, V) if any.

        All are means over the models.
        """
        if not windows:
            return
        looks = [(f"{w.start / SAMPLE_RATE} {face}",) if face else () for w in windows]
        pairs = zip(windows, looks, strict=True)
        batch = np.stack([to_input(w.samples, self.feats_type, *look) for w, look in pairs])
        try:
            outputs = [model(batch) for model in self.models]
        except UserError as err:
            raise UserError(f"{name}: {err}") from None
        probs = np.mean([np.exp(out.logp, dtype=np.float64) for out in outputs], axis=0)
        values = {key: np.mean([out.values[key] for out in outputs], axis=0) for key in self.values}
        posteriors = [None] * len(windows)
        if self.units:
            posteriors = np.mean([np.exp(out.units) for out in outputs], axis=0)  # (B, T, V)
        if not np.isfinite(probs).all():
            raise UserError(
                f"{name}: the model gives probabilities that are not numbers; its training has "
                "diverged: choose another --model, or leave out that fold with --folds"
            )
        for i, window in enumerate(windows):
            own = {key: float(value[i]) for key, value in values.items()}
            yield window, probs[i], own, posteriors[i]


def check_decision(emotions: Sequence[str], classes: Sequence[str] | None, abstain: float) -> None:
    """Raise UserError for ``classes`` or ``abstain`` that do not fit a model's ``emotions``."""
    if classes is not None and (len({*classes}) < 2 or {*classes} - {*emotions}):
        raise UserError(
            f"--classes {','.join(classes)}: expected two or more of the model's emotions: "
            f"{', '.join(emotions)}"
        )
    if not 0 <= abstain < 1:
        raise UserError(f"--abstain {abstain:g}: expected a probability from 0 to below 1")


def check_segments(segments: str | float) -> None:
    """Raise UserError unless ``segments`` is auto, none, or a valid number of seconds."""
    if segments in (AUTO, NONE):
        return
    if not isinstance(segments, Real) or not (SHORTEST_SECONDS <= segments <= LONGEST_SECONDS):
        raise UserError(
            f"--segments {segments}: expected {AUTO}, {NONE}, or seconds from {SHORTEST_SECONDS:g} "
            f"to {LONGEST_SECONDS:g}"
        )


def _windows(recording: Recording, segments: str | float) -> Iterator[Window]:
    """Windows of a recording; UserError if it is too long to be taken as one, or too short."""
    blocks = recording.blocks()
    if segments == AUTO:
        windows = cut_auto(blocks)
    elif segments == NONE:
        windows = cut_whole(blocks, round(LONGEST_SECONDS * SAMPLE_RATE))
    else:
        size = round(segments * SAMPLE_RATE)
        windows = cut(blocks, size, size)
    try:
        for window in windows:
            if len(window.samples) < FRAME_SAMPLES:
                raise too_short(recording.name, len(window.samples), SAMPLE_RATE)
            yield window
    except OverflowError:
        raise UserError(
            f"{recording.name}: longer than {LONGEST_SECONDS:.0f} s, which is the most that is "
            "taken as one; use --segments auto, or a number of seconds"
        ) from None


def _batches(windows: Iterable[Window]) -> Iterator[list[Window]]:
    """Batch consecutive windows of equal length, up to BATCH_SECONDS, at least one each."""
    batch: list[Window] = []
    for window in windows:
        size = len(window.samples)
        full = size * (len(batch) + 1) > BATCH_SECONDS * SAMPLE_RATE
        if batch and (full or size != len(batch[0].samples)):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
