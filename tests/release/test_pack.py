"""Stage 7: what is in a packed model, what it says of itself, and what it must not hold."""

import json
import shutil
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.main_funcs.pack_funcs import unpack
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ser.errors import UserError
from ser.predict.card import format_size, make_card, make_marks
from ser.predict.package import open_model
from ser.release.pack import describe, pack_experiment, without_paths
from tests.support.fake_scores import make_scores
from tests.support.packable import (
    EMOTIONS,
    FOLDS,
    answers,
    equal,
    make_experiment,
    make_model,
    said,
    train_fold,
)
from tests.support.tiny import ENCODERS

NAMES = ["README.md", "config.json", "config.yaml", "meta.yaml", "preprocessor_config.json"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """An experiment, packed once for all tests that only look."""
    exp_dir = make_experiment(tmp_path_factory.mktemp("a place"))
    pack_experiment(exp_dir)
    return exp_dir


# --- the files ---------------------------------------------------------------------------------


def test_the_folder_and_the_zip_hold_the_same_files(packed):
    weights = [f"fold_{fold}.safetensors" for fold in FOLDS]
    expected = sorted([*NAMES, *weights, "units.txt"])
    assert sorted(p.name for p in (packed / "packed").iterdir()) == expected
    with zipfile.ZipFile(packed / "s1_strict_seed1.zip") as archive:
        assert archive.namelist()[0] == "meta.yaml"
        assert sorted(archive.namelist()) == expected
        for name in expected:
            assert archive.read(name) == (packed / "packed" / name).read_bytes()


def test_folds_of_any_name_have_files_of_their_own_that_can_be_named():
    config = {"emotions": "a b", "frontend": "feats", "frontend_conf": {}}
    config |= {"feats_type": "fbank", "token_type": "char"}
    configs = dict.fromkeys(("O'Brien", "O_Brien", "$HOME", "\u65e5\u672c"), config)
    entries = describe("x", configs, {}, dict.fromkeys(configs))["folds"]
    names = [entry["weights"] for entry in entries.values()]
    assert names == [
        "fold_O_Brien.safetensors",
        "fold_O_Brien_2.safetensors",
        "fold__HOME.safetensors",
        "fold_\u65e5\u672c.safetensors",
    ]


def test_one_fold_is_called_as_hugging_face_calls_a_models_weights(tmp_path):
    exp_dir = make_experiment(tmp_path)
    pack_experiment(exp_dir, ["Ses01M"])
    names = [p.name for p in (exp_dir / "packed").glob("*.safetensors")]
    assert names == ["model.safetensors"]
    model = open_model(exp_dir / "packed")
    assert model.folds == ["Ses01M"]
    assert equal(answers(model, "Ses01M"), said(make_model("Ses01M")))
    text = (exp_dir / "packed/README.md").read_text()
    assert "One of the 2 models that the scores are the mean of: that of fold Ses01M" in text


def test_each_folds_temperature_travels_with_it_and_divides_its_logits(tmp_path):
    exp_dir = make_experiment(tmp_path)
    marker = exp_dir / FOLDS[0] / ".predictions.done"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"temperature": 2.0}))
    folder, archive = pack_experiment(exp_dir)
    plain = said(make_model(FOLDS[0]))["emotion"]
    for source in (exp_dir, folder, archive):
        model = open_model(source)
        softened = answers(model, FOLDS[0])["emotion"]
        assert torch.allclose(softened, (plain / 2).log_softmax(dim=-1), atol=1e-6)
        assert equal(answers(model, FOLDS[1]), said(make_model(FOLDS[1])))


def test_a_temperature_of_a_model_that_was_trained_again_is_not_used(tmp_path):
    exp_dir = make_experiment(tmp_path)
    marker = exp_dir / FOLDS[0] / ".predictions.done"
    noted = json.loads(marker.read_text())
    noted["made_from"]["model_sha256"] = "another"
    marker.write_text(json.dumps(noted | {"temperature": 2.0}))
    assert equal(answers(open_model(exp_dir), FOLDS[0]), said(make_model(FOLDS[0])))


