"""A fabricated IEMOCAP: small, and with every oddity that the real one has on disk.

The files are spelled out here, not written by the package, so that the reader is tested against
the layout itself. Each session has three dialogs of ten labelled utterances, five by each
speaker; session 5 has two dialogs more, one of which is named like the beginning of the other;
session 1 has four utterances more, in rare emotions.
"""

from pathlib import Path

import numpy as np
import soundfile
import yaml

SAMPLE_RATE = 16000
EMOTIONS = ["angry", "happy", "sad", "neutral"]
DIALOGS = {
    1: ["Ses01F_impro01", "Ses01M_impro05a", "Ses01F_script01_3"],
    2: ["Ses02F_impro01", "Ses02M_impro05a", "Ses02F_script01_3"],
    3: ["Ses03F_impro01", "Ses03M_impro05b", "Ses03F_script01_3"],
    4: ["Ses04F_impro01", "Ses04M_impro08", "Ses04F_script01_3"],
    5: [
        "Ses05F_impro01",
        "Ses05M_impro08",
        "Ses05F_script01_3",
        "Ses05M_script01_1",
        "Ses05M_script01_1b",
    ],
}
LABELS = {"F": ["neu", "hap", "sad", "ang", "xxx"], "M": ["neu", "exc", "ang", "sad", "fru"]}
RARE = {"Ses01F_impro01": {"F005": "sur", "F006": "fea", "M005": "oth", "M006": "dis"}}
WORDS = [
    "Excuse me.",
    "Do you have your forms?",
    "[LAUGHTER] I didn't know that.",
    "Let me see them. [BREATHING]",
    "Is there a problem?",
    "Who told you to get in this line?",
    "[LIPSMACK] You did.",
]
RESOURCE_FORK = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X \xff\xfe"

# Three dialogs with one utterance of each class for each speaker; five in session 5.
COUNTS = {
    "total": 136,
    "emotion": {"angry": 34, "happy": 34, "sad": 34, "neutral": 34},
    "session": {"Ses01": 24, "Ses02": 24, "Ses03": 24, "Ses04": 24, "Ses05": 40},
    "speaker": {
        f"Ses0{n}{g}": dict.fromkeys(EMOTIONS, 5 if n == 5 else 3)
        for n in range(1, 6)
        for g in "FM"
    },
    "dialog": {"all": 17},
    "wav": {"Ses01": 34, "Ses02": 30, "Ses03": 30, "Ses04": 30, "Ses05": 50},
    "label": {
        **{"neu": 34, "hap": 17, "exc": 17, "ang": 34, "sad": 34, "xxx": 17, "fru": 17},
        **{"sur": 1, "fea": 1, "oth": 1, "dis": 1},
    },
}


def write_corpus_yaml(egs: Path, name: str = "iemocap") -> Path:
    """``egs/<name>/corpus.yaml`` for the fabricated tree; returns ``egs``."""
    spec = {
        "name": name,
        "reader": "iemocap",
        "language": "en",
        "emotions": EMOTIONS,
        "label_map": {
            "ang": "angry",
            "hap": "happy",
            "exc": "happy",
            "sad": "sad",
            "neu": "neutral",
        },
        "skip_labels": ["xxx", "fru", "sur", "fea", "oth", "dis"],
        "undecided_labels": ["xxx"],
        "sessions": ["Ses01", "Ses02", "Ses03", "Ses04", "Ses05"],
        "dialogs": {
            f"Ses0{number}{g}": [d[7:] for d in dialogs if d[5] == g]
            for number, dialogs in DIALOGS.items()
            for g in "FM"
        },
        "counts": COUNTS,
    }
    path = egs / name / "corpus.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return egs


