"""Opening models from anywhere: what is wrong is said in one sentence, and nothing is run."""

import json
import os
import shutil
import stat
import zipfile
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ser.errors import UserError
from ser.predict.config import FORMAT_VERSION
from ser.predict.package import network_conf, open_model
from ser.release.pack import pack_experiment, write_zip
from tests.support import ROOT
from tests.support.packable import FOLDS, answers, equal, make_experiment, make_model, said
from tests.support.tiny import EMOTIONS, TINY


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    exp_dir = make_experiment(tmp_path_factory.mktemp("original"))
    pack_experiment(exp_dir)
    return exp_dir


@pytest.fixture
def folder(original, tmp_path):
    """A packed folder of one's own to spoil."""
    return Path(shutil.copytree(original / "packed", tmp_path / "model"))


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_yaml(path: Path, **changes) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def complaint(source) -> str:
    """The one sentence, which says how to go on."""
    with pytest.raises(UserError) as caught:
        model = open_model(source)
        model.load(model.folds[0])
    message = str(caught.value)
    assert "\n" not in message
    assert "; " in message or ": " in message
    return message


# --- what is there -----------------------------------------------------------------------------


def test_folder_zip_and_experiment_say_the_same_of_themselves(original):
    sources = (original, original / "packed", original / "s1_strict_seed1.zip")
    for model in map(open_model, sources):
        assert model.name == "s1_strict_seed1"
        assert model.folds == FOLDS
        assert model.emotions == EMOTIONS
        assert (model.sampling_rate, model.feats_type, model.token_type) == (16000, "raw", "class")
        assert model.units == ["<blank>", "S", "V"]
        assert model.card["scores"]["wa"] == 0.875
        assert model.card["protocol"] == "strict"


def test_a_model_is_loaded_in_evaluation_mode_and_in_32_bits(original):
    model = open_model(original / "packed").load("Ses01M")
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert equal(said(model), said(make_model("Ses01M")))


def test_loading_leaves_the_callers_random_numbers_alone(original):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    open_model(original / "packed").load("Ses01F")
    assert torch.equal(torch.rand(4), expected)


def test_an_experiment_may_be_opened_from_any_directory(original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_model(original).units == ["<blank>", "S", "V"]


def test_an_experiment_that_is_not_scored_says_so_in_its_card(tmp_path):
    exp_dir = make_experiment(tmp_path)
    (exp_dir / "scores.json").unlink()
    (mark,) = open_model(exp_dir).card["marks"]
    assert mark.startswith("not scored")


def test_a_fold_that_is_not_there_is_answered_with_those_that_are(original):
    with pytest.raises(UserError, match=r"no fold 'Ses09X' in it; choose from: Ses01F Ses01M"):
        open_model(original / "packed").load("Ses09X")


# --- spoilt folders ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("config.json", "holds neither config.json"),
        ("config.yaml", "config.yaml is missing in it"),
        ("units.txt", "units.txt is missing in it"),
        ("fold_Ses01M.safetensors", "fold_Ses01M.safetensors is missing, which config.json names"),
    ],
)
def test_a_missing_file_is_named(folder, name, expected):
    (folder / name).unlink()
    assert expected in complaint(folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "made by a newer version of the recipe"),
        ({"format_version": "one"}, "format_version is 'one'; expected a number"),
        ({"format_version": True}, "format_version is True; expected a number"),
        ({"model_type": "wav2vec2"}, "model_type is 'wav2vec2', not 'speech-emotion-recognition'"),
        ({"emotions": EMOTIONS[:3]}, "has the emotions angry happy sad, config.yaml angry happy"),
        ({"emotions": "angry"}, "emotions is 'angry'; expected two names or more"),
        ({"emotions": ["sad", "sad"]}, "expected two names or more, each once"),
        ({"sampling_rate": 8000}, "sampling_rate is 8000; expected 16000"),
        ({"folds": {}}, "folds is empty"),
        ({"folds": {"F": {"weights": "../../secret.safetensors"}}}, "expected a .safetensors file"),
        ({"folds": {"F": {"weights": "/etc/x.safetensors"}}}, "expected a .safetensors file in it"),
        ({"folds": {"F": {"weights": "2epoch.pth"}}}, "expected a .safetensors file in it"),
        ({"folds": {"F": "model.safetensors"}}, "expected a .safetensors file in it"),
    ],
)
def test_a_config_that_does_not_hold_is_refused(folder, changes, expected):
    edit_json(folder / "config.json", **changes)
    assert expected in complaint(folder)


