"""Stage 4 with adapters (LoRA): what checkpoints hold, and that a killed training resumes."""

import importlib.util
from pathlib import Path

import pytest
import torch

from ser.data.tables import read_table
from ser.errors import UserError
from ser.models.build import build_model
from ser.models.inputs import load_input
from ser.models.lora import DIGEST, is_adapter
from ser.predict.package import open_model
from ser.scoring.infer import FoldModels, infer_folds
from ser.training.declared import check_system
from ser.training.settings import TrainingOptions, resolve
from tests.support.adapters import LORA, save_encoder
from tests.support.systems import CONF, arguments
from tests.support.tiny import ENCODERS
from tests.support.training import interrupted_at, read_json, same, train, weights, write_system

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed"
)
PRESETS = {  # in conf/: the encoder's architecture in small, and a setting of the real one
    "lora_wav2vec2_large": ("wav2vec2-base-like", "facebook/wav2vec2-large"),
    "lora_xls_r_300m": ("wav2vec2-large-like", "facebook/wav2vec2-xls-r-300m"),
    "lora_hubert_large": ("hubert", "facebook/hubert-large-ll60k"),
    "lora_wavlm_large": ("wavlm", "microsoft/wavlm-large"),
    "lora_whisper_large_v3": ("whisper", "openai/whisper-large-v3"),
}


def system(model: str, **changes) -> dict:
    return {
        "frontend_conf": {
            "model": model,
            "freeze": 0,
            "lora": {**LORA, "dropout": 0.2},
            "gradient_checkpointing": True,
        },
        "heads_first_conf": {"max_epoch": 1, "lr": 1.0e-2, "batch_size": 4},
        "keep_nbest_models": [2],
        **changes,
    }


@pytest.fixture(scope="module")
def corpus(corpus) -> Path:
    encoder = save_encoder(corpus / "encoder", hidden_dropout=0.3)
    write_system(corpus / "lora.yaml", **system(encoder))
    return corpus


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory) -> Path:
    exp_dir = tmp_path_factory.mktemp("exp")
    train(corpus, exp_dir, config=corpus / "lora.yaml")
    return exp_dir / "Ses01F"


def test_every_file_of_a_training_holds_what_is_trained_and_a_digest(trained):
    counted = read_json(trained / "parameters.json")
    assert counted["trained"] < 0.2 * counted["total"]
    for name in ("1epoch.pth", "3epoch.pth", "valid.UA.ave.pth", "checkpoint.pth"):
        state = torch.load(trained / name, weights_only=False)
        if name == "checkpoint.pth":
            moments = state["optimizers"][0]["state"].values()
            assert sum(each["exp_avg"].numel() for each in moments) == counted["trained"]
            state = state["model"]
        assert sum(value.numel() for value in state.values()) == counted["trained"] + 32, name
        kept = [key for key in state if key.startswith("frontend.encoder.")]
        assert len(kept) == 3 * 2 * 2
        assert all(is_adapter(key) for key in kept)
    heads = weights(trained, "heads/latest.pth")
    assert not any(key.startswith("frontend.encoder.") for key in heads)
    assert torch.equal(
        weights(trained, "1epoch.pth")[f"frontend.{DIGEST}"],
        weights(trained, "valid.UA.ave.pth")[f"frontend.{DIGEST}"],  # a mean of two
    )


def test_adapters_begin_where_the_heads_left_off_and_learn(trained):
    first, last, heads = (
        weights(trained, name) for name in ("1epoch.pth", "3epoch.pth", "heads/latest.pth")
    )
    steps = (first["emotion_head.weight"] - heads["emotion_head.weight"]).abs().max()
    assert 0 < steps < 0.01  # an epoch of Adam at 1e-3
    changed = [key for key in first if is_adapter(key) and not torch.equal(first[key], last[key])]
    assert len(changed) == 3 * 2 * 2
    assert all(value.any() for key, value in last.items() if "lora_B" in key)


def test_the_frozen_encoder_is_computed_once_for_all_phases(corpus, trained):
    kept = [path.name for path in (corpus / "dump/tones/layers").iterdir()]
    frames = [name for name in kept if not name.endswith("-pooled")]  # those of the linear systems
    assert len(frames) >= 2  # what enters the transformer; all layers for the heads
    assert all(name.endswith("-float32") for name in frames)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["heads epoch 1/1 train", "Ses01F epoch 2/3 train"])
