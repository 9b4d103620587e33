"""A trained and scored experiment in a moment: random weights, made-up scores."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from ser.lang.units import write_units
from ser.predict.package import Packed, build_network_model
from ser.stage import file_digest, mark_done
from ser.training.experiment import model_state
from tests.support.fake_scores import make_scores
from tests.support.tiny import EMOTIONS, SHORT, TINY

FOLDS = ["Ses01F", "Ses01M"]
UNITS = ["<blank>", "S", "V"]
SETTINGS = {"seed": 1, "lr": 0.1}
WAV2VEC2 = {
    "init": "random",
    "model_type": "wav2vec2",
    "config": {**TINY, "num_hidden_layers": 1},
    "normalize": True,
}

SMALLEST = {
    "frontend_conf": {**WAV2VEC2, "layers": "last", "config": {**WAV2VEC2["config"], **SHORT}}
}


def make_network(**changes: Any) -> dict[str, Any]:
    """The keys of ESPnet's config.yaml that build a model: a tiny wav2vec 2.0 with two heads."""
    return {
        "emotions": " ".join(EMOTIONS),
        "token_type": "class",
        "feats_type": "raw",
        "aux_conf": {
            "pr": {"type": "ctc", "weight": 0.1},
            "who": {"type": "label", "weight": 0.1, "table": "utt2spk"},
        },
        "model_conf": {},
        "frontend": "hf",
        "frontend_conf": WAV2VEC2,
        "encoder": "identity",
        "encoder_conf": {},
        "pooling": "mean",
        "pooling_conf": {},
    } | changes


def make_model(fold: str = "Ses01F", **changes: Any):
    """The model of ``make_network`` with weights that differ from fold to fold."""
    torch.manual_seed(FOLDS.index(fold) + 1)
    model = build_network_model(make_network(**changes), UNITS, {"who": speakers(fold)})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.float().eval()


def speakers(fold: str) -> list[str]:
    """Whom a fold is trained on."""
    return [f"not{fold}", "somebody"]


def make_experiment(root: Path, scores: dict[str, Any] | None = None, **changes: Any) -> Path:
    """exp/toy/s1_strict_seed1 in ``root``, whose two folds are trained, inferred and scored."""
    exp_dir = root / "exp/toy/s1_strict_seed1"
    exp_dir.mkdir(parents=True)
    (root / "dump/toy").mkdir(parents=True)
    write_units(root / "dump/toy/units_class.txt", UNITS[1:])
    for fold in FOLDS:
        train_fold(exp_dir / fold, make_model(fold, **_random(changes)).state_dict(), **changes)
    run = {"corpus": "toy", "protocol": "strict", "config": "c.yaml", "seed": 1}
    (exp_dir / "run.yaml").write_text(yaml.safe_dump({**run, "settings": SETTINGS}))
    (exp_dir / "scores.json").write_text(json.dumps(make_scores(**(scores or {}))))
    return exp_dir


def train_fold(fold_dir: Path, weights: dict[str, torch.Tensor], **changes: Any) -> None:
    """What stages 4 and 5 leave in a finished fold."""
    fold_dir.mkdir(exist_ok=True)
    table = "/somewhere/else/utt2spk"
    config = make_network(**changes) | {
        "output_dir": str(fold_dir),
        "train_shape_file": [str(fold_dir / "train.shape")],
        "units": "dump/toy/units_class.txt",
        "aux_labels": {"who": {"table": table, "values": speakers(fold_dir.name)}},
        "class_counts": "3 3 3 3",
        "max_epoch": 12,
        "optim": "adam",
    }
    (fold_dir / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(weights, fold_dir / "2epoch.pth")
    (fold_dir / "latest.pth").unlink(missing_ok=True)
    (fold_dir / "latest.pth").symlink_to("2epoch.pth")
    run = {"inference_model": "latest.pth", "model_sha256": file_digest(fold_dir / "latest.pth")}
    (fold_dir / "run.json").write_text(json.dumps(run))
    (fold_dir / "predictions.tsv").write_text("")
    mark_done(fold_dir, SETTINGS)
    made_from = model_state(fold_dir)
    (fold_dir / ".predictions.done").write_text(json.dumps({"made_from": made_from}))


def answers(packed: Packed, fold: str) -> dict[str, torch.Tensor]:
    """What a fold's model says of two utterances, one of them padded."""
    return said(packed.load(fold))


def said(model) -> dict[str, torch.Tensor]:
    speech = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(5))
    speech[1, 5000:] = 0.0
    out = model.infer(speech, torch.tensor([8000, 5000]))
    return {"emotion": out["emotion_logp"], "lengths": out["lengths"], **out["aux"]}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def _random(changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` with an encoder of random weights in place of a pretrained one."""
    from ser.models.pretrained import embedded_conf

    if changes.get("frontend_conf", {}).get("model"):
        return changes | {"frontend_conf": embedded_conf(**changes["frontend_conf"])}
    return changes