def test_weights_of_another_number_of_emotions_are_refused_before_they_are_loaded(folder):
    edit_json(folder / "config.json", emotions=EMOTIONS[:3])
    edit_yaml(folder / "config.yaml", emotions="angry happy sad")
    message = complaint(folder)
    assert "emotion_head.weight) are for 4 emotions, config.json has 3" in message


def test_weights_of_other_units_are_refused(folder):
    (folder / "units.txt").write_text("<blank> 0\nS 1\n")
    assert "are for 3 units, units.txt has 2" in complaint(folder)


def test_a_damaged_inventory_is_refused(folder):
    (folder / "units.txt").write_text("<blank> 0\nS 7\n")
    message = complaint(folder)
    assert "units.txt:2: found 'S 7'" in message
    assert str(folder) in message


def test_an_inventory_in_another_encoding_is_refused(folder):
    (folder / "units.txt").write_bytes(b"<blank> 0\nS\xe9 1\n")
    assert "units.txt: not UTF-8" in complaint(folder)


@pytest.mark.parametrize("name", ["config.json", "config.yaml", "fold_Ses01M.safetensors"])
def test_a_pointer_of_git_lfs_is_told_from_the_file(folder, name):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    assert (folder / name).is_file()
    (folder / name).write_text(pointer)
    assert f"{name} is a pointer of Git LFS" in complaint(folder)


def test_the_zip_of_a_folder_is_as_good_as_that_of_its_files(folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", folder.parent, folder.name)
    assert equal(said(open_model(archive).load("Ses01M")), said(make_model("Ses01M")))


def test_a_checkpoint_is_told_from_a_packed_model(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "model.pth")
    assert "model.pth: a checkpoint of PyTorch, which is not unpickled" in complaint(
        tmp_path / "model.pth"
    )


def test_a_home_that_is_not_there_is_no_traceback():
    assert "~nosuchuser/x: no such file or folder" in complaint("~nosuchuser/x")


def test_weights_of_another_network_are_refused(folder):
    edit_yaml(folder / "config.yaml", encoder="conv_recurrent")
    assert "the weights do not fit the network that config.yaml describes" in complaint(folder)


def test_a_network_that_this_version_lacks_is_refused(folder):
    edit_yaml(folder / "config.yaml", pooling="median")
    assert "this version of the recipe cannot build its network" in complaint(folder)


@pytest.mark.parametrize("feats_type", ["fbank", "nope"])
def test_features_that_the_network_does_not_read_are_refused(folder, feats_type):
    edit_yaml(folder / "config.yaml", feats_type=feats_type)
    assert f"feats_type: found {feats_type}; frontend hf reads raw" in complaint(folder)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("_attn_implementation", "somebody/kernel"),  # code of the hub
        ("hidden_size", -4),
        ("hidden_size", "wide"),
        ("conv_kernel", [20, 8]),
        ("conv_stride", [5, 0]),
    ],
)
def test_an_encoder_that_cannot_be_built_is_refused(folder, setting, value):
    network = yaml.safe_load((folder / "config.yaml").read_text())
    network["frontend_conf"]["config"][setting] = value
    edit_yaml(folder / "config.yaml", frontend_conf=network["frontend_conf"])
    message = complaint(folder)
    assert "cannot build its network" in message
    assert setting != "_attn_implementation" or f"has no setting '{setting}'" in message


