"""Linear classifiers in place of gradient training, against scikit-learn's own pipelines."""

import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from ser.data.tables import read_lines, read_table, write_table
from ser.errors import UserError
from ser.models.inputs import load_input, pad
from ser.models.model import SERModel
from ser.predict.classifier import SpeechEmotion
from ser.predict.package import open_model
from ser.release.pack import pack_experiment
from ser.scoring.elsewhere import crosscorpus, robustness
from ser.scoring.infer import infer_folds
from ser.scoring.predictions import read_predictions
from ser.scoring.score import score_experiment
from ser.training import linear_fit
from ser.training.experiment import open_experiment
from ser.training.linear_fit import FitConf, Linear, Split, choose, fit_factor, fit_linear
from ser.training.settings import TrainingOptions, resolve
from tests.support.training import SYSTEM, read_json, train, weights

FITS = ["logistic_regression", "linear_svm"]
FEATS = {"input_size": 80, "norm_means": False, "norm_vars": False}
OF_FEATS = {
    "feats_type": "fbank",
    "frontend": "feats",
    "frontend_conf": FEATS,
    "fit": "logistic_regression",
    "fit_conf": {"C": [0.01, 0.1, 1.0]},
}
OF_ENCODER = {
    "frontend_conf": {**SYSTEM["frontend_conf"], "freeze": "all"},
    "fit": "linear_svm",
    "fit_conf": {"C": [0.01, 1.0]},
}


