"""The mini corpus: synthetic emotional speech, made here with espeak-ng.

Ten voices in five sessions speak everyday sentences in four emotions. An emotion is a shift of
speaking rate, pitch, pitch range and loudness relative to the voice's baseline; utterances vary
around it, so that classes overlap. Emotions are assigned to sentences at random, so the words carry
no information about the class. The corpus is written in IEMOCAP's layout, including its oddities,
and read by IEMOCAP's reader. It is meant for trying the recipe, not for studying emotion.
"""

import io
import json
import operator
import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ser.console import progress
from ser.data.audio import SAMPLE_RATE
from ser.errors import UserError
from ser.files import ROOT, atomic_dir, locked, naming
from ser.lang import espeak
from ser.stage import file_digest, is_done, mark_done, read_marker

ENCODER = ROOT / "egs" / "mini" / "encoder"
HEARD = "heard.json"  # in the encoder's folder: the voices of its pretraining
SESSIONS = 5
LANGUAGE = "en-us"  # of espeak-ng's voices
# IEMOCAP's label -> utterances per speaker; hap and exc together are the class happy.
FOUR_CLASS = {"neu": 12, "hap": 5, "exc": 5, "ang": 10, "sad": 8}
# Added to each dialog: labels that the four-class task leaves out.
LEFT_OUT = ("xxx", "fru")

# Scripted dialogs: every speaker says all of these.
SCRIPTED = (
    "I left the keys on the table.",
    "They moved the meeting to Friday.",
    "You didn't tell me about the letter.",
    "The train leaves in ten minutes.",
    "My sister is coming home tonight.",
    "He's going to sell the old house.",
    "Put the boxes next to the door.",
    "We have been waiting since noon.",
    "That was the last piece of cake.",
    "She called me from the airport.",
    "I can't find my blue jacket.",
    "The doctor said it would take a week.",
    "Nobody told us it was closed.",
    "Did you see what happened outside?",
    "Marguerite wants to talk to you.",
    "It's raining again.",
    "There is somebody at the door.",
    "We won't be back before Sunday.",
    "I have to be there at eight.",
    "The phone rang all morning.",
)
# Improvised dialogs: a speaker says half of these. Names such as Thistlewick are out of vocabulary.
IMPROVISED = (
    "Could you open the window?",
    "The children are still asleep.",
    "I thought you knew about it.",
    "Mister Thistlewick bought the farm.",
    "We took the wrong road.",
    "He never answers his messages.",
    "That isn't what I asked for.",
    "They found the dog in the garden.",
    "The coffee is getting cold.",
    "I'll be there in a moment.",
    "You're standing on my foot.",
    "She has lived here for twenty years.",
    "The bus from Zelbrook was full.",
    "Look at this picture.",
    "We've got one more day.",
    "The lights went out again.",
    "I saw your brother at the market.",
    "Please read the second page.",
    "It takes an hour to walk there.",
    "Everybody knows the answer.",
    "The shop around the corner has changed.",
    "I wasn't expecting you today.",
    "He left without his shoes.",
    "Our neighbors have a new car.",
    "What are we going to do now?",
    "The water is running in the kitchen.",
    "I've heard that song before.",
    "You should have called us first.",
    "The snow covered the whole street.",
    "Let me think about it.",
    "They gave the job to Ravindra.",
    "The bread is still warm.",
    "My father fixed the radio.",
    "There aren't any tickets left.",
    "We are almost there.",
    "Someone took my umbrella.",
    "The judge will decide tomorrow.",
    "She couldn't remember the number.",
    "I gave it to the teacher.",
    "That's the end of the story.",
)
TAGS = ("[LAUGHTER]", "[BREATHING]", "[GARBAGE]", "[LIPSMACK]")
TAGGED_SHARE = 0.05
WORDLESS = "Ha ha ha ha."  # spoken where the transcript is only a tag


@dataclass(frozen=True)
class Prosody:
    """Speaking rate in words per minute, pitch and range in espeak's 0 to 100, level in dB."""

    rate: float
    pitch: float
    range: float
    level: float

    def varied(self, generator: random.Random, spread: "Prosody") -> "Prosody":
        """Sample from independent normal distributions around this one."""
        return Prosody(*map(generator.gauss, astuple(self), astuple(spread)))

    def shifted(self, by: "Prosody") -> "Prosody":
        return Prosody(*map(operator.add, astuple(self), astuple(by)))


