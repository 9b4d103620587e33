"""Example recordings for the demo page, spoken by espeak-ng in the emotions of the mini corpus."""

import random
from pathlib import Path

import numpy as np
import soundfile

from ser.corpora.mini import EMOTION_SHIFT, HABIT, IMPROVISED, Turn, speak
from ser.data.audio import SAMPLE_RATE
from ser.errors import UserError

SPOKEN = {"angry": "ang", "happy": "exc", "sad": "sad", "neutral": "neu"}
VOICE = "en-us+f1"
CHANGE = ("neutral", "angry", "sad")  # emotions of the example that changes
SENTENCES = 5  # per emotion in a row: longer than a window of the timeline


def make_examples(directory: Path) -> dict[str, Path]:
    """Speak one sentence in each emotion, and a recording in which the emotion changes.

    Args:
        directory: Folder for the WAV files, which is made.

    Returns:
        Description -> file; empty if espeak-ng does not work.
    """
    generator = random.Random(1)
    sentences = generator.sample(IMPROVISED, len(SPOKEN) + SENTENCES * len(CHANGE))
    try:
        made = {name: _say(sentences.pop(), name, generator) for name in SPOKEN}
        spoken = [_say(sentences.pop(), e, generator) for e in CHANGE for _ in range(SENTENCES)]
    except (UserError, OSError):
        return {}
    made[", then ".join(CHANGE)] = np.concatenate(spoken)
    directory.mkdir(parents=True)
    paths = {name: directory / f"{name.replace(', ', ' ')}.wav" for name in made}
    for name, path in paths.items():
        soundfile.write(path, made[name], SAMPLE_RATE, subtype="PCM_16")
    return paths


def _say(sentence: str, emotion: str, generator: random.Random) -> np.ndarray:
    label = SPOKEN[emotion]
    prosody = HABIT.shifted(EMOTION_SHIFT[label])
    return speak(Turn("example", "F", label, sentence, sentence, prosody), VOICE, generator)
