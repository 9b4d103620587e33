"""Predict the emotions in any recording with a trained model, or with the models of all its folds.

model = SpeechEmotion.from_pretrained("exp/iemocap/s1_mtl_phoneme_strict_seed1")
result = model("recording.mp3")
result.emotion, result.probabilities, result.segments, result.units
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser.data.audio import FRAME_SAMPLES, SAMPLE_RATE, silent, too_short
from ser.errors import UserError
from ser.models.inputs import pad, to_input
from ser.predict.inputs import SYNTHETIC, Meter, Trained, differences
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
    most_probable,
)
from ser.training.devices import find_device

if TYPE_CHECKING:
    import torch

AUTO, NONE = "auto", "none"
# Attention over a whole recording takes memory that grows with the square of its length.
LONGEST_SECONDS = 300.0
SHORTEST_SECONDS = 0.5  # of the windows; shorter ones are too short for an emotion
BATCH_SECONDS = 30.0  # of padded audio through the network at once


@dataclass(frozen=True)
class Prediction:
    """The prediction for one recording.

    ``segments`` follow on one another; where the recording has digital silence, there is none.
    ``units`` is the track of the CTC head, empty if the model has none.
    """

    emotion: str
    probabilities: dict[str, float]  # in the order of the model's emotions; they sum to 1
    segments: list[Segment]
    units: list[Unit]
    duration: float  # seconds
    warnings: tuple[str, ...] = ()  # why the model may be wrong about it


class SpeechEmotion:
    """A classifier of recordings.

    Args:
        models: one for each fold, in evaluation mode; their probabilities are averaged.
        feats_type: what they read, ``raw`` or one of ser.data.features.FEATS_TYPES.
        device: where they are.
        synthetic: whether they were trained on synthetic voices.
        trained: what their training utterances were like; None if unknown.
        classes: decide between these emotions only: their probabilities are restricted to them
            and renormalised. All when None.
        abstain: the least probability of a decision; below it the answer is ``unsure``.

    Raises:
        UserError: ``classes`` or ``abstain`` that cannot be.
    """

    def __init__(
        self,
        models: Sequence[Any],
        feats_type: str = "raw",
        device: str = "cpu",
        synthetic: bool = False,
        trained: Trained | None = None,
        classes: Sequence[str] | None = None,
        abstain: float = 0.0,
    ):
        from ser.models.heads import units_head

        self.models, self.feats_type, self.device = list(models), feats_type, device
        self.synthetic, self.trained = synthetic, trained
        self._all = list(models[0].emotions)
        self.emotions = [e for e in self._all if classes is None or e in classes]
        if classes is not None and (len(self.emotions) < 2 or {*classes} - {*self._all}):
            raise UserError(
                f"--classes {','.join(classes)}: expected two or more of the model's emotions: "
                f"{', '.join(self._all)}"
            )
        if not 0 <= abstain < 1:
            raise UserError(f"--abstain {abstain:g}: expected a probability from 0 to below 1")
        self.abstain = abstain
        self._heads = [units_head(model) for model in models]
        self.units = list(models[0].aux_units[self._heads[0]]) if self._heads[0] else []

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        device: str = "cpu",
        folds: str | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        abstain: float = 0.0,
    ) -> SpeechEmotion:
        """Load a model.

        Args:
            source: a packed model's folder, zip or hub id, or exp/<corpus>/<tag>.
            device: cpu, cuda, cuda:1, mps...; auto takes a GPU if there is one.
            folds: the folds whose models are asked, or "NAME NAME"; all when None. Each is kept
                in memory.
            classes, abstain: as of the class.

        Raises:
            UserError: no such model, a damaged one, unknown folds, no such device.
        """
        from ser.predict.package import open_model

        packed = open_model(source)
        folds = folds.split() if isinstance(folds, str) else folds
        unknown = [fold for fold in folds or () if fold not in packed.folds]
        if unknown:
            raise UserError(
                f"--folds {' '.join(unknown)}: not in {source}, which has {' '.join(packed.folds)}"
            )
        device = find_device(device)
        with _memory(device):
            models = [packed.load(fold, device) for fold in folds or packed.folds]
        synthetic, trained = packed.card.get("synthetic", False), packed.card.get("input")
        trained = None if trained is None else Trained.model_validate(trained)
        return cls(models, packed.feats_type, device, synthetic, trained, classes, abstain)

    def __call__(
        self,
        audio: str | Path | np.ndarray | torch.Tensor | Mapping[str, Any],
        sampling_rate: int | None = None,
        segments: str | float = AUTO,
        on_progress: Callable[[float, float], None] | None = None,
    ) -> Prediction:
        """Predict one recording; memory does not grow with its length.

        Args:
            audio: a file, or samples (L,), (L, channels) or (channels, L): floats in [-1, 1] or
                integers of full scale; or {"array": samples, "sampling_rate": Hz}.
            sampling_rate: of samples, Hz.
            segments: ``auto`` (see ser/predict/windows.py), ``none`` for the whole recording as one
                utterance, or the length of windows in seconds.
            on_progress: called with the seconds done and the seconds there are.

        Raises:
            UserError: what cannot be read (predict/recordings.py), a recording that is silent from
                start to end or shorter than one frame; ``none`` with more than LONGEST_SECONDS.
        """
        check_segments(segments)
        recording = open_recording(audio, sampling_rate)
        name = recording.name
        done: list[Segment] = []
        track = UnitTrack(self.units)
        meter = Meter()
        end = 0  # samples
        for batch in _batches(_windows(recording, segments)):
            for window in batch:
                meter.add(window.samples)
            heard = [window for window in batch if _has_sound(window)]
            for window, probs, posteriors in self._infer(name, heard) if heard else ():
                start, end = (edge / SAMPLE_RATE for edge in window.owns)
                done.append(Segment(start, end, self._named(probs), self.abstain))
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
            warnings=(
                *((SYNTHETIC,) if self.synthetic else ()),
                *differences(meter, recording.rate, self.trained),
            ),
        )

    def _named(self, probs: np.ndarray) -> dict[str, float]:
        """(C,) probabilities of all the model's emotions -> those of ``emotions``, summing to 1."""
        if self.emotions != self._all:
            chosen = np.array([emotion in self.emotions for emotion in self._all])
            probs = np.where(chosen, probs + FLOOR, 0)
            probs = probs / probs.sum()
        return {e: float(p) for e, p in zip(self._all, probs, strict=True) if e in self.emotions}

    def _infer(
        self, name: str, windows: Sequence[Window]
    ) -> Iterator[tuple[Window, np.ndarray, np.ndarray | None]]:
        """Each window, its probabilities (C,), and its units' posteriors (T, V) if there are any.

        Both are means over the models.
        """
        import torch

        arrays = [to_input(window.samples, self.feats_type) for window in windows]
        speech, lengths = pad(arrays)
        probs, posteriors = 0.0, 0.0
        with _memory(self.device), torch.inference_mode():
            for model, head in zip(self.models, self._heads, strict=True):
                try:
                    out = model.infer(speech.to(self.device), lengths.to(self.device))
                except UserError as err:
                    raise UserError(f"{name}: {err}") from None
                probs += out["emotion_logp"].double().exp().cpu().numpy() / len(self.models)
                frames = out["lengths"].tolist()
                if self.units:
                    units = out["aux"][head].float().exp().cpu().numpy()
                    posteriors += units / np.float32(len(self.models))  # (B, T, V)
        if not np.isfinite(probs).all():
            raise UserError(
                f"{name}: the model gives probabilities that are not numbers; its training has "
                "diverged: choose another --model, or leave out that fold with --folds"
            )
        for i, window in enumerate(windows):
            yield window, probs[i], posteriors[i, : frames[i]] if self.units else None