def write_iemocap(root: Path, seconds: float = 0.3) -> Path:
    """The whole tree under ``root``; returns ``root``. Every wav has its own samples."""
    generator = np.random.default_rng(0)
    for number, dialogs in DIALOGS.items():
        session = root / f"Session{number}"
        _write_clutter(session)
        for dialog in dialogs:
            turns = [(f"{g}{i:03d}", label) for g in "FM" for i, label in enumerate(LABELS[g])]
            turns += RARE.get(dialog, {}).items()
            turns.sort(key=lambda turn: turn[0][1:])
            _write_wavs(session / "sentences/wav" / dialog, dialog, turns, seconds, generator)
            _write_labels(session / "dialog/EmoEvaluation", dialog, turns)
            _write_transcript(session / "dialog/transcriptions", dialog, turns)
    return root


def _write_wavs(folder: Path, dialog: str, turns, seconds: float, generator) -> None:
    folder.mkdir(parents=True)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    for turn, _ in turns:
        tone = 0.1 * np.sin(2 * np.pi * generator.uniform(100, 400) * time)
        samples = tone + 0.01 * generator.standard_normal(len(time))
        soundfile.write(folder / f"{dialog}_{turn}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
    (folder / f"._{dialog}_F000.wav").write_bytes(RESOURCE_FORK)


def _write_labels(folder: Path, dialog: str, turns) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for i, (turn, label) in enumerate(turns):
        start = 6.2901 + 3 * i
        lines += [
            f"[{start:.4f} - {start + 1.9456:.4f}]\t{dialog}_{turn}\t{label}"
            f"\t[2.5000, {1 + i % 5}.0000, 3.6667]",
            # What single raters said is not the label, whatever it is.
            "C-E2:\tNeutral;\t()",
            "C-E3:\tNeutral; Anger;\t(a comment, with Ses01F_impro99_F000 in it)",
            f"C-{turn[0]}1:\tSadness;\t()",
            "A-E3:\tval 3; act 2; dom  2;\t()",
            f"A-{turn[0]}1:\tval 3; act 2; dom  ;\t()",
            "",
        ]
    (folder / f"{dialog}.txt").write_bytes("\n".join(lines).encode("ascii"))
    (folder / f"._{dialog}.txt").write_bytes(RESOURCE_FORK)
    for name in ("Attribute", "Categorical", "Self-evaluation"):
        below = folder / name / f"{dialog}_e2_cat.txt"
        below.parent.mkdir(exist_ok=True)
        below.write_bytes(f"{dialog}_F000 :Anger; ()\r\n[1.0 - 2.0]\tx\tbad\t[]\r\n".encode())
    (folder / f"{dialog}_e2.anvil").write_bytes(b"<annotation/>")


def _write_transcript(folder: Path, dialog: str, turns) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, (turn, _) in enumerate(turns):
        start = 6.2901 + 3 * i
        words = WORDS[i % len(WORDS)]
        if dialog.endswith("impro01") and turn == "M000":
            words = "[LAUGHTER]"
        if dialog.endswith("impro01") and turn == "F003":
            words = "At the caf\xe9."
        times = f"[{start:08.4f}-{start + 1.9456:08.4f}]"
        lines.append(f"{dialog}_{turn} {times}: {words}")
    lines.insert(1, "M: Yeah.")
    lines.insert(3, "F:Umm.")
    lines.insert(4, f"{dialog}_MXX0 [011.0000-011.5000]: Okay.")
    lines.insert(6, f"{dialog}_FXX0 [016.0000-016.5000]: [BREATHING]")
    (folder / f"{dialog}.txt").write_bytes("\r\n".join([*lines, ""]).encode("latin-1"))
    (folder / f"._{dialog}.txt").write_bytes(RESOURCE_FORK)


def _write_clutter(session: Path) -> None:
    for name in ("wav", "lab", "avi", "MOCAP_hand", "MOCAP_head", "MOCAP_rotated"):
        (session / "dialog" / name).mkdir(parents=True)
    (session / "sentences/ForcedAlignment").mkdir(parents=True)
    (session / "dialog/.DS_Store").write_bytes(RESOURCE_FORK)
