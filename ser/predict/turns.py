"""Predict emotions per turn and per speaker, given a speaker diarisation.

The diarisation may come from any system, as RTTM (NIST RT-09); lines of type SPEAKER are read:

    SPEAKER <file> <channel> <start> <duration> <NA> <NA> <name> <NA> <NA>
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ser.data.audio import FRAME_SAMPLES, SAMPLE_RATE
from ser.errors import UserError
from ser.predict.classifier import SHORTEST_SECONDS
from ser.predict.inputs import Meter
from ser.predict.recordings import ARRAY, open_recording
from ser.predict.windows import Segment, decide, has_sound, mean_values, most_probable

if TYPE_CHECKING:
    from ser.predict.classifier import Prediction, SpeechEmotion

BEYOND = 0.1  # seconds that a turn may exceed the recording, since frames are rounded up


@dataclass(frozen=True)
class Turn:
    """One turn, in seconds, and its line in the RTTM."""

    start: float
    end: float
    speaker: str
    where: str


def read_rttm(path: Path | str) -> dict[str, list[Turn]]:
    """Read the turns of each file named in an RTTM, in order of their start.

    Raises:
        UserError: No such file, a malformed line, or no turns.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(f"--rttm {path}: cannot be read ({err}); give a file of turns") from None
    turns: dict[str, list[Turn]] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue  # comments, and types such as SPKR-INFO
        try:
            file, start, seconds, name = fields[1], float(fields[3]), float(fields[4]), fields[7]
            if not (0 <= start < float("inf") and 0 < seconds < float("inf")):
                raise ValueError
        except (ValueError, IndexError):
            raise UserError(
                f"{path}:{number}: found {line!r}; expected 'SPEAKER <file> 1 <start> <duration> "
                "<NA> <NA> <name> <NA> <NA>', in seconds"
            ) from None
        turns.setdefault(file, []).append(Turn(start, start + seconds, name, f"{path}:{number}"))
    if not turns:
        raise UserError(f"--rttm {path}: no line of type SPEAKER; give a diarisation as RTTM")
    return {file: sorted(own, key=lambda turn: turn.start) for file, own in turns.items()}


def turns_of(recording: str, duration: float, rttm: dict[str, list[Turn]]) -> list[Turn]:
    """Turns of one recording, looked up by its name without folder and suffix.

    Raises:
        UserError: No turns, or one that exceeds the ``duration``.
    """
    turns = rttm.get(Path(recording).stem)
    if turns is None:
        raise UserError(
            f"{recording}: --rttm has no turns of {Path(recording).stem!r}, but of "
            f"{', '.join(map(repr, list(rttm)[:3]))}; rename the file, or correct the RTTM"
        )
    for turn in turns:
        if turn.end > duration + BEYOND:
            raise UserError(
                f"{turn.where}: a turn ends at {turn.end:.2f} s, {recording} at {duration:.2f} s; "
                "give the RTTM of this recording"
            )
    return turns


def predict_turns(
    model: SpeechEmotion,
    audio: str,
    turns: Sequence[Turn],
    segments: str | float,
    on_progress: Callable[[float, float], None],
) -> Prediction:
    """Predict each turn separately; overlapping speech is used for the turns of both speakers.

    The recording is held in memory, 2 bytes per sample. Turns too short for the model or without
    sound are left out, and counted in ``warnings``. ``speakers`` has the mean over each speaker's
    turns, weighted by duration.

    Raises:
        UserError: As SpeechEmotion; no turn with sound.
    """
    recording = open_recording(audio)
    samples = np.concatenate(list(recording.blocks()))
    meter = Meter()
    meter.add(samples)
    heard, found = [], []
    for turn in turns:
        part = samples[round(turn.start * SAMPLE_RATE) : round(turn.end * SAMPLE_RATE)]
        if said := _predict_turn(model, part, turn, segments):
            heard.append(said)
            found += [
                s._replace(start=s.start + turn.start, end=s.end + turn.start, speaker=turn.speaker)
                for s in said.segments
            ]
        on_progress(turn.end, len(samples) / SAMPLE_RATE)
    if not heard:
        raise UserError(f"{recording.name}: no turn of --rttm has sound")
    speakers = {}
    for name in dict.fromkeys(turn.speaker for turn in turns):
        own = [s for s in found if s.speaker == name]
        if own:
            seconds = sum(s.end - s.start for s in own)
            speakers[name] = Segment(0, seconds, decide(own), mean_values(own), model.abstain, name)
    probabilities = decide(found)
    warnings = model.warnings_of(meter, recording.rate)
    if left := len(turns) - len(heard):
        lost = f"{left} of {len(turns)} turns left out, too short for the model or without sound"
        warnings = (*warnings, lost)
    return replace(
        heard[0],
        emotion=most_probable(probabilities, model.abstain),
        probabilities=probabilities,
        segments=found,
        units=[],
        duration=len(samples) / SAMPLE_RATE,
        warnings=warnings,
        values=mean_values(found),
        speakers=speakers,
    )


def _predict_turn(
    model: SpeechEmotion, part: np.ndarray, turn: Turn, segments: str | float
) -> Prediction | None:
    """Predict a turn's samples; None if they are too short for the model or have no sound."""
    if len(part) < FRAME_SAMPLES or not has_sound(part):
        return None
    try:
        return model(part, SAMPLE_RATE, segments)
    except UserError as err:
        if len(part) < SHORTEST_SECONDS * SAMPLE_RATE:
            return None
        raise UserError(f"{turn.where}: {str(err).removeprefix(f'{ARRAY}: ')}") from None
