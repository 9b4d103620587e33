"""Configurations: what is refused, and that every file in conf/ builds a model that trains."""

import json
import types
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.tasks import abs_task

from ser.config import check_config, differences, load_config, read_yaml
from ser.data.features import FEATS_SIZES
from ser.errors import UserError
from ser.lang.units import phone_units, write_units
from ser.models.heads import read_heads
from ser.training.settings import TrainingOptions, resolve
from ser.training.task import SERTask
from tests.support import ROOT
from tests.support.tiny import EMOTIONS, ENCODERS

CONF = sorted((ROOT / "conf").glob("*.yaml"))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_missing_file_names_what_there_is(tmp_path):
    write(tmp_path / "s1.yaml", "max_epoch: 1")
    with pytest.raises(UserError, match=r"s2.yaml: no such file; beside it: .*s1.yaml"):
        load_config(tmp_path / "s2.yaml")


def test_broken_yaml_names_its_line(tmp_path):
    path = write(tmp_path / "x.yaml", "a: 1\nb: [1, 2\nc: 3\n")
    with pytest.raises(UserError, match=r"x.yaml:3: not valid YAML"):
        load_config(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb\nc: 3\n", "x.yaml:2: not valid YAML: could not find expected ':'"),
        (b"a: 1\nb: \x07\n", r"x.yaml:2: the character '\\x07'; take it out$"),
        (b"a: 1\nb: \xe9\n", "x.yaml:2: not UTF-8; save the file as UTF-8$"),
        ("a: 1\n".encode("utf-16"), "x.yaml:1: not UTF-8"),
        (b"a: 1\n? [a]\n: b\n", "x.yaml:2: a key that is no text"),
    ],
)
def test_what_is_no_yaml_is_one_sentence_with_its_line(tmp_path, content, message):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "x.yaml")


def test_a_number_that_yaml_reads_as_text_is_caught(tmp_path):
    path = write(tmp_path / "x.yaml", "optim_conf:\n  lr: 2e-5\n")
    with pytest.raises(UserError, match=r"optim_conf.lr: YAML reads '2e-5' as text; write 2.0e-5"):
        load_config(path)


@pytest.mark.parametrize("text", ["yes", "no", "Off", "03", "010", "0x1F", "12:30", "2026-01-02"])
def test_what_versions_of_yaml_read_differently_is_refused_and_read_as_text_where_asked(
    tmp_path, text
):
    path = write(tmp_path / "x.yaml", f"a: {{b: {text}}}\n")
    with pytest.raises(UserError, match=rf"x.yaml:1: a.b: {text} means .*'{text}' in quotes"):
        load_config(path)
    assert read_yaml(path, as_text=True)[0] == {"a": {"b": text}}
    assert load_config(write(path, f"a: '{text}'")) == {"a": text}


@pytest.mark.parametrize("where", ["{}", "optim_conf: {{{}}}", "- a: {{{}}}"])
def test_a_key_given_twice_is_refused_with_both_lines(tmp_path, where):
    text = "a:\n  " + where.format("lr: 1,\n  lr: 2" if "{{" in where else "lr: 1\n  lr: 2")
    with pytest.raises(UserError, match=r"x.yaml:3: .*lr: given a second time, first in line 2"):
        load_config(write(tmp_path / "x.yaml", text))


@pytest.mark.parametrize(
    "text", ["", "- a", "just text", "a: *b", "a: &a [*a]", "a: [", "? [a]\n: b"]
)
def test_a_file_that_is_no_mapping_is_refused_in_a_sentence(tmp_path, text):
    with pytest.raises(UserError, match="x.yaml"):
        load_config(write(tmp_path / "x.yaml", text))


def test_aliases_and_merged_keys_are_read(tmp_path):
    path = write(tmp_path / "x.yaml", "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a\n")
    assert load_config(path) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"x": 1, "y": 2},
    }


