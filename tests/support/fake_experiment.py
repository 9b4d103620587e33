"""A corpus of constant tones and a model that reads their level: stage 5 in milliseconds."""

import json
from pathlib import Path

import kaldiio
import numpy as np
import torch
import yaml

from ser.data.tables import write_lines, write_table
from ser.stage import file_digest, mark_done
from ser.training.experiment import NETWORK_KEYS

LABELS = ["angry", "happy", "sad", "neutral"]
LEVELS = {"angry": 8000, "happy": 4000, "sad": 1000, "neutral": 2000}  # of 32768
UNITS = ["<blank>", "V0", "V1", "V2", "V3"]
FOLDS = ["Ses01F", "Ses01M", "Ses02F"]
SETTINGS = {"seed": 1, "lr": 0.1}
HOP = 320


class FakeModel(torch.nn.Module):
    """Decides for the emotion whose level is nearest to the mean over the real samples."""

    def __init__(self):
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.tensor(1.0))
        self.emotions = list(LABELS)
        self.aux_units = {"pr": list(UNITS)}
        self.aux_labels, self.aux_values = {}, []

    def infer(self, speech, speech_lengths, dtype=torch.float32):
        mask = torch.arange(speech.shape[1])[None] < speech_lengths[:, None]  # (B, L)
        mean = (speech * mask).sum(1) / speech_lengths  # (B,)
        levels = torch.tensor([LEVELS[e] for e in LABELS]) / 32768  # (C,)
        logits = -self.sharpness * (mean[:, None] - levels[None]).abs() * 100  # (B, C)
        best = 1 + logits.argmax(dim=1)  # (B,)
        # Frames alternate between blank and the unit of the emotion, padding included.
        frames = torch.zeros(len(speech), speech.shape[1] // HOP, dtype=torch.long)
        frames[:, 1::2] = best[:, None]
        return {
            "emotion_logp": logits.log_softmax(dim=-1),
            "lengths": speech_lengths // HOP,
            "aux": {"pr": torch.nn.functional.one_hot(frames, len(UNITS)).float()},
        }


def make_experiment(root: Path, folds=FOLDS, per_fold: int = 5) -> tuple[Path, Path, Path]:
    """Write dump/, data/ and exp/ with every fold trained; returns (exp, dump, data)."""
    dump, data, exp = root / "dump/toy", root / "data/toy", root / "exp/toy/sys_strict_seed1"
    for directory in (dump, data / "all", exp):
        directory.mkdir(parents=True)
    emotions, waves, text = {}, {}, {}
    for f, fold in enumerate(folds):
        lists = dump / "folds/strict" / fold
        lists.mkdir(parents=True)
        samples = {}
        for i in range(per_fold):
            utt_id = f"{fold}_{i:03d}"
            emotions[utt_id] = LABELS[(i + f) % len(LABELS)]
            # Lengths out of order, so that sorting by length must be undone.
            samples[utt_id] = HOP * (4 + 7 * i % 5)
            level = LEVELS[emotions[utt_id]]
            waves[utt_id] = (16000, np.full(samples[utt_id], level, dtype=np.int16))
            digit = LABELS.index(emotions[utt_id])
            text[utt_id] = f"V{digit} V{digit}" if i else ""  # the first has no words
        write_lines(lists / "test", samples)
        write_table(lists / "test.shape", samples)
    write_lines(dump / "folds/strict/folds", folds)
    write_lines(dump / "emotions", LABELS)
    write_table(dump / "utt2emo", emotions)
    write_table(dump / "text", text)
    utts = list(emotions)
    write_table(dump / "utt2spk", {u: u.rpartition("_")[0] for u in utts})
    write_table(dump / "utt2orig", {u: u for u in utts})
    write_table(dump / "utt2session", {u: u[:5] for u in utts})
    write_table(dump / "utt2gender", {u: u[5].lower() for u in utts})
    write_table(dump / "utt2num_samples", {u: len(waves[u][1]) for u in utts})
    for fold in folds:
        train = [u for u in utts if not u.startswith(fold)]
        write_lines(dump / "folds/strict" / fold / "train", train)
    kaldiio.save_ark(str(dump / "wav.ark"), waves, scp=str(dump / "wav.scp"))
    write_run(exp)
    for number, fold in enumerate(folds, start=1):
        train_fold(exp / fold, sharpness=float(number))
    return exp, dump, data


def write_run(exp: Path, **changes) -> None:
    """run.yaml as stage 4 writes it."""
    run = {
        "corpus": "toy",
        "protocol": "strict",
        "config": "conf/train_sys.yaml",
        "seed": 1,
        "ssl": None,
        "max_epoch": None,
        "extra_args": [],
        "token_type": "tagged_class",
        "feats_type": "raw",
        "stated": {},
        "settings": SETTINGS,
    }
    (exp / "run.yaml").write_text(yaml.safe_dump(run | changes), encoding="utf-8")


def train_fold(fold_dir: Path, sharpness: float, **config) -> None:
    """What stage 4 leaves in a finished fold."""
    fold_dir.mkdir(parents=True, exist_ok=True)
    content = dict.fromkeys(NETWORK_KEYS) | {
        "output_dir": str(fold_dir),
        "run_label": fold_dir.name,
    }
    content |= {"seed": 1} | config
    (fold_dir / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    torch.save({"sharpness": torch.tensor(sharpness)}, fold_dir / "2epoch.pth")
    (fold_dir / "latest.pth").unlink(missing_ok=True)
    (fold_dir / "latest.pth").symlink_to("2epoch.pth")
    run = {"inference_model": "latest.pth", "epochs": 2, "best_epoch": 2, "train_seconds": 1.5}
    run["model_sha256"] = file_digest(fold_dir / "latest.pth")
    (fold_dir / "run.json").write_text(json.dumps(run), encoding="utf-8")
    mark_done(fold_dir, SETTINGS)


def write_history(fold_dir: Path, epochs: int = 4, valid: bool = True, offset: float = 0.0) -> None:
    """history.json as training writes it, with three fusion weights."""
    history = []
    for epoch in range(1, epochs + 1):
        done = epoch / epochs
        stats = {
            "loss_er": 1.4 - done + offset,
            "WA": 0.3 + 0.5 * done - offset,
            "UA": 0.25 + 0.5 * done - offset,
            "layer_weight_0": 0.3,
            "layer_weight_1": 0.3 - 0.1 * done,
            "layer_weight_2": 0.4 + 0.1 * done,
        }
        entry = {"epoch": epoch, "train": stats}
        if valid:
            entry["valid"] = {k: v - 0.05 if k in ("WA", "UA") else v for k, v in stats.items()}
        history.append(entry)
    (fold_dir / "history.json").write_text(json.dumps(history), encoding="utf-8")
