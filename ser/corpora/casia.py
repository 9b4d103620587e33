"""CASIA, the Chinese emotional speech corpus of the Institute of Automation in Beijing.

Its files are in ``<speaker>/<emotion>/<nnn>.wav``, where nnn is the number of the sentence. Two
editions are about, which corpus.yaml counts: the subset that can be found in public, with the
sentences 201 to 250, and the full corpus. That has 300 sentences which are the same for every
emotion (folder 相同文本300) and, for each emotion, 100 that mean it (folder 不同文本100). The
latter have numbers of their own, and their folders other names: Chang.Liu for liuchanhg, "normal"
for neutral. Copies in which they follow the common ones as 301 to 400 are read as well.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ser.corpora import Reading
from ser.corpora.spec import Spec
from ser.data.tables import Utterance, join_problems
from ser.errors import UserError

SENTENCE = re.compile("[0-9]{1,3}")
EMOTION_FOLDER = re.compile("angry|fear|happy|neutral|normal|sad|surprise", re.IGNORECASE)
COMMON_SENTENCES = 300
LEVELS = 6  # of folders that are searched


def find(directory: Path) -> Path:
    """The folder above all folders of speakers; ``directory`` may be above it, or inside.

    Raises UserError when no file below ``directory`` is in a folder named like an emotion.
    """
    homes = {
        str(path.parents[2])
        for path in fingerprint_files(directory)
        if SENTENCE.fullmatch(path.stem) and EMOTION_FOLDER.fullmatch(path.parent.name)
    }
    if not homes:
        raise UserError(
            f"--corpus-dir {directory}: no file such as liuchanhg/angry/201.wav in it; give the "
            "folder of CASIA that holds one folder for each speaker"
        )
    return Path(os.path.commonpath(homes))


def fingerprint_files(root: Path) -> list[Path]:
    """Every wav file, whatever the case of its name; dot files (made by macOS) are left out."""
    return sorted(_wavs(root, LEVELS))


def read(root: Path, spec: Spec, emotions: Sequence[str]) -> Reading:
    """The utterances of ``root`` in ``emotions``; those in other emotions are counted.

    Ids are such as liuchanhg_angry_201, and liuchanhg_angry_free001 for the sentences that mean
    their emotion. ``Utterance.sentence`` is the number of a sentence that all emotions share.

    Raises UserError for a wav file that is elsewhere than in ``<speaker>/<emotion>`` of
    ``spec``, is not named by a number, or is there twice.
    """
    common = {name.casefold(): name for name in spec.speakers}
    free = {name.casefold(): speaker for name, speaker in spec.free_speakers.items()}
    session_of = spec.session_of
    reading = Reading([])
    problems = []
    seen: dict[str, Path] = {}
    skipped: Counter[str] = Counter()
    for path in fingerprint_files(root):
        folder = path.parent.parent.name.casefold()
        speaker = common.get(folder) or free.get(folder)
        emotion = spec.label_map.get(path.parent.name.lower())
        if speaker is None or emotion is None or not SENTENCE.fullmatch(path.stem):
            problems.append(f"{path}: not <speaker>/<emotion>/<number>.wav of corpus.yaml")
            continue
        number = f"{int(path.stem):03d}"
        name = number if folder in common else f"free{number}"
        utt_id = f"{speaker}_{emotion}_{name}"
        first = seen.setdefault(utt_id, path)
        if first != path:
            problems.append(f"{path}: {utt_id} is also {first}; expected one copy of the corpus")
            continue
        if emotion not in emotions:
            skipped[f"utterances labelled {emotion}"] += 1
            reading.left_out.add(utt_id)
            continue
        reading.utterances.append(
            Utterance(
                utt_id=utt_id,
                wav=path,
                text="",
                speaker=speaker,
                emotion=emotion,
                gender=spec.speakers[speaker],
                session=session_of[speaker],
                sentence=number if folder in common and int(number) <= COMMON_SENTENCES else "",
            )
        )
    if problems:
        raise UserError(join_problems(problems, f"take them out of {root} or name them right"))
    reading.skipped = dict(skipped)
    reading.short = _missing_sentences(reading.utterances)
    return reading


def _missing_sentences(utterances: Sequence[Utterance]) -> list[str]:
    """A line for each folder that lacks shared sentences which most of the others have."""
    found: dict[str, set[str]] = {}
    for u in utterances:
        if u.sentence:
            found.setdefault(f"{u.speaker}/{u.emotion}", set()).add(u.sentence)
    times = Counter(sentence for sentences in found.values() for sentence in sentences)
    usual = {sentence for sentence, number in times.items() if number > len(found) / 2}
    lines = []
    for folder, sentences in sorted(found.items()):
        missing = sorted(usual - sentences)
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            lines.append(f"{folder}: no sentence {', '.join(missing[:5])}{more}")
    return lines


def _wavs(directory: Path, levels: int) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.name.startswith(".") or path.name == "__MACOSX":
            continue
        if path.suffix.lower() == ".wav":
            yield path
        elif levels and path.is_dir():
            yield from _wavs(path, levels - 1)