def test_espnets_own_function_unpacks_the_zip(packed, tmp_path):
    found = unpack(packed / "s1_strict_seed1.zip", tmp_path)
    assert sorted(found) == [*(f"ser_model_file_{fold}" for fold in FOLDS), "ser_train_config"]
    assert all(Path(path).is_file() for path in found.values())
    config = yaml.safe_load(Path(found["ser_train_config"]).read_text())
    assert config["units"] == str(tmp_path / "units.txt")
    assert (config["optim"], config["max_epoch"]) == ("adam", 12)


def test_hugging_faces_own_classes_read_the_folder(packed):
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(packed / "packed")
    assert (extractor.sampling_rate, extractor.do_normalize) == (16000, False)
    config = json.loads((packed / "packed/config.json").read_text())
    assert config["id2label"] == {str(i): emotion for i, emotion in enumerate(EMOTIONS)}
    card = ModelCard.load(packed / "packed/README.md")
    (wa, ua) = card.data.eval_results
    # three of four and four of four decisions are right
    assert (wa.metric_type, wa.metric_value) == ("accuracy", 87.5)
    assert (ua.metric_type, ua.metric_value) == ("recall", 87.5)
    assert (wa.dataset_name, wa.dataset_config) == ("toy", "strict")
    assert card.data.language == ["und"]


def test_weights_may_be_read_by_whoever_may_read_the_folder(packed):
    folder = packed / "packed"
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == folder.stat().st_mode & 0o666


# --- the same model ----------------------------------------------------------------------------


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("source", ["packed", "s1_strict_seed1.zip"])
def test_a_packed_model_says_exactly_what_the_experiments_model_says(packed, source, fold):
    expected = answers(open_model(packed), fold)
    assert equal(expected, said(make_model(fold)))
    assert equal(answers(open_model(packed / source), fold), expected)


def test_every_fold_keeps_the_classes_of_its_own_label_heads(packed):
    model = open_model(packed / "packed")
    for fold in FOLDS:
        assert model.load(fold).aux_labels["who"] == [f"not{fold}", "somebody"]


@pytest.mark.parametrize("name", ["wav2vec2-base-like", "hubert", "data2vec", "whisper"])
def test_a_packed_model_needs_neither_the_hub_nor_the_encoders_folder(name, tmp_path):
    model_type, config = ENCODERS[name]
    encoder = AutoConfig.for_model(model_type, **config)
    made = WhisperEncoder(encoder) if name == "whisper" else AutoModel.from_config(encoder)
    folder = tmp_path / "my encoder"
    made.half().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false}')
    conf = {"model": str(folder), "init": "pretrained", "layers": "last"}
    exp_dir = make_experiment(tmp_path, frontend_conf=conf)
    expected = answers(open_model(exp_dir), "Ses01F")
    pack_experiment(exp_dir)
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "dump")
    model = open_model(exp_dir / "packed")
    assert model.load("Ses01F").frontend.normalize is False
    assert equal(answers(model, "Ses01F"), expected)


# --- no trace of the machine -------------------------------------------------------------------