def make_split(classes=3, count=90, size=5, seed=0, shift=1.0) -> Split:
    """Overlapping classes of six speakers; dimensions of very different size, the last constant."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    vectors = rng.normal(size=(count, size)) + shift * np.eye(classes, size)[labels]
    vectors = vectors * 10.0 ** np.arange(size) + 3000.0
    vectors[:, -1] = 0.3
    speakers = np.array([f"spk{i}" for i in rng.integers(0, 6, count)])
    return Split(vectors, labels, speakers)


def pipeline(fit: str, c: float):
    if fit == "linear_svm":
        last = LinearSVC(C=c, class_weight="balanced", max_iter=10000, random_state=0)
    else:
        last = LogisticRegression(C=c, class_weight="balanced", max_iter=10000)
    return make_pipeline(StandardScaler(), last)


# --- one classifier ------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", FITS)
def test_the_standardisation_folded_into_the_weights_is_scikit_learns_pipeline(fit):
    split, other = make_split(), make_split(seed=1).vectors
    linear = fit_linear(fit, FitConf(), 0.1, split, "abc")
    expected = pipeline(fit, 0.1).fit(split.vectors, split.labels).decision_function(other)
    np.testing.assert_allclose(linear.logits(other), expected, atol=1e-3)


def test_of_two_emotions_both_have_a_logit():
    split, other = make_split(classes=2), make_split(seed=1).vectors
    linear = fit_linear("logistic_regression", FitConf(), 0.1, split, "ab")
    expected = pipeline("logistic_regression", 0.1).fit(split.vectors, split.labels)
    said = softmax(linear.logits(other), axis=1)
    np.testing.assert_allclose(said, expected.predict_proba(other), atol=1e-4)


@pytest.mark.parametrize("fit", FITS)
def test_a_constant_dimension_has_no_weight_even_where_it_is_not_constant_later(fit):
    split = make_split()
    split.vectors[:, 0] = 1e6 + np.random.default_rng(0).normal(size=90)  # rounding in 32 bits
    linear = fit_linear(fit, FitConf(), 1.0, split, "abc")
    assert (linear.weight[:, [0, -1]] == 0).all()
    assert np.isfinite(linear.weight).all() and np.isfinite(linear.bias).all()


def test_an_emotion_that_no_training_speaker_has_is_said():
    split = make_split(classes=2)
    with pytest.raises(UserError, match="training speakers spk0 .* have none of c; choose another"):
        fit_linear("linear_svm", FitConf(), 1.0, split, "abc")


# --- probabilities -------------------------------------------------------------------------------


def test_the_factor_finds_the_temperature_that_labels_were_drawn_with():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20000, 4))
    labels = np.array([rng.choice(4, p=row) for row in softmax(3.0 * logits, axis=1)])
    assert fit_factor(logits, labels) == pytest.approx(3.0, rel=0.05)


def test_the_factor_is_finite_where_all_decisions_are_right():
    logits, labels = np.eye(4)[[0, 1, 2, 3] * 5], np.array([0, 1, 2, 3] * 5)
    # of 4 classes and N = 20: e^a / (e^a + 3) = (N + 1) / (N + 4), so a = ln 21
    assert fit_factor(logits, labels) == pytest.approx(np.log(21), rel=1e-3)


def test_the_temperature_leaves_decisions_alone():
    train, valid = make_split(), make_split(seed=1)
    linear, c, factor = choose("linear_svm", FitConf(), train, valid, "abc")
    plain = fit_linear("linear_svm", FitConf(), c, train, "abc")
    assert factor > 0 and factor != 1
    np.testing.assert_allclose(linear.logits(valid.vectors), factor * plain.logits(valid.vectors))
    better = [-log_softmax(m.logits(valid.vectors), axis=1)[range(90), valid.labels].mean()
              for m in (linear, plain)]  # fmt: skip
    assert better[0] < better[1]


# --- the choice of C -----------------------------------------------------------------------------


def fake_fits(monkeypatch, logits_of):
    """Classifiers of one dimension whose logits are ``logits_of[C]`` times it."""
    monkeypatch.setattr(
        linear_fit,
        "fit_linear",
        lambda fit, conf, c, split, emotions: Linear(np.array(logits_of[c]), np.zeros(2)),
    )


def test_c_is_the_one_that_is_best_on_the_validation_speakers(monkeypatch):
    x = np.array([[1.0], [1.0], [-1.0]])
    valid = Split(x, np.array([0, 0, 1]), np.array(["v"] * 3))
    fake_fits(monkeypatch, {0.1: [[0.0], [1.0]], 1.0: [[1.0], [0.0]], 10.0: [[0.1], [0.3]]})
    chosen = choose("logistic_regression", FitConf(C=[0.1, 1.0, 10.0]), valid, valid, "ab")[1]
    assert chosen == 1.0


def test_of_equally_good_ones_it_is_the_one_of_the_smaller_loss(monkeypatch):
    valid = Split(np.array([[1.0], [-1.0]]), np.array([0, 1]), np.array(["v"] * 2))
    fake_fits(monkeypatch, {0.1: [[0.1], [0.0]], 1.0: [[2.0], [0.0]], 10.0: [[1.0], [0.0]]})
    chosen = choose("logistic_regression", FitConf(C=[0.1, 1.0, 10.0]), valid, valid, "ab")[1]
    assert chosen == 1.0


def test_without_validation_speakers_each_training_speaker_is_left_out_in_turn():
    train, grid = make_split(shift=0.7), [1e-4, 1e-3, 1e-2, 0.1, 1.0]
    ua = {}
    for c in grid:
        said = cross_val_predict(
            pipeline("logistic_regression", c),
            train.vectors,
            train.labels,
            groups=train.speakers,
            cv=LeaveOneGroupOut(),
        )
        ua[c] = balanced_accuracy_score(train.labels, said)
    best = {c for c in grid if ua[c] == max(ua.values())}
    chosen = choose("logistic_regression", FitConf(C=grid), train, None, "abc")[1]
    assert chosen in best and best < set(grid)


def test_one_training_speaker_alone_cannot_choose():
    train = make_split()
    train.speakers[:] = "only"
    with pytest.raises(UserError, match="one training speaker and no validation speaker"):
        choose("linear_svm", FitConf(), train, None, "abc")


# --- stage 4 and what follows --------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(corpus) -> Path:
    for name, system in (("feats", OF_FEATS), ("encoder", OF_ENCODER)):
        (corpus / f"{name}.yaml").write_text(yaml.safe_dump(system))
    return corpus


def head(fold_dir: Path) -> torch.Tensor:
    model = weights(fold_dir, "latest.pth")
    return torch.cat([model["emotion_head.weight"], model["emotion_head.bias"][:, None]], dim=1)


def test_a_fitted_fold_is_left_as_a_trained_one(corpus, tmp_path):
    train(corpus, tmp_path / "exp", config=corpus / "encoder.yaml", seed=3)
    fold = tmp_path / "exp/Ses01F"
    record = read_json(fold / "run.json")
    assert (record["inference_model"], record["epochs"]) == ("latest.pth", 1)
    model = open_model(tmp_path / "exp").load("Ses01F")
    total = sum(p.numel() for p in model.parameters())
    assert record["parameters"] == {"total": total, "trained": 4 * 32 + 4}
    (entry,) = read_json(fold / "history.json")
    assert entry["train"].keys() >= {"loss", "WA", "UA", "seconds", "C", "factor"}
    assert entry["train"]["layer_weight_0"] == entry["train"]["layer_weight_1"] == 0.5
    before = (fold / "latest.pth").stat().st_mtime_ns
    train(corpus, tmp_path / "exp", config=corpus / "encoder.yaml", seed=3)
    assert (fold / "latest.pth").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="run with other settings:\n  fit_conf.C: "):
        train(
            corpus,
            tmp_path / "exp",
            config=corpus / "encoder.yaml",
            seed=3,
            extra_args=["--fit_conf", "C=[0.1]"],
        )


@pytest.mark.parametrize("name", ["feats", "encoder"])
def test_the_saved_model_decides_as_the_history_says_also_packed(corpus, tmp_path, name):
    exp_dir = tmp_path / "exp/tones/floor"
    folds = ("Ses01F", "Ses01M")
    train(corpus, exp_dir, folds, config=corpus / f"{name}.yaml")
    dump = corpus / "dump/tones"
    raw = name == "encoder"
    inputs = read_table(dump / ("wav.scp" if raw else "fbank/feats.scp"))
    utt2emo, emotions = read_table(dump / "utt2emo"), read_lines(dump / "emotions")
    model = open_model(exp_dir).load("Ses01F")
    for split in ("train", "valid"):
        utts = read_lines(dump / f"folds/strict/Ses01F/{split}")
        speech = [load_input(inputs[u], "raw" if raw else "fbank") for u in utts]
        logp = model.infer(*pad(speech))["emotion_logp"]
        labels = torch.tensor([emotions.index(utt2emo[u]) for u in utts])
        (entry,) = read_json(exp_dir / "Ses01F/history.json")
        right = (logp.argmax(1) == labels).double().mean().item()
        assert right == pytest.approx(entry[split]["WA"])
        loss = torch.nn.functional.nll_loss(logp, labels).item()
        assert loss == pytest.approx(entry[split]["loss"], abs=1e-3)


def test_a_fitted_experiment_is_scored_packed_and_predicts_recordings(corpus, tmp_path):
    exp_dir, dump = tmp_path / "exp/tones/floor", corpus / "dump/tones"
    train(corpus, exp_dir, config=corpus / "encoder.yaml")
    assert infer_folds(exp_dir, dump) == ["Ses01F"]
    scores = score_experiment(exp_dir, dump, corpus / "data/tones")
    recording = str(corpus / "wav/Ses01F_angry0.wav")
    said = SpeechEmotion.from_pretrained(exp_dir)(recording).probabilities
    assert sum(said.values()) == pytest.approx(1)
    references = open_experiment(exp_dir, dump).references("Ses01F")
    first, *_ = read_predictions(exp_dir / "Ses01F/predictions.tsv", list(said), references)
    assert first.utt_id == "Ses01F_angry0"
    powers = np.array(first.probs) ** (1 / open_experiment(exp_dir, dump).temperature("Ses01F"))
    assert tuple(powers / powers.sum()) == pytest.approx(tuple(said.values()), abs=1e-3)
    folder, _ = pack_experiment(exp_dir)
    assert SpeechEmotion.from_pretrained(folder)(recording).probabilities == pytest.approx(said)
    # on another corpus, and on its own without a change, it says the same
    (tmp_path / "dump").symlink_to(corpus / "dump")
    shutil.copytree(dump, tmp_path / "other")
    crosscorpus(exp_dir, [tmp_path / "other"])
    table = (exp_dir / "crosscorpus.other.tsv").read_text().splitlines()
    (row,) = (line.split("\t") for line in table if line.startswith("Ses01F_angry0"))
    assert tuple(map(float, row[3:7])) == pytest.approx(tuple(said.values()), abs=1e-4)
    (clean,) = robustness(exp_dir, ["clean"])["tests"]["clean"]["speakers"]
    assert clean["hyp"] == scores["speakers"][0]["hyp"]


def test_neither_speech_nor_labels_of_the_test_speaker_are_looked_at(corpus, tmp_path):
    heads = {}
    for changed in ("nothing", "test", "valid"):
        root = tmp_path / changed
        shutil.copytree(corpus / "dump", root / "dump")
        dump = root / "dump/tones"
        if changed != "nothing":
            utts = read_lines(dump / f"folds/strict/Ses01F/{changed}")
            scp, utt2emo = read_table(dump / "fbank/feats.scp"), read_table(dump / "utt2emo")
            others = utts[3:] + utts[:3]
            write_table(
                dump / "fbank/feats.scp",
                scp | {u: scp[o] for u, o in zip(utts, others, strict=True)},
            )
            write_table(dump / "utt2emo", utt2emo | dict.fromkeys(utts, "sad"))
        root.joinpath("data").mkdir()
        shutil.copy(corpus / "feats.yaml", root)
        train(root, root / "exp", config=root / "feats.yaml", extra_args=["--fit", "linear_svm"])
        heads[changed] = head(root / "exp/Ses01F")
    assert torch.equal(heads["test"], heads["nothing"])
    assert not torch.equal(heads["valid"], heads["nothing"])


def test_the_encoder_hears_each_utterance_once_for_all_folds(corpus, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(corpus / "dump", root / "dump", ignore=shutil.ignore_patterns("layers"))
    root.joinpath("data").mkdir()
    heard = []
    encode = SERModel.encode

    def counting(self, speech, lengths):
        heard.extend(lengths.tolist())
        return encode(self, speech, lengths)

    monkeypatch.setattr(SERModel, "encode", counting)
    folds = ("Ses01F", "Ses01M", "Ses02F", "Ses02M")
    train(root, root / "exp", folds, config=corpus / "encoder.yaml")
    assert len(heard) == len(read_table(root / "dump/tones/utt2emo"))
    train(
        root, root / "plain", folds[:1], config=corpus / "encoder.yaml",
        extra_args=["--layer_cache", "none"],
    )  # fmt: skip
    assert torch.allclose(head(root / "plain/Ses01F"), head(root / "exp/Ses01F"), atol=1e-5)


def test_folds_side_by_side_do_not_encode_the_same_utterances(corpus, tmp_path, monkeypatch):
    """One encodes while it holds the lock of the folder, which the other waits for."""
    encode, locks = SERModel.encode, []

    def locked_encode(self, speech, lengths):
        (directory,) = (corpus / "dump/tones").glob("other/*-pooled")
        with open_lock(directory) as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locks.append(directory)
        return encode(self, speech, lengths)

    monkeypatch.setattr(SERModel, "encode", locked_encode)
    layers = ["--layer_cache", str(corpus / "dump/tones/other")]
    train(corpus, tmp_path / "exp", config=corpus / "encoder.yaml", extra_args=layers)
    with open_lock(locks[0]) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # free again


@contextmanager
def open_lock(directory: Path):
    descriptor = os.open(directory, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_a_fold_that_was_killed_is_fitted_again(corpus, tmp_path):
    train(corpus, tmp_path / "exp", config=corpus / "feats.yaml")
    fold = tmp_path / "exp/Ses01F"
    expected = head(fold)
    (fold / ".done").unlink()
    (fold / "run.json").unlink()
    (fold / "latest.pth").write_bytes(b"half")
    train(corpus, tmp_path / "exp", config=corpus / "feats.yaml")
    assert torch.equal(head(fold), expected)


def test_the_seed_changes_nothing(corpus, tmp_path):
    for seed in (1, 2):
        train(corpus, tmp_path / f"{seed}", config=corpus / "feats.yaml", seed=seed)
    assert torch.equal(head(tmp_path / "1/Ses01F"), head(tmp_path / "2/Ses01F"))


def test_protocols_without_validation_speakers_are_fitted_as_well(corpus, tmp_path):
    train(corpus, tmp_path / "exp", config=corpus / "feats.yaml", protocol="paper")
    (entry,) = read_json(tmp_path / "exp/Ses01F/history.json")
    assert "valid" not in entry and entry["train"]["C"] in (0.01, 0.1, 1.0)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fit": "gradient"}, "x.yaml: fit_conf: belongs to another fit than gradient"),
        ({"fit": "ridge"}, "fit: found 'ridge'; expected one of gradient, logistic_regression"),
        ({"fit_conf": {"c": [1.0]}}, "fit_conf: FitConf has no option 'c'; it takes: C, class_w"),
        ({"fit_conf": {"C": 1.0}}, "fit_conf.C: found 1.0; give a list of numbers above 0"),
        ({"fit_conf": {"C": [0.0]}}, r"fit_conf.C: found \[0.0\]; give a list"),
        ({"fit_conf": {"class_weight": "even"}}, "class_weight: 'even'; choose balanced or none"),
        ({"fit_conf": {"max_iter": 0.5}}, "fit_conf.max_iter: found 0.5; expected a whole number"),
        ({"encoder": "rnn"}, "encoder: found rnn, but fit: linear_svm learns the emotion head"),
        ({"pooling": "attention"}, "pooling: found attention, .* choose mean or last"),
        ({"frontend_conf": SYSTEM["frontend_conf"]}, "frontend_conf.freeze: .* set freeze: all"),
        ({"aux_conf": SYSTEM["aux_conf"]}, "aux_conf: found pr, but fit: .* remove it"),
    ],
)
def test_what_a_linear_fit_cannot_learn_is_refused_before_anything_runs(tmp_path, changes, message):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(OF_ENCODER | changes))
    with pytest.raises(UserError, match=message):
        resolve(path, TrainingOptions())


def test_several_processes_are_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(OF_FEATS))
    with pytest.raises(UserError, match="--num-nodes 2 .* takes one process"):
        resolve(path, TrainingOptions(num_nodes=2))