@pytest.mark.parametrize("setting", ["hidden_size", "num_hidden_layers", "intermediate_size"])
def test_an_encoder_that_would_fill_the_memory_is_refused_before_it_is_built(folder, setting):
    network = yaml.safe_load((folder / "config.yaml").read_text())
    network["frontend_conf"]["config"][setting] = 10**7
    edit_yaml(folder / "config.yaml", frontend_conf=network["frontend_conf"])
    message = complaint(folder)
    assert f"config.yaml: frontend_conf.config.{setting} is 10000000, which nothing" in message


@pytest.mark.parametrize("name", ["config.json", "config.yaml"])
def test_a_config_nested_without_end_is_refused(folder, name):
    (folder / name).write_text("[" * 20000)
    assert f"{name}: not " in complaint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frontend_conf": {"model": "somebody/else"}}, "frontend_conf refers to another model"),
        (
            {"frontend": "upstreams", "frontend_conf": {"upstreams": [{"model": "a/b"}]}},
            "frontend_conf refers to another model",
        ),
        ({"frontend": "upstreams", "frontend_conf": {"upstreams": "a/b"}}, "expected a list"),
        ({"encoder_conf": {"weights": "/etc/passwd"}}, "encoder_conf.weights refers to another"),
    ],
)
def test_a_packed_model_may_not_send_for_another_model(folder, changes, message):
    edit_yaml(folder / "config.yaml", **changes)
    assert message in complaint(folder)


def test_a_packed_model_holds_all_its_encoders_and_no_name_of_a_file():
    tiny = {"init": "random", "model_type": "wav2vec2", "config": TINY, "layers": "last"}
    config = {
        "frontend": "upstreams",
        "frontend_conf": {"upstreams": [{"model": str(ROOT / "egs/mini/encoder")}, tiny]},
        "encoder_conf": {"weights": "speaker.pth", "freeze": True, "width": 4},
        "aux_conf": {},
    }
    network = network_conf(config)
    for upstream in network["frontend_conf"]["upstreams"]:
        assert upstream["init"] == "random" and "model" not in upstream
    assert network["frontend_conf"]["upstreams"][1]["config"]["hidden_size"] == TINY["hidden_size"]
    assert network["encoder_conf"] == {"weights": None, "freeze": False, "width": 4}


@pytest.mark.parametrize("keep", [4, 100, -1])
def test_weights_that_were_cut_short_are_refused(folder, keep):
    path = folder / "fold_Ses01F.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "cut short" in complaint(folder)


def test_weights_that_lack_a_tensor_are_refused(folder):
    path = folder / "fold_Ses01F.safetensors"
    tensors = load_file(path)
    del tensors["frontend.fusion.scalars"]
    save_file(tensors, path)
    assert 'Missing key(s) in state_dict: "frontend.fusion.scalars"' in complaint(folder)


@pytest.mark.parametrize("content", [b"", b"not JSON", b"[1, 2]", b"\xff\xfe"])
def test_a_config_that_is_no_json_object_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    assert "config.json" in complaint(folder)


# --- not models --------------------------------------------------------------------------------


def test_what_is_no_model_at_all_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert "not a model: no zip archive" in complaint(tmp_path / "notes.txt")
    assert "holds neither config.json" in complaint(tmp_path)
    assert "no such file or folder" in complaint(tmp_path / "nothing")
    assert "no such file or folder" in complaint("nothing.zip")


def test_an_experiment_without_a_trained_fold_is_told_how_to_train(tmp_path):
    exp_dir = make_experiment(tmp_path)
    for fold in FOLDS:
        (exp_dir / fold / ".done").unlink()
    assert "none of its folds is trained; train first: ./run.sh" in complaint(exp_dir)


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_nothing_is_unpickled(tmp_path):
    exp_dir = make_experiment(tmp_path)
    trace = tmp_path / "ran"
    torch.save({"emotion_head.weight": Bomb(trace)}, exp_dir / "Ses01F/2epoch.pth")
    assert "not a readable model file" in complaint(exp_dir)
    assert not trace.exists()
    torch.load(exp_dir / "Ses01F/2epoch.pth", weights_only=False)
    assert trace.exists()  # so it would have been seen


# --- zips --------------------------------------------------------------------------------------