def check_segments(segments: str | float) -> None:
    """Raise UserError unless ``segments`` is auto, none, or a number of seconds that can be."""
    if segments in (AUTO, NONE):
        return
    if not isinstance(segments, Real) or not (SHORTEST_SECONDS <= segments <= LONGEST_SECONDS):
        raise UserError(
            f"--segments {segments}: expected {AUTO}, {NONE}, or seconds from {SHORTEST_SECONDS:g} "
            f"to {LONGEST_SECONDS:g}"
        )


@contextmanager
def _memory(device: str) -> Iterator[None]:
    """Turn a full GPU memory into a readable error."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as err:
        what = str(err).splitlines()[0].rstrip(".")
        raise UserError(
            f"--device {device}: {what}; choose fewer models with --folds, shorter --segments, or "
            "--device cpu"
        ) from None


def _windows(recording: Recording, segments: str | float) -> Iterator[Window]:
    """The windows of a recording; UserError if it cannot be taken as one or is too short."""
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


def _has_sound(window: Window) -> bool:
    """False where all samples are equal, as in a recording that is refused as silent."""
    return bool(window.samples.min() != window.samples.max())


def _batches(windows: Iterable[Window]) -> Iterator[list[Window]]:
    """Windows in order, as many at once as BATCH_SECONDS hold; at least one."""
    batch: list[Window] = []
    longest = 0
    for window in windows:
        longest = max(longest, len(window.samples))
        if batch and longest * (len(batch) + 1) > BATCH_SECONDS * SAMPLE_RATE:
            yield batch
            batch, longest = [], len(window.samples)
        batch.append(window)
    if batch:
        yield batch
