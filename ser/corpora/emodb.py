"""EmoDB, the Berlin Database of Emotional Speech (Burkhardt et al., Interspeech 2005).

One folder of wav files. A name such as ``03a01Fa`` holds the speaker (03), the sentence (a01),
the emotion's German initial (F) and the take (a); all else is in corpus.yaml.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ser.corpora import Reading
from ser.corpora.spec import Spec
from ser.data.tables import Utterance, join_problems
from ser.errors import UserError

UTTERANCE_ID = re.compile(r"(\d\d)([ab]\d\d)([A-Z])([a-z])")


def find(directory: Path) -> Path:
    """The folder of wav files: ``directory``, or ``wav`` in it, one level deeper or beside it.

    Raises UserError when none of these holds a file of EmoDB.
    """
    candidates = [directory, directory / "wav", *sorted(directory.glob("*/wav"))]
    candidates.append(directory.parent / "wav")
    for candidate in candidates:
        if any(UTTERANCE_ID.fullmatch(path.stem) for path in fingerprint_files(candidate)):
            return candidate
    raise UserError(
        f"--corpus-dir {directory}: no file named like 03a01Fa.wav in it or in its folder wav; "
        "give the folder wav of EmoDB"
    )


def fingerprint_files(root: Path) -> list[Path]:
    """Every wav file, dot files (copies made on macOS) left out."""
    return sorted(path for path in root.glob("*.wav") if not path.name.startswith("."))


def read(root: Path, spec: Spec, emotions: Sequence[str]) -> Reading:
    """The utterances of ``root`` in ``emotions``; those in other emotions are counted.

    Raises UserError for names that are not made like EmoDB's and for an emotion letter, speaker
    or sentence that ``spec`` does not list.
    """
    session_of = spec.session_of
    utterances = []
    problems = []
    skipped: Counter[str] = Counter()
    left_out: set[str] = set()
    for path in fingerprint_files(root):
        match = UTTERANCE_ID.fullmatch(path.stem)
        if match is None:
            problems.append(f"{path}: not a name of EmoDB, such as 03a01Fa.wav")
            continue
        speaker, sentence, letter, _ = match.groups()
        checks = {"speakers": speaker, "sentences": sentence, "label_map": letter}
        unknown = [
            f"{value} under {key}"
            for key, value in checks.items()
            if value not in getattr(spec, key)
        ]
        if unknown:
            problems.append(f"{path}: corpus.yaml has no {', no '.join(unknown)}")
            continue
        emotion = spec.label_map[letter]
        if emotion not in emotions:
            skipped[f"utterances labelled {letter} ({emotion})"] += 1
            left_out.add(path.stem)
            continue
        utterances.append(
            Utterance(
                utt_id=path.stem,
                wav=path,
                text=spec.sentences[sentence],
                speaker=speaker,
                emotion=emotion,
                gender=spec.speakers[speaker],
                session=session_of[speaker],
            )
        )
    if problems:
        raise UserError(join_problems(problems, f"take them out of {root} or name them right"))
    return Reading(utterances, skipped=dict(skipped), left_out=left_out)