def test_a_file_says_only_how_it_differs_from_its_base(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "root.yaml", "a: 1\nb: {c: 2, d: 3, e: {f: 4}}\ng: {h: 5}\ni: 6\nj: {k: 7}\n")
    write(tmp_path / "deep/middle.yaml", "base: ../root.yaml\na: 8\nb: {d: null, e: {l: 9}}\n")
    path = write(tmp_path / "top.yaml", "base: deep/middle.yaml\ng: {}\ni: null\nj: 10\nm: null\n")
    expected = {"a": 8, "b": {"c": 2, "e": {"f": 4, "l": 9}}, "g": {}, "j": 10, "m": None}
    assert load_config(path) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: y.yaml", r"x.yaml: base: leads back to itself: x.yaml -> y.yaml -> x.yaml"),
        ("base: z.yaml", r"x.yaml: base: z.yaml: no such file in "),
        ("base: [y.yaml]", r"x.yaml: base: \['y.yaml'\]: no such file"),
    ],
)
def test_a_base_that_leads_nowhere_is_named(tmp_path, text, message):
    path = write(tmp_path / "x.yaml", text)
    write(tmp_path / "y.yaml", "base: x.yaml")
    with pytest.raises(UserError, match=message):
        load_config(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_epochs: 3", "unknown key 'max_epochs'; did you mean max_epoch"),
        ("max_epoch: three", "max_epoch: found 'three'; expected a whole number"),
        ("max_epoch: 1.5", "max_epoch: found 1.5; expected a whole number"),
        ("grad_clip: [5]", r"grad_clip: found \[5\]; expected a number"),
        ("use_tensorboard: 3", "use_tensorboard: found 3; expected true or false"),
        ("aux_conf: ctc", "aux_conf: found 'ctc'; expected a mapping"),
        ("frontend: wav2vec3", "frontend: found 'wav2vec3'; expected one of .*feats, grey, hf"),
        ("keep_nbest_models: 1", "keep_nbest_models: found 1; expected a list"),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused(tmp_path, line, message):
    path = write(tmp_path / "x.yaml", line)
    with pytest.raises(UserError, match=message):
        check_config(path, load_config(path), SERTask.get_parser())


@pytest.mark.parametrize(
    ("content", "extra", "message"),
    [
        (
            {"frontend_conf": {"modle": "x"}},
            [],
            "x.yaml: frontend_conf: HFFrontend has no option 'modle'",
        ),
        ({"optim_conf": {"learning_rate": 1.0}}, [], "optim_conf: .* no option 'learning_rate'"),
        ({"seed": 3}, [], "seed is set by run.sh"),
        ({"optim_conf": {"lr": "high"}}, [], "optim_conf.lr: found 'high'; expected a number"),
        ({"frontend_conf": {"low_level": "x"}}, [], "low_level: found 'x'; expected true or"),
        ({"batch_size": 0}, [], "batch_size: found 0; expected 1 or more"),
        (
            {"best_model_criterion": [["valid", "UAR", "max"]]},
            [],
            r"best_model_criterion: found .*'UAR'.*; expected train or valid, one of loss, ",
        ),
        (
            {"aux_conf": {"sex": {"type": "label"}}},
            [],
            "x.yaml: aux_conf.sex.weight: None; give a number",
        ),
        (
            {},
            ["--aux_conf", "sex.type=labels"],
            "x.yaml with the options after --: aux_conf.sex.type: 'labels'; choose one of ctc",
        ),
        ({"aux_labels": {"sex": {}}}, [], "aux_labels is set by run.sh"),
        ({}, ["--max_epochx", "3"], "unrecognized arguments"),
        ({}, ["--max_epoch", "three"], "invalid int value"),
    ],
)
def test_options_of_the_chosen_classes_are_checked(tmp_path, content, extra, message):
    path = write(tmp_path / "x.yaml", yaml.safe_dump(content or {"max_epoch": 1}))
    with pytest.raises(UserError, match=message):
        resolve(path, TrainingOptions(extra_args=extra))


def test_weights_and_biases_that_is_not_installed_is_said_before_training(tmp_path, monkeypatch):
    path = write(tmp_path / "x.yaml", "max_epoch: 1")
    asked = TrainingOptions(extra_args=["--use_wandb", "true"])
    monkeypatch.setattr(abs_task, "wandb", None)
    with pytest.raises(UserError, match=r"wandb.* is not installed here; .*requirements-apps.txt"):
        resolve(path, asked)
    monkeypatch.setattr(abs_task, "wandb", types.ModuleType("wandb"))
    assert resolve(path, asked).use_wandb
    assert resolve(path, TrainingOptions()).use_tensorboard


def test_a_missing_encoder_folder_is_found_before_any_fold_is_touched(tmp_path):
    path = write(tmp_path / "x.yaml", "max_epoch: 1")
    with pytest.raises(UserError, match="/nowhere/encoder: no such folder"):
        resolve(path, TrainingOptions(ssl="/nowhere/encoder"))


def test_the_command_line_overrides_the_file(tmp_path):
    content = {"max_epoch": 7, "aux_conf": {"pr": {"type": "ctc", "weight": 0.1}}}
    path = write(tmp_path / "x.yaml", yaml.safe_dump(content))
    extra = ["--aux_conf", "pr.weight=0.01", "--optim_conf", "lr=2e-4", "--batch_size", "3"]
    args = resolve(path, TrainingOptions(max_epoch=2, ssl="some/model", extra_args=extra), seed=5)
    assert (args.max_epoch, args.batch_size, args.seed) == (2, 3, 5)
    assert args.aux_conf == {"pr": {"type": "ctc", "weight": 0.01}}
    assert args.optim_conf["lr"] == 2e-4
    assert args.frontend_conf == {"model": "some/model", "init": "pretrained"}


def test_a_named_encoder_replaces_an_untrained_one_with_its_sizes(tmp_path):
    random = {"init": "random", "model_type": "wav2vec2", "config": {"hidden_size": 8}}
    path = write(
        tmp_path / "x.yaml", yaml.safe_dump({"frontend_conf": {**random, "freeze": "cnn"}})
    )
    args = resolve(path, TrainingOptions(ssl="some/model"))
    expected = {"model": "some/model", "init": "pretrained", "freeze": "cnn"}
    assert args.frontend_conf == expected


def test_differences_name_each_changed_leaf():
    old = {"a": 1, "optim_conf": {"lr": 1.0, "eps": 2.0}}
    new = {"a": 1, "optim_conf": {"lr": 3.0, "eps": 2.0}, "b": 4}
    assert differences(old, new) == ["b: 'not set' -> 4", "optim_conf.lr: 1.0 -> 3.0"]


# What a first step leaves as it is: a head of weight 0, what is behind denoisers that begin as 0.
UNMOVED = {"pretrain_s18_speaker": "emotion_head.", "train_s10_ladder": "encoder.down."}


@pytest.mark.parametrize("path", CONF, ids=lambda p: p.stem)
def test_every_configuration_builds_a_model_that_takes_a_step(path, tmp_path):
    """With the encoders it names replaced by tiny untrained ones of the same kind."""
    extra = []
    content = load_config(path)
    if upstreams := content.get("frontend_conf", {}).get("upstreams"):
        model_type, config = ENCODERS["wav2vec2-base-like"]
        tiny = {"init": "random", "model_type": model_type, "config": config, "model": None}
        extra += ["--frontend_conf", f"upstreams={json.dumps([u | tiny for u in upstreams])}"]
    if content.get("encoder_conf", {}).get("freeze"):  # needs a file of weights
        for key, value in {"freeze": False, "depth": 18, "picture": [32, 32]}.items():
            extra += ["--encoder_conf", f"{key}={json.dumps(value)}"]
    if content["frontend"] == "hf" and content["frontend_conf"].get("init") != "random":
        kind = "whisper" if "whisper" in content["frontend_conf"]["model"] else "wav2vec2-base-like"
        model_type, config = ENCODERS[kind]
        depth = {"whisper": {"encoder_layers": 6}, "wav2vec2": {"num_hidden_layers": 12}}
        config = config | depth[model_type]  # those of the encoder named, which layers counts
        overrides = {"init": "random", "model_type": model_type, "config": config, "model": None}
        overrides["lora"] = None  # adapts pretrained encoders only: tests/models/test_lora.py
        for key, value in overrides.items():
            extra += ["--frontend_conf", f"{key}={json.dumps(value)}"]
    args = resolve(path, TrainingOptions(extra_args=extra))
    args.emotions, args.units = " ".join(EMOTIONS), str(tmp_path / "units.txt")
    inventory, _ = phone_units("tagged_class", {}, {}, {}, len(EMOTIONS))
    write_units(tmp_path / "units.txt", inventory)
    heads = read_heads(args.aux_conf)
    tables = {name: head.table for name, head in heads.items() if head.table}
    values = {name: table.limits is not None for name, table in tables.items()}
    args.aux_labels = {n: {"values": [3.0, 1.0] if v else ["f", "m"]} for n, v in values.items()}
    model = SERTask.build_model(args)
    (optimizer,) = SERTask.build_optimizers(args, model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    feats_type = content["feats_type"]
    frames = 4 if feats_type == "audio_video" else 130  # each a picture for a ResNet-50
    shape = (2, 8000) if feats_type == "raw" else (2, frames, FEATS_SIZES[feats_type])
    generator = torch.Generator().manual_seed(0)
    loss, stats, weight = model(
        speech=0.1 * torch.randn(shape, generator=generator),
        speech_lengths=torch.tensor([shape[1], shape[1] - 10]),
        emotion=torch.tensor([[0], [3]]),
        text=torch.tensor([[1, 2, 3], [4, -1, -1]]),
        text_lengths=torch.tensor([3, 1]),
        **{
            heads[n].entry: torch.tensor([[2.0], [4]] if v else [[0], [1]])
            for n, v in values.items()
        },
    )
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    # distributed training insists on it: whatever can be tuned takes part in the loss
    untouched = {
        name
        for name, p in model.named_parameters()
        if p.requires_grad and torch.equal(before[name], p.detach())
    }
    still = UNMOVED.get(path.stem)
    assert {name for name in untouched if not still or not name.startswith(still)} == set()


@pytest.mark.parametrize("size", ["train", "mini"])
def test_the_s3_systems_differ_in_their_units_and_in_the_mask_alone(size):
    """Otherwise their differences would not be what these are worth."""
    folder = ROOT / "conf"
    char, bpe, cai2021 = (
        load_config(folder / f"{size}_s3_{name}.yaml") for name in ("char", "bpe", "cai2021")
    )
    assert cai2021.pop("pooling_conf") == {"mask": False}
    assert cai2021 == char
    assert (char.pop("token_type"), bpe.pop("token_type")) == ("char", "bpe")
    assert bpe.pop("bpe_size") == {"train": 500, "mini": 100}[size]
    char.pop("stated", None)
    assert bpe == char
    assert char["aux_conf"] == {"asr": {"type": "ctc", "weight": 0.1}}
    assert char["frontend_conf"]["layers"] == "last"
    assert char["batch_size"] * char.get("accum_grad", 1) == 8


def test_s3_in_miniature_has_the_encoder_and_the_budget_of_s1_in_miniature():
    folder = ROOT / "conf"
    s1, s3 = load_config(folder / "mini_s1.yaml"), load_config(folder / "mini_s3_char.yaml")
    s3["frontend_conf"] |= {"layers": "weighted_sum", "low_level": True}
    s3["aux_conf"] = {"pr": s3["aux_conf"]["asr"]}
    assert s3 | {"token_type": s1["token_type"]} == s1


@pytest.mark.parametrize(
    ("multi", "single"),
    [
        ("train_s1_mtl_phoneme", "train_s2_single_task"),
        ("emodb_s1", "emodb_s2"),
        ("mini_s1", "mini_s2"),
    ],
)
def test_single_and_multi_task_differ_in_the_phoneme_head_alone(multi, single):
    """Otherwise their difference would not be the effect of the head."""
    folder = ROOT / "conf"
    one, other = load_config(folder / f"{multi}.yaml"), load_config(folder / f"{single}.yaml")
    assert one.pop("aux_conf") == {"pr": {"type": "ctc", "weight": 0.1}}
    assert one.pop("token_type") == "tagged_class"
    one.pop("stated", None), other.pop("stated", None)
    assert one == other