def test_no_path_of_this_machine_is_left_in_any_file(tmp_path):
    folder = tmp_path / "my encoder"
    model_type, config = ENCODERS["hubert"]
    AutoModel.from_config(AutoConfig.for_model(model_type, **config)).save_pretrained(folder)
    aux = {"pr": {"type": "ctc", "weight": 0.1}}
    aux["who"] = {"type": "label", "weight": 0.1, "table": str(tmp_path / "utt2spk")}
    scores = {
        "ssl": str(folder),
        "corpus_partial": [f"{tmp_path}/corpus/Session1 is missing", "/data/x y/z.wav: missing"],
        "command": f"./run.sh --ssl {folder} --corpus-dir ~/IEMOCAP",
    }
    exp_dir = make_experiment(tmp_path, scores, frontend_conf={"model": str(folder)}, aux_conf=aux)
    pack_experiment(exp_dir)
    here = [tmp_path, Path.cwd(), Path.home(), "/data/x", "/somewhere/", "~/IEMOCAP"]
    for path in (exp_dir / "packed").iterdir():
        content = path.read_bytes()
        for place in here:
            assert str(place).encode() not in content, f"{place} in {path.name}"
    assert "PATH/TO/IEMOCAP" in (exp_dir / "packed/README.md").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/corpora/IEMOCAP", "PATH/TO/IEMOCAP"),
        ("see /data/corpora/a.wav: short", "see PATH/TO/a.wav: short"),
        ("see ~/corpora/a.wav", "see PATH/TO/a.wav"),
        ("facebook/wav2vec2-base", "facebook/wav2vec2-base"),
        ("conf/train_s1.yaml WA / UA", "conf/train_s1.yaml WA / UA"),
        ("https://sail.usc.edu/iemocap/", "https://sail.usc.edu/iemocap/"),
        ("./run.sh --x=/opt/it/y", "./run.sh --x=PATH/TO/y"),
    ],
)
def test_only_absolute_paths_lose_their_folders(text, expected):
    assert without_paths({"a": [text, 1]}) == {"a": [expected, 1]}


def test_paths_go_where_there_is_no_home_folder(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert without_paths("see /data/corpora/a.wav") == "see PATH/TO/a.wav"


# --- the card ----------------------------------------------------------------------------------


def test_the_card_says_what_was_measured_how_and_on_whom(packed):
    text = (packed / "packed/README.md").read_text()
    scores = json.loads((packed / "scores.json").read_text())
    low, high = (f"{100 * bound:.1f}" for bound in scores["summary"]["wa_ci"])
    assert f"| WA, mean over folds | 87.5 | {low} to {high} |" in text
    assert "Protocol `strict`: one speaker is left out" in " ".join(text.split())
    assert "2 folds, 2 speakers, 8 utterances, seed 1" in " ".join(text.split())
    assert scores["command"] in text
    for word in ("Not for decisions about people", "2 speakers are few", "One language"):
        assert word in " ".join(text.split())
    for fold in FOLDS:
        size = (packed / f"packed/fold_{fold}.safetensors").stat().st_size
        assert f"| {fold} | fold_{fold}.safetensors | {format_size(size)} |" in text


def test_marks_travel_with_the_model(tmp_path, capsys):
    leak = "--select best-on-test: the epoch was chosen by the test utterances"
    scores = {"leaky": [leak], "corpus_partial": ["Session5 is missing"], "protocol": "strict"}
    exp_dir = make_experiment(tmp_path, scores)
    pack_experiment(exp_dir)
    marks = [f"LEAKY: {leak}", "PARTIAL: the corpus is not complete: Session5 is missing"]
    assert open_model(exp_dir / "packed").card["marks"] == marks
    readme = exp_dir / "packed/README.md"
    text, shown = " ".join(readme.read_text().split()), capsys.readouterr().out
    for mark in marks:
        assert f"> **{mark}" in text
        assert mark in shown
    for result in ModelCard.load(readme).data.eval_results:
        assert "(LEAKY; PARTIAL)" in result.metric_name


def test_scores_of_known_speakers_are_marked_speaker_dependent():
    assert make_marks(make_scores()) == []
    (mark,) = make_marks(make_scores() | {"protocol": "kfold5"})
    assert mark.startswith("speaker-dependent: ")


def test_a_card_holds_no_decision_of_any_speaker():
    card = json.dumps(make_card(make_scores()))
    assert "Ses01F" not in card


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 bytes"), (380e6, "380 MB"), (3.8e9, "3.8 GB")]
)
def test_sizes_are_told_in_units_that_suit_them(count, text):
    assert format_size(count) == text


# --- what is refused ---------------------------------------------------------------------------


def test_an_experiment_that_was_not_scored_is_not_packed(tmp_path):
    exp_dir = make_experiment(tmp_path)
    (exp_dir / "scores.json").unlink()
    with pytest.raises(UserError, match=r"scores.json: no such file; score first: ./run.sh"):
        pack_experiment(exp_dir)