# Level is the utterance's power below full scale. The spreads decide how hard the task is;
# egs/mini/README.md reports the result.
HABIT = Prosody(rate=175, pitch=45, range=45, level=-27)
SPEAKER_SPREAD = Prosody(rate=8, pitch=5, range=4, level=1.5)
UTTERANCE_SPREAD = Prosody(rate=13, pitch=6, range=8, level=2)
EMOTION_SHIFT = {
    "neu": Prosody(rate=0, pitch=0, range=0, level=0),
    "hap": Prosody(rate=15, pitch=26, range=35, level=3),
    "exc": Prosody(rate=25, pitch=32, range=40, level=5),
    "ang": Prosody(rate=35, pitch=0, range=10, level=9),
    "sad": Prosody(rate=-45, pitch=-20, range=-30, level=-6),
    "xxx": Prosody(rate=8, pitch=4, range=4, level=1),
    "fru": Prosody(rate=10, pitch=2, range=4, level=4),
}
ATTRIBUTES = {  # valence, activation, dominance: mean over annotators
    "neu": (3.0, 2.5, 3.0),
    "hap": (4.0, 3.0, 3.0),
    "exc": (4.5, 4.0, 3.5),
    "ang": (1.5, 4.0, 4.0),
    "sad": (2.0, 2.0, 2.0),
    "xxx": (2.5, 3.0, 3.0),
    "fru": (2.0, 3.0, 3.5),
}
RATER_WORD = {
    "neu": "Neutral",
    "hap": "Happiness",
    "exc": "Excited",
    "ang": "Anger",
    "sad": "Sadness",
    "xxx": "Other",
    "fru": "Frustration",
}
# Added to them per unit of rate, pitch, range and level beyond the emotion's own shift.
ATTRIBUTE_SLOPES = ((0, 0, 0.02, 0), (0.02, 0, 0, 0.1), (0, -0.01, 0, 0.12))
# Louder voices are also brighter: gain above the corner in dB per dB of level. So a trace of
# loudness remains in waveforms that a model normalises.
EFFORT_TILT = 0.7
EFFORT_CORNER = 1000.0  # Hz
NOISE_LEVEL = -65.0  # dB; digital silence would give log spectra of minus infinity
GAP = 0.4  # seconds between turns
RESOURCE_FORK = b"\0\5\x16\7\0\2\0\0Mac OS X        "  # first bytes of a macOS "._" file


@dataclass(frozen=True)
class Turn:
    """One utterance before it is spoken."""

    utt_id: str
    gender: str  # F or M
    label: str
    spoken: str
    transcript: str
    prosody: Prosody