def test_a_killed_training_resumes_to_the_same_model(corpus, trained, tmp_path, processes, moment):
    interrupted_at(processes, corpus, tmp_path, moment, "lora.yaml")
    train(corpus, tmp_path, config=corpus / "lora.yaml")
    for name in ("3epoch.pth", "valid.UA.ave.pth"):
        assert same(weights(tmp_path / "Ses01F", name), weights(trained, name)), name


def test_stage_5_reads_the_encoder_from_its_folder_and_refuses_another(corpus, trained, tmp_path):
    models = FoldModels(None, "cpu")
    model = models.load(trained / "config.yaml", trained / "3epoch.pth")
    plain = weights(trained, "3epoch.pth")
    own = model.state_dict()
    assert same(plain, own)
    assert model.frontend.cache_dir is not None
    text = (trained / "config.yaml").read_text()
    strange = save_encoder(tmp_path / "strange", seed=1)
    (tmp_path / "config.yaml").write_text(text.replace(str(corpus / "encoder"), strange))
    with pytest.raises(UserError, match="were trained on another encoder .* than the one at hand"):
        FoldModels(None, "cpu").load(tmp_path / "config.yaml", trained / "3epoch.pth")


def test_relative_paths_of_units_and_encoder_are_seen_from_the_recipe(
    corpus, trained, tmp_path, monkeypatch
):
    text = (trained / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace(f"{corpus}/", ""))
    monkeypatch.setattr("ser.scoring.infer.ROOT", corpus)
    monkeypatch.chdir(tmp_path)
    FoldModels(None, "cpu").load(Path("config.yaml"), trained / "3epoch.pth")
    assert Path.cwd() == tmp_path


def test_stage_5_and_a_prediction_with_merged_weights_say_the_same(corpus, trained):
    infer_folds(trained.parent, corpus / "dump/tones", ["Ses01F"])
    packed = open_model(trained.parent)
    model, temperature = packed.load("Ses01F"), packed.members["Ses01F"].temperature or 1.0
    table = read_table(corpus / "dump/tones/wav.scp")
    _, *rows = (line.split("\t") for line in (trained / "predictions.tsv").read_text().splitlines())
    for utt, _, _, *probabilities in (row[:7] for row in rows):
        speech = torch.from_numpy(load_input(table[utt])).float()[None]
        logp = model.infer(speech, torch.tensor([speech.size(1)]))["emotion_logp"] * temperature
        expected = torch.tensor([[float(p) for p in probabilities]])
        assert torch.allclose(logp.softmax(-1), expected, atol=1e-4)
    assert len(rows) == 8


@pytest.mark.parametrize("check", [check_system, lambda path: resolve(path, TrainingOptions())])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": "all"}, "frontend_conf.lora: freeze: all leaves no layer to adapt"),
        ({"unfreeze_after": 1}, "frontend_conf.lora: unfreeze_after: 1 would train the encoder"),
        ({"init": "random"}, "frontend_conf.lora: with init: random the encoder is nowhere"),
        ({"lora": {"r": 0}}, "frontend_conf.lora.r: found 0"),
    ],
)
def test_contradictions_are_told_before_any_job(corpus, tmp_path, check, changes, message):
    conf = {**system(str(corpus / "encoder"))["frontend_conf"], **changes}
    with pytest.raises(UserError, match=f"x.yaml: {message}"):
        check(write_system(tmp_path / "x.yaml", **system("", frontend_conf=conf)))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_on_a_small_encoder_of_its_architecture(name, tmp_path):
    kind, model = PRESETS[name]
    args = arguments(CONF / f"{name}.yaml")
    assert args.frontend_conf["model"] == model
    assert args.frontend_conf["gradient_checkpointing"] is True
    args.frontend_conf["model"] = save_encoder(tmp_path / "encoder", kind)
    network = build_model(args, ["<blank>", "S", "V"], {}).train()
    network.begin_epoch(1)
    depth = len(network.frontend.stages.layers)
    assert depth == ENCODERS[kind][1].get("num_hidden_layers", 3)
    assert sum(is_adapter(key) for key, _ in network.named_parameters()) == depth * 2 * 2
    speech = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    loss, _, _ = network(
        speech,
        torch.tensor([16000, 9000]),
        torch.tensor([[0], [1]]),
        text=torch.tensor([[1, 2], [2, -1]]),
        text_lengths=torch.tensor([2, 1]),
    )
    loss.backward()
    trained = {key for key, p in network.named_parameters() if p.grad is not None}
    assert any("lora_B" in key for key in trained)
    assert all(is_adapter(key) for key in trained if key.startswith("frontend.encoder."))