def test_a_model_trained_after_it_was_scored_is_not_packed_with_the_old_scores(tmp_path):
    exp_dir = make_experiment(tmp_path)
    pack_experiment(exp_dir)
    before = (exp_dir / "packed/fold_Ses01M.safetensors").read_bytes()
    marker = (exp_dir / "Ses01M/.predictions.done").read_bytes()
    weights = {k: v + 1 for k, v in make_model("Ses01M").state_dict().items()}
    train_fold(exp_dir / "Ses01M", weights)
    (exp_dir / "Ses01M/.predictions.done").write_bytes(marker)
    with pytest.raises(UserError, match="its scores are not those of latest.pth as it is now"):
        pack_experiment(exp_dir)
    assert (exp_dir / "packed/fold_Ses01M.safetensors").read_bytes() == before
    pack_experiment(exp_dir, ["Ses01F"])  # which is as it was


def test_a_copy_with_new_times_is_packed_and_other_weights_in_it_are_not(tmp_path):
    exp_dir = make_experiment(tmp_path)
    copy = Path(shutil.copytree(exp_dir, tmp_path / "exp/toy/copy", copy_function=shutil.copyfile))
    pack_experiment(copy)
    shutil.copyfile(exp_dir / "Ses01F/2epoch.pth", copy / "Ses01M/latest.pth")
    with pytest.raises(UserError, match="not those of latest.pth .*; copy it again, or train"):
        pack_experiment(copy)


def test_a_fold_that_is_gone_or_was_not_finished_is_named_with_how_to_go_on(tmp_path):
    exp_dir = make_experiment(tmp_path)
    cure = "train and score it: ./run.sh --stage 4 .*, or pack other folds: --folds NAMES$"
    (exp_dir / "Ses01M/.done").unlink()
    with pytest.raises(UserError, match=f"Ses01M: its training is not finished; {cure}"):
        pack_experiment(exp_dir)
    shutil.rmtree(exp_dir / "Ses01M")
    with pytest.raises(UserError, match=f"Ses01M: no such folder; {cure}"):
        pack_experiment(exp_dir)
    pack_experiment(exp_dir, ["Ses01F"])


def test_what_is_no_experiment_is_said_to_be_none(tmp_path):
    path = tmp_path / "ok.zip"
    with pytest.raises(UserError, match="ok.zip: no such folder; give an experiment: exp/<corpus>"):
        pack_experiment(path)
    path.touch()
    with pytest.raises(UserError, match="ok.zip: a file; give an experiment: exp/<corpus>/<tag>$"):
        pack_experiment(path)


def test_folds_without_scores_are_named(tmp_path):
    exp_dir = make_experiment(tmp_path)
    with pytest.raises(UserError, match=r"--folds: Ses09X: .*choose from: Ses01F Ses01M"):
        pack_experiment(exp_dir, ["Ses01F", "Ses09X"])


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    exp_dir = make_experiment(tmp_path)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match=r"need .* the disk has 1 kB; free some .*--folds Ses01F"):
        pack_experiment(exp_dir)
    assert not (exp_dir / "packed").exists()


def test_a_pack_that_fails_half_way_leaves_the_old_one(tmp_path, monkeypatch):
    exp_dir = make_experiment(tmp_path)
    pack_experiment(exp_dir)
    names = sorted(p.name for p in exp_dir.iterdir())

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ser.release.pack.write_texts", fail)
    with pytest.raises(OSError, match="No space"):
        pack_experiment(exp_dir, ["Ses01F"])
    assert sorted(p.name for p in exp_dir.iterdir()) == names
    assert open_model(exp_dir / "packed").folds == FOLDS


def test_weights_that_share_memory_are_written_each(tmp_path):
    from safetensors.torch import load_file

    from ser.release.pack import write_weights

    tensor = torch.arange(6.0)
    path = tmp_path / "model.safetensors"
    write_weights(path, {"a": tensor, "b": tensor, "c": tensor.view(2, 3).T})
    loaded = load_file(path)
    assert torch.equal(loaded["a"], tensor) and torch.equal(loaded["b"], tensor)
    assert torch.equal(loaded["c"], tensor.view(2, 3).T)