def make(directory: Path, seed: int) -> None:
    """Write the corpus to ``directory`` unless it exists already with this ``seed``.

    The same seed gives the same bytes, given the same versions of espeakng-loader and soxr.

    Raises UserError if ``directory`` holds anything that this function did not make, or the
    encoder in egs/mini/encoder was pretrained on a voice of this corpus.
    """
    print(audit_encoder())
    settings = {
        "maker": "mini",
        "seed": seed,
        "code": file_digest(__file__, espeak.__file__),
        "versions": {name: version(name) for name in ("espeakng-loader", "numpy", "soxr")},
    }
    if is_done(directory, settings):
        return
    if not _may_replace(directory):
        raise UserError(
            f"--corpus-dir {directory}: holds something other than the mini corpus; "
            "name a new folder, or leave the option out"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    lock = directory.with_name(f".{directory.name}.lock")
    with locked(lock, f"{directory}: another process is making it; waiting"):
        if is_done(directory, settings):  # by the other process
            return
        with atomic_dir(directory) as temporary:
            for number in range(1, SESSIONS + 1):
                progress(f"mini corpus: synthesising session {number} of {SESSIONS}")
                _make_session(temporary / f"Session{number}", number, seed)
            mark_done(temporary, settings)


def voice(gender: str, session: int) -> str:
    """Name a speaker's espeak-ng voice: ``F``, 3 is ``en-us+f3``."""
    return f"{LANGUAGE}+{gender.lower()}{session}"


def voices() -> set[str]:
    """The voices of all speakers."""
    return {voice(gender, number) for number in range(1, SESSIONS + 1) for gender in "FM"}


def audit_encoder() -> str:
    """Confirm that the encoder in egs/mini/encoder was not pretrained on voices of the corpus.

    Raises UserError if its ``heard.json`` lists a voice of the corpus.
    """
    path = ENCODER / HEARD
    heard = json.loads(path.read_text(encoding="utf-8"))["voices"]
    own = voices()
    shared = sorted(own & set(heard))
    if shared:
        raise UserError(
            f"{path}: the encoder was pretrained on voices of the mini corpus, "
            f"{', '.join(shared)}, so that no speaker is held out; make it again without them: "
            "make mini-encoder"
        )
    return (
        f"checked: none of the {len(own)} voices is among the {len(heard)} that the encoder was "
        "pretrained and tested on"
    )


def _may_replace(directory: Path) -> bool:
    """False for a folder given by mistake, such as another corpus."""
    if not directory.exists():
        return True
    if (read_marker(directory) or {}).get("maker") == "mini":
        return True
    return directory.is_dir() and not any(directory.iterdir())


def _make_session(directory: Path, number: int, seed: int) -> None:
    name = f"Ses{number:02d}"
    generator = random.Random(f"{seed} {name}")
    turns: dict[str, list[Turn]] = {f"{name}F_script01_1": [], f"{name}M_impro01": []}
    for gender in "FM":
        habit = HABIT.varied(generator, SPEAKER_SPREAD)
        labels = [label for label, count in FOUR_CLASS.items() for _ in range(count)]
        generator.shuffle(labels)
        half = len(SCRIPTED)
        parts = (list(SCRIPTED), generator.sample(IMPROVISED, len(labels) - half))
        for dialog, sentences in zip(turns, parts, strict=True):
            these, labels = labels[: len(sentences)], labels[len(sentences) :]
            sentences = sentences + generator.sample(IMPROVISED, len(LEFT_OUT))
            order = list(zip(sentences, [*these, *LEFT_OUT], strict=True))
            generator.shuffle(order)
            turns[dialog] += _plan(dialog, gender, order, habit, generator)
    # One utterance of the corpus has no words at all.
    for dialog, planned in turns.items():
        if number == 1 and "impro" in dialog:
            first = next(i for i, turn in enumerate(planned) if turn.label == "hap")
            planned[first] = replace(planned[first], spoken=WORDLESS, transcript=TAGS[0])
        _write_dialog(directory, dialog, planned, number, generator)


def _plan(
    dialog: str,
    gender: str,
    order: Sequence[tuple[str, str]],
    habit: Prosody,
    generator: random.Random,
) -> list[Turn]:
    turns = []
    for index, (sentence, label) in enumerate(order):
        transcript = sentence
        if generator.random() < TAGGED_SHARE:
            transcript = f"{generator.choice(TAGS)} {sentence}"
        turns.append(
            Turn(
                utt_id=f"{dialog}_{gender}{index:03d}",
                gender=gender,
                label=label,
                spoken=sentence,
                transcript=transcript,
                prosody=habit.shifted(EMOTION_SHIFT[label]).varied(generator, UTTERANCE_SPREAD),
            )
        )
    return turns


def _write_dialog(
    session: Path, dialog: str, turns: Sequence[Turn], number: int, generator: random.Random
) -> None:
    """Write audio, labels and transcript of one dialog in IEMOCAP's format."""
    wavs = session / "sentences/wav" / dialog
    labels = session / "dialog/EmoEvaluation" / f"{dialog}.txt"
    transcript = session / "dialog/transcriptions" / f"{dialog}.txt"
    for folder in (wavs, labels.parent, transcript.parent):
        folder.mkdir(parents=True, exist_ok=True)

    evaluation = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    spoken = []
    clock = 1.0
    # The two speakers take turns.
    for turn in sorted(turns, key=lambda turn: (turn.utt_id[-3:], turn.gender)):
        samples = speak(turn, voice(turn.gender, number), generator)
        # Written to memory first: for a full disk libsndfile only reports "System error".
        wav = io.BytesIO()
        soundfile.write(wav, samples, SAMPLE_RATE, subtype="PCM_16", format="WAV")
        with naming(wavs / f"{turn.utt_id}.wav"):
            (wavs / f"{turn.utt_id}.wav").write_bytes(wav.getvalue())
        end = clock + len(samples) / SAMPLE_RATE
        evaluation += _evaluation_block(turn, clock, end, generator)
        spoken.append(f"{turn.utt_id} [{clock:08.4f}-{end:08.4f}]: {turn.transcript}")
        clock = end + GAP
    # Turns without audio or label, with and without an id, occur in the real transcripts.
    spoken.insert(3, f"{dialog}_MXX0 [{2:08.4f}-{2.5:08.4f}]: Mm-hmm.")
    spoken.insert(5, "M: Yeah.")

    (wavs / f"._{turns[0].utt_id}.wav").write_bytes(RESOURCE_FORK)
    (labels.parent / f"._{labels.name}").write_bytes(RESOURCE_FORK)
    labels.write_bytes("\n".join([*evaluation, ""]).encode("ascii"))
    transcript.write_bytes("\r\n".join([*spoken, ""]).encode("ascii"))


def _evaluation_block(turn: Turn, start: float, end: float, generator: random.Random) -> list[str]:
    """Lines of one utterance: the majority label, then each rater's label."""
    vad = attributes(turn)
    mean = ", ".join(f"{value:.4f}" for value in vad)
    word = RATER_WORD[turn.label]
    words = [word, generator.choice([word, "Neutral"]), word]
    scores = [max(1, min(5, round(generator.gauss(value, 0.4)))) for value in vad]
    return [
        f"[{start:.4f} - {end:.4f}]\t{turn.utt_id}\t{turn.label}\t[{mean}]",
        *(f"C-E{rater}:\t{said};\t()" for rater, said in enumerate(words, start=2)),
        f"C-{turn.gender}1:\t{word};\t()",
        f"A-E3:\tval {scores[0]}; act {scores[1]}; dom  {scores[2]};\t()",
        f"A-{turn.gender}1:\tval {scores[0]}; act {scores[1]}; dom  ;\t()",
        "",
    ]


def attributes(turn: Turn) -> list[float]:
    """Valence, activation and dominance as means over two raters: 1 to 5 in steps of 0.5."""
    habit, shift = astuple(HABIT), astuple(EMOTION_SHIFT[turn.label])
    beyond = np.array(astuple(turn.prosody)) - habit - shift  # (4,)
    found = np.array(ATTRIBUTES[turn.label]) + np.array(ATTRIBUTE_SLOPES) @ beyond
    return (np.clip(np.rint(2 * found), 2, 10) / 2).tolist()


def speak(turn: Turn, voice: str, generator: random.Random) -> np.ndarray:
    """Synthesise ``turn``; return int16 samples of shape (samples,), 16 kHz mono."""
    samples, rate = espeak.synthesize(
        turn.spoken,
        voice,
        rate=_within(turn.prosody.rate, 100, 300),
        volume=100,
        pitch=_within(turn.prosody.pitch, 0, 99),
        pitch_range=_within(turn.prosody.range, 0, 99),
    )
    speech = soxr.resample(samples.astype(np.float64), rate, SAMPLE_RATE, quality="HQ")
    loud = np.flatnonzero(np.abs(speech) > 0.01 * np.abs(speech).max())
    speech = _with_effort(speech[loud[0] : loud[-1] + 1], turn.prosody.level - HABIT.level)
    speech *= 10 ** (turn.prosody.level / 20) / np.sqrt(np.mean(speech**2))
    speech *= min(1.0, 0.98 / np.abs(speech).max())
    pauses = [int(generator.uniform(0.05, 0.15) * SAMPLE_RATE) for _ in range(2)]
    speech = np.pad(speech, pauses)
    noise = np.random.default_rng(generator.getrandbits(32)).standard_normal(len(speech))
    speech += 10 ** (NOISE_LEVEL / 20) * noise
    return np.clip(np.rint(speech * 32768), -32768, 32767).astype(np.int16)


def _with_effort(speech: np.ndarray, level: float) -> np.ndarray:
    """Apply a high shelf: EFFORT_TILT * level dB gain above EFFORT_CORNER."""
    spectrum = np.fft.rfft(speech)  # (samples // 2 + 1,)
    frequency = np.fft.rfftfreq(len(speech), 1 / SAMPLE_RATE)  # Hz
    above = frequency**2 / (frequency**2 + EFFORT_CORNER**2)  # 0 below, 1 above, smooth between
    return np.fft.irfft(spectrum * 10 ** (EFFORT_TILT * level * above / 20), len(speech))


def _within(value: float, low: int, high: int) -> int:
    return max(low, min(high, round(value)))
