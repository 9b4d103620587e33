"""A fabricated CASIA: its folders and names, with a beep or with Mandarin speech from espeak-ng."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
import soxr
import yaml

from ser.corpora import prepare
from ser.lang import espeak

SAMPLE_RATE = 16000
SPEAKERS = ("liuchanhg", "wangzhe", "zhaoquanyin", "ZhaoZuoxiang")
EMOTIONS = ("angry", "fear", "happy", "neutral", "sad", "surprise")
FREE_SPEAKERS = ("Chang.Liu", "Zhe.Wang", "Quanyin.Zhao", "Zuoxiang.Zhao")
FREE_EMOTIONS = ("angry", "fear", "happy", "normal", "sad", "surprise")
SENTENCES = {201: "就是下雨也去", 202: "今天天气真好"}
VOICES = dict(zip(SPEAKERS, ("cmn+f1", "cmn+m1", "cmn+f4", "cmn+m4"), strict=True))


def write_beeps(
    root: Path,
    numbers: Iterable[int],
    speakers: Iterable[str] = SPEAKERS,
    emotions: Iterable[str] = EMOTIONS,
) -> Path:
    """``<speaker>/<emotion>/<nnn>.wav`` below ``root``: one file of 50 ms under many names."""
    beep = root.parent / ".beep.wav"
    if not beep.exists():
        beep.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(beep, np.sin(np.arange(800) / 10), SAMPLE_RATE, subtype="PCM_16")
    numbers = list(numbers)
    for speaker in speakers:
        for emotion in emotions:
            folder = root / speaker / emotion
            folder.mkdir(parents=True)
            for number in numbers:
                os.link(beep, folder / f"{number:03d}.wav")
    return root


def write_speech(root: Path) -> Path:
    """SENTENCES in every voice and emotion, each a little different; about a second each."""
    for speaker, voice in VOICES.items():
        for step, emotion in enumerate(EMOTIONS):
            folder = root / speaker / emotion
            folder.mkdir(parents=True)
            for number, text in SENTENCES.items():
                samples, rate = espeak.synthesize(text, voice, 260 + 10 * step, 100, 50, 50)
                samples = soxr.resample(samples, rate, SAMPLE_RATE)
                path = folder / f"{number}.wav"
                soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
    return root


def write_corpus_yaml(egs: Path, files: int = len(SENTENCES)) -> Path:
    """``egs/casia/corpus.yaml`` of a subset with ``files`` for each speaker and emotion."""
    spec = prepare.dumped(prepare.load_spec("casia"))
    subset = {
        "speaker": {speaker: dict.fromkeys(EMOTIONS, files) for speaker in SPEAKERS},
        "emotion": dict.fromkeys(EMOTIONS, 4 * files),
        "total": 24 * files,
    }
    spec["editions"] = {"subset": subset, "full": spec["editions"]["full"]}
    path = egs / "casia" / "corpus.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return egs