def spoil(folder: Path, path: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    """The zip of ``folder`` with more members."""
    write_zip(path, folder)
    with zipfile.ZipFile(path, "a") as archive:
        for member, content in members:
            archive.writestr(member, content, compress_type=zipfile.ZIP_DEFLATED)
    return path


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_a_zip_that_leads_out_of_its_folder_is_refused(folder, tmp_path, name):
    path = spoil(folder, tmp_path / "m.zip", (name, b"x"))
    assert "leads out of the folder; do not unpack it" in complaint(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO])
def test_a_zip_with_links_or_devices_is_refused(folder, tmp_path, kind):
    info = zipfile.ZipInfo("extra")
    info.external_attr = (kind | 0o644) << 16
    path = spoil(folder, tmp_path / "m.zip", (info, b"/etc/passwd"))
    assert "is a link or a device" in complaint(path)


def test_a_zip_bomb_is_refused(folder, tmp_path):
    path = spoil(folder, tmp_path / "m.zip", ("zeros", bytes(100 << 20)))
    assert "that unpack to" in complaint(path)


def test_a_member_that_is_there_twice_is_refused(folder, tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = spoil(folder, tmp_path / "m.zip", ("config.json", b"{}"))
    assert "is there twice" in complaint(path)


def test_a_zip_is_read_in_place_and_nothing_is_unpacked(original, tmp_path):
    path = Path(shutil.copy(original / "s1_strict_seed1.zip", tmp_path))
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        assert equal(answers(open_model(path), "Ses01F"), said(make_model("Ses01F")))
    finally:
        tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == ["s1_strict_seed1.zip"]


def test_a_zip_that_was_cut_short_is_refused(original, tmp_path):
    path = tmp_path / "m.zip"
    path.write_bytes((original / "s1_strict_seed1.zip").read_bytes()[:-1000])
    assert "no zip archive, or one that was cut short" in complaint(path)


def test_a_zip_with_a_flipped_byte_is_refused(original, tmp_path):
    content = bytearray((original / "s1_strict_seed1.zip").read_bytes())
    content[len(content) // 3] ^= 0xFF  # in the weights of the first fold, whose check sum is kept
    path = tmp_path / "m.zip"
    path.write_bytes(content)
    assert "damaged (Bad CRC-32" in complaint(path)


def test_a_zip_without_a_file_names_it(folder, tmp_path):
    (folder / "config.yaml").unlink()
    write_zip(tmp_path / "m.zip", folder)
    assert "config.yaml is missing in it" in complaint(tmp_path / "m.zip")


# --- the hub -----------------------------------------------------------------------------------


def test_a_hub_id_is_downloaded_without_anything_that_could_be_unpickled(
    original, tmp_path, monkeypatch
):
    asked = {}

    def snapshot_download(hub_id, cache_dir, allow_patterns):
        asked.update(hub_id=hub_id, cache_dir=cache_dir, patterns=allow_patterns)
        return str(original / "packed")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert open_model("owner/name", cache_dir=tmp_path).folds == FOLDS
    assert (asked["hub_id"], asked["cache_dir"]) == ("owner/name", tmp_path)
    assert asked["patterns"] == [
        *("config.json", "config.yaml", "units.txt"),
        *("*.safetensors", "*.onnx"),
    ]


def test_a_hub_id_without_network_says_so_in_one_sentence(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise httpx2.ConnectError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    with pytest.raises(UserError, match="owner/name: no folder .*cannot be reached.*check the"):
        open_model("owner/name", cache_dir=tmp_path)


def test_a_model_that_the_hub_does_not_have_is_not_blamed_on_the_network(tmp_path, monkeypatch):
    from huggingface_hub.errors import RepositoryNotFoundError

    response = httpx2.Response(404, request=httpx2.Request("GET", "https://huggingface.co/x"))

    def refuse(*_args, **_kwargs):
        raise RepositoryNotFoundError("404", response=response)

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    with pytest.raises(UserError, match="neither a folder here nor a model on the Hugging Face"):
        open_model("exp/typo", cache_dir=tmp_path)
