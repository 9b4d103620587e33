"""Which system is released, and by which command."""

import json

import pytest

from ser.errors import UserError
from ser.release.best import rank, release_command
from tests.support.fake_scores import make_scores


def put(root, system, valid_ua, **changes):
    """A record of ``system`` whose folds have ``valid_ua`` on validation speakers."""
    scores = make_scores(system=system, tag=f"{system}_strict_seed1", **changes)
    for fold in scores["per_fold"].values():
        fold["valid_ua"] = valid_ua
    path = root / "results" / scores["corpus"] / f"{scores['tag']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(scores), encoding="utf-8")
    return scores


def names(root, corpus, **options):
    ranked = rank(corpus, root / "results", root / "exp", **options)
    return [candidate.row.first["system"] for candidate in ranked]


def test_validation_speakers_decide_and_test_speakers_do_not(tmp_path):
    corpus = put(tmp_path, "better", 0.8)["corpus"]
    put(tmp_path, "worse", 0.7)
    assert names(tmp_path, corpus) == ["better", "worse"]
    put(tmp_path, "worse", 0.9)
    assert names(tmp_path, corpus) == ["worse", "better"]


def test_systems_without_validation_speakers_and_leaky_ones_are_left_out(tmp_path):
    corpus = put(tmp_path, "sound", 0.5)["corpus"]
    put(tmp_path, "unvalidated", None)
    put(tmp_path, "leaky", 0.9, leaky=["selected on test"])
    put(tmp_path, "partial", 0.9, corpus_partial=["one speaker short"])
    assert names(tmp_path, corpus) == ["sound"]
    with pytest.raises(UserError, match="no system was scored on it by protocol paper"):
        names(tmp_path, corpus, protocol="paper")


def test_places_of_another_machine_are_asked_for(tmp_path):
    command = "./run.sh --corpus toy --corpus-dir PATH/TO/wav --config conf/a.yaml --ssl a/hub-id"
    corpus = put(tmp_path, "a", 0.5, command=command)["corpus"]
    best = rank(corpus, tmp_path / "results", tmp_path / "exp")[0]
    with pytest.raises(UserError, match="--corpus-dir: needed for this system.*PATH/TO/wav"):
        release_command(best, {})
    assert release_command(best, {"--corpus-dir": "/here"}) == [
        *("--corpus", "toy", "--corpus-dir", "/here", "--config", "conf/a.yaml"),
        *("--ssl", "a/hub-id", "--stop-stage", "7"),
    ]
