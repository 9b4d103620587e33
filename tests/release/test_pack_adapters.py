"""Models of adapters (LoRA): packed with one encoder for all folds, predicted with, exported."""

import importlib.util
import json
import shutil
import zipfile

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ser.errors import UserError
from ser.predict.models import TorchModel
from ser.predict.package import open_model
from ser.release.pack import pack_experiment
from tests.support.adapters import LORA, adapted_experiment, adapted_model, save_encoder
from tests.support.packable import FOLDS, answers, equal, said
from tests.support.tiny import SHORT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed"
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    exp_dir = adapted_experiment(root, save_encoder(root / "encoder"))
    pack_experiment(exp_dir)
    return exp_dir


def test_a_packed_model_holds_the_encoder_once_and_adapters_for_every_fold(packed):
    folder = packed / "packed"
    folds = [load_file(folder / f"fold_{fold}.safetensors") for fold in FOLDS]
    encoder = load_file(folder / "encoder.safetensors")
    for fold in folds:
        of_encoder = [name for name in fold if name.startswith("frontend.encoder.")]
        assert len(of_encoder) == 3 * 2 * 2
        assert all(".lora_" in name for name in of_encoder)
        assert not fold.keys() & encoder.keys()
    sizes = [(folder / f"fold_{fold}.safetensors").stat().st_size for fold in FOLDS]
    assert max(sizes) < 0.2 * (folder / "encoder.safetensors").stat().st_size
    config = json.loads((folder / "config.json").read_text())
    assert (config["encoder"], config["format_version"]) == ("encoder.safetensors", 2)
    text = " ".join((folder / "README.md").read_text().split())
    assert "the same for all, is encoder.safetensors (" in text
    meta = yaml.safe_load((folder / "meta.yaml").read_text())
    assert meta["files"]["ser_encoder_file"] == "encoder.safetensors"
    with zipfile.ZipFile(packed / "s1_strict_seed1.zip") as archive:
        assert "encoder.safetensors" in archive.namelist()


@pytest.mark.parametrize("fold", FOLDS)
def test_packed_it_says_what_the_experiment_says_and_what_was_trained(packed, fold):
    conf = {"model": str(packed.parents[2] / "encoder"), "freeze": 0, "lora": LORA}
    trained = said(adapted_model(fold, frontend_conf=conf))
    here = answers(open_model(packed), fold)
    assert here.keys() == trained.keys()
    for key, value in trained.items():
        assert torch.allclose(here[key], value, atol=2e-5), key
    for source in ("packed", "s1_strict_seed1.zip"):
        assert equal(answers(open_model(packed / source), fold), here)
    other = FOLDS[1 - FOLDS.index(fold)]
    assert not torch.allclose(answers(open_model(packed), other)["emotion"], here["emotion"])


def test_it_needs_neither_peft_nor_the_encoders_folder_and_is_quantised(
    packed, tmp_path, monkeypatch
):
    folder = shutil.copytree(packed / "packed", tmp_path / "elsewhere")
    conf = yaml.safe_load((folder / "config.yaml").read_text())["frontend_conf"]
    assert (conf["init"], conf["lora"]) == ("random", LORA)
    assert "model" not in conf
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name == "peft" else find_spec(name)
    )
    model = open_model(folder).load(FOLDS[0])
    assert not any(".lora_" in name for name in model.state_dict())
    speech = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0)).numpy()
    exact, rounded = (TorchModel(model, precision=p)(speech) for p in ("float32", "int8"))
    assert abs(exact.logp - rounded.logp).max() < 0.3


def test_the_encoder_is_in_memory_once_for_all_folds_but_for_what_is_adapted(packed):
    model = open_model(packed / "packed")
    one, other = (model.load(fold).frontend.encoder for fold in FOLDS)
    layers = [encoder.encoder.layers[0] for encoder in (one, other)]
    shared = [layer.feed_forward.output_dense.weight.data_ptr() for layer in layers]
    assert shared[0] == shared[1]
    assert not torch.equal(*(layer.attention.q_proj.weight for layer in layers))


def test_adapters_of_another_encoder_are_refused_in_one_sentence(packed, tmp_path):
    message = r"trained on another encoder \([0-9a-f]{12}\) than the one at hand"
    folder = shutil.copytree(packed / "packed", tmp_path / "packed")
    encoder = load_file(folder / "encoder.safetensors")
    strange = save_encoder(tmp_path / "strange", seed=1)
    weights = load_file(tmp_path / "strange/model.safetensors")
    from safetensors.torch import save_file

    save_file(
        {k: weights.get(k[17:], v) for k, v in encoder.items()}, folder / "encoder.safetensors"
    )
    with pytest.raises(UserError, match=f"fold_Ses01F.safetensors: .*{message}"):
        open_model(folder).load(FOLDS[0])
    exp_dir = shutil.copytree(packed, tmp_path / "exp/toy/copy")
    shutil.copytree(packed.parents[2] / "dump", tmp_path / "dump")
    config = yaml.safe_load((exp_dir / "Ses01F/config.yaml").read_text())
    config["frontend_conf"]["model"] = strange
    for fold in FOLDS:
        own = yaml.safe_load((exp_dir / fold / "config.yaml").read_text())
        own["frontend_conf"] = config["frontend_conf"]
        (exp_dir / fold / "config.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(
        UserError, match=f"Ses01F: .*{message}.*; give the encoder of that training"
    ):
        open_model(exp_dir).load(FOLDS[0])


def test_nothing_is_packed_with_another_encoder_than_the_folds_were_trained_on(tmp_path):
    folder = save_encoder(tmp_path / "encoder")
    exp_dir = adapted_experiment(tmp_path, folder)
    save_encoder(tmp_path / "encoder", seed=1)
    with pytest.raises(UserError, match="2epoch.pth|latest.pth: .*trained on another encoder"):
        pack_experiment(exp_dir)
    assert not (exp_dir / "packed").exists()


def test_a_packed_model_whose_files_contradict_each_other_is_refused(packed, tmp_path):
    folder = shutil.copytree(packed / "packed", tmp_path / "packed")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"encoder": None}))
    with pytest.raises(UserError, match="disagree on whether the weights are adapters"):
        open_model(folder)
    (folder / "config.json").write_text(json.dumps(config | {"encoder": "../a.safetensors"}))
    with pytest.raises(UserError, match="config.json: encoder is '../a.safetensors'"):
        open_model(folder)
    (folder / "config.json").write_text(json.dumps(config))
    network = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(network.replace("alpha: 6", "alpha: -6"))
    with pytest.raises(UserError, match="config.yaml: frontend_conf.lora.alpha: found -6"):
        open_model(folder)
    (folder / "config.yaml").write_text(network)
    (folder / "encoder.safetensors").unlink()
    with pytest.raises(UserError, match="encoder.safetensors is missing"):
        open_model(folder)


@pytest.mark.slow
def test_graphs_hold_merged_weights(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    encoder = save_encoder(tmp_path / "encoder", **{**SHORT, "num_hidden_layers": 1})
    exp_dir = adapted_experiment(tmp_path, encoder, layers="last")
    folder, _ = pack_experiment(exp_dir, FOLDS[:1], onnx="float32")
    model = open_model(folder)
    graph = model.graphs[FOLDS[0]]()
    speech = 0.1 * torch.randn(2, 9000, generator=torch.Generator().manual_seed(4))
    expected = TorchModel(model.load(FOLDS[0]))(speech.numpy())
    assert abs(graph(speech.numpy()).logp - expected.logp).max() < 1e-4
