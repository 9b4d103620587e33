"""scores.json of two folds of four utterances, as stage 5 writes them."""

from ser.scoring.calibration import calibration, scaled
from ser.scoring.predictions import Prediction
from ser.scoring.score import add_intervals, decisions_by_speaker, score_folds
from ser.scoring.scores import SCHEMA
from ser.scoring.slices import score_slices
from tests.support.fake_experiment import LABELS

VALENCE = {
    **{"ccc": 0.5, "ccc_ci": [0.25, 0.75], "rmse": 1.0, "n": 8, "unknown": 0},
    "per_speaker": {"Ses01F": None, "Ses01M": 0.25},
}
RATERS = {"n": 8, "divided": 0.25, "kl": 0.5, "jsd": 0.125, "any_rater": 0.75}


def make_scores(correct=3, **changes):
    """``correct`` of the first fold's four decisions are right, and all of the second's."""
    folds = {}
    for fold, right in (("Ses01F", correct), ("Ses01M", 4)):
        folds[fold] = [
            Prediction(
                utt_id=f"{fold}_{i}",
                ref=label,
                hyp=label if i < right else LABELS[0],
                probs=tuple(0.7 if n == (i if i < right else 0) else 0.1 for n in range(4)),
            )
            for i, label in enumerate(LABELS)
        ]
    rows = [p for predictions in folds.values() for p in predictions]
    seed = changes.get("seed", 1)
    scores = {
        "schema": SCHEMA,
        "system": "s1",
        "tag": f"s1_strict_seed{seed}",
        "corpus": "toy",
        "protocol": "strict",
        "seed": seed,
        "labels": LABELS,
        "token_type": "tagged_class",
        "feats_type": "raw",
        "max_epoch": None,
        "leaky": [],
        "ssl": None,
        "config": {"path": "conf/train_s1.yaml", "sha256": "c"},
        "settings_sha256": "s",
        "data_sha256": "d",
        "test_sha256": "t",
        "stated": None,
        "command": f"./run.sh --corpus toy --config conf/train_s1.yaml --seed {seed}",
        "commit": "0123456789ab",
        "scored_by": "ba9876543210",
        "date": "2024-05-06T07:08:09+00:00",
        "versions": {"torch": "2.13.0"},
        "hardware": "a processor, 2 cores",
        "partial": False,
        "corpus_partial": [],
        "folds": {"expected": list(folds), "scored": list(folds), "missing": {}},
        "units": {
            **{"uer": 0.5, "per": 0.25},
            **{"reference_units": 20, "utterances": 8, "empty": 0, "sample": None},
        },
        "parameters": {"total": 1234567, "trained": 1234567},
        "auxiliary": {},
        "sweep": None,
        "train_seconds": 20.0,
        "decisions": None,
    }
    scores |= score_folds(folds, LABELS)
    utt2spk = {p.utt_id: p.utt_id.rpartition("_")[0] for p in rows}
    scores["speakers"] = decisions_by_speaker(folds, utt2spk, LABELS)
    scores = add_intervals(scores | {"protocol": changes.get("protocol", "strict")})
    sexes = {"women": [p.utt_id for p in rows[:4]], "men": [p.utt_id for p in rows[4:]]}
    scores["slices"] = score_slices({"gender": sexes}, rows, LABELS)
    temperatures = {"Ses01F": 0.5, "Ses01M": 2.0}
    scores["calibration"] = calibration(rows, LABELS)
    scores["calibration"]["scaled"] = scaled(folds, LABELS, temperatures)
    for values in scores["per_fold"].values():
        values |= {"epochs": 3, "best_epoch": 2, "train_seconds": 10.0, "valid_ua": None}
    return scores | changes
