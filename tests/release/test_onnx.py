"""Models as ONNX graphs: what PyTorch says, for any batch size, length and padding."""

import json
import sys

import pytest
import torch

from ser.cli.tools import export
from ser.errors import UserError
from ser.models.encoders import MaskedBatchNorm
from ser.models.masks import MaskedGroupNorm
from ser.models.whisper import LogMel
from ser.release.onnx import (
    OLDEST_OPSET,
    TraceableBatchNorm,
    TraceableGroupNorm,
    TraceableLogMel,
    compare,
    export_onnx,
    newest_opset,
    refuse,
)
from ser.release.pack import pack_experiment
from tests.support.packable import make_experiment, make_model
from tests.support.tiny import EMOTIONS, ENCODERS

WHISPER = {"init": "random", "model_type": "whisper", "config": ENCODERS["whisper"][1]}
NETWORKS = {
    "wav2vec2": {},
    "whisper": {"frontend_conf": WHISPER},
    "whisper, frozen, side by side": {
        "frontend_conf": {**WHISPER, "freeze": 1, "layers": [1, 2], "layer_norm": True},
        "pooling": "statistics",
    },
    "blstm": {
        "feats_type": "fbank",
        "frontend": "feats",
        "frontend_conf": {"input_size": 80},
        "encoder": "conv_recurrent",
        "encoder_conf": {
            "convs": [{"channels": 4, "kernel": [3, 3], "pool": [2, 2], "norm": "batch"}],
            "rnn_type": "lstm",
            "bidirectional": True,
            "num_layers": 2,
            "hidden_size": 8,
        },
        "pooling": "self_attention",
    },
    "gru": {
        "feats_type": "spectrogram",
        "frontend": "grey",
        "frontend_conf": {},
        "encoder": "conv_recurrent",
        "encoder_conf": {
            "convs": [{"channels": 3, "kernel": [4, 3], "pool": [3, 2]}],
            "hidden_size": 8,
        },
        "pooling": "last",
    },
}


@pytest.fixture(scope="module")
def runtime():
    """onnxruntime, where the packages of the applications are installed."""
    reason = "not installed: pip install -r requirements-apps.txt"
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name}: {reason}")
    return pytest.importorskip("onnxruntime", reason=f"onnxruntime: {reason}")


# --- what stands in for modules that look at values --------------------------------------------


def padded(lengths, *shape):
    """Noise of true lengths, first (B, T, ...), and more noise for padding."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(len(lengths), max(lengths), *shape, generator=generator) + 0.5


def test_group_norm_by_masks_is_the_group_norm_of_each_utterance():
    norm = MaskedGroupNorm(4, 8)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    lengths = torch.tensor([50, 17, 1])
    input = padded(lengths.tolist(), 8).transpose(1, 2)
    traceable = TraceableGroupNorm(norm)
    norm.lengths = traceable.lengths = lengths
    assert torch.allclose(traceable(input), norm(input), atol=1e-5)


def test_batch_norm_by_masks_is_that_of_the_real_frames():
    norm = MaskedBatchNorm(3).eval()
    torch.nn.init.normal_(norm.running_mean)
    torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    torch.nn.init.normal_(norm.weight)
    real = torch.tensor([[True] * 9, [True] * 4 + [False] * 5])
    maps = padded([9, 4], 3, 5).transpose(1, 2)
    assert torch.allclose(TraceableBatchNorm(norm)(maps, real), norm(maps, real), atol=1e-6)


def test_log_mels_by_indices_are_those_of_each_utterance():
    log_mel = LogMel(80)
    lengths = torch.tensor([8000, 4321, 400])
    speech = 0.1 * padded(lengths.tolist())
    expected, frames = log_mel(speech, lengths)
    found, counts = TraceableLogMel(log_mel)(speech, lengths)
    assert counts.tolist() == frames.tolist() == [50, 27, 2]
    assert torch.allclose(found, expected, atol=1e-4)


# --- graphs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_says_what_pytorch_says(runtime, tmp_path, capsys, name):
    exp_dir = make_experiment(tmp_path, **NETWORKS[name])
    path = tmp_path / "model.onnx"
    differences = export_onnx(exp_dir, path, fold="Ses01M")
    assert list(differences) == ["emotion_logp", "pr_logp", "who_logp"]
    assert max(differences.values()) < 1e-4
    shown = capsys.readouterr().out
    assert "Largest difference to PyTorch" in shown
    assert f"emotion_logp {differences['emotion_logp']:.1e}" in shown

    session = runtime.InferenceSession(path)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["emotions"]) == EMOTIONS
    assert json.loads(told["pr_names"]) == ["<blank>", "S", "V"]
    assert json.loads(told["who_names"]) == ["notSes01M", "somebody"]
    assert (told["fold"], told["sampling_rate"]) == ("Ses01M", "16000")
    assert [p.name for p in tmp_path.glob("*onnx*")] == ["model.onnx"]
    # the comparison itself must be able to fail
    other = make_model("Ses01F", **NETWORKS[name])
    assert min(compare(other, session, NETWORKS[name].get("feats_type", "raw")).values()) > 1e-3


def test_a_packed_model_is_exported_by_the_command_and_padding_changes_nothing(runtime, tmp_path):
    exp_dir = make_experiment(tmp_path)
    pack_experiment(exp_dir, ["Ses01F"])
    path = tmp_path / "model.onnx"
    packed = exp_dir / "s1_strict_seed1.zip"
    export(onnx=path, model=str(packed), opset=20)
    session = runtime.InferenceSession(path)

    def ask(speech, lengths):
        inputs = {"speech": speech.numpy(), "speech_lengths": torch.tensor(lengths).numpy()}
        return [torch.from_numpy(output) for output in session.run(None, inputs)]

    speech = 0.1 * padded([9000, 4320])
    together = ask(speech, [9000, 4320])
    alone = ask(speech[1:, :4320], [4320])
    far = ask(torch.nn.functional.pad(speech[1:], (0, 20000), value=3.0), [4320])
    frames = int(alone[1][0])
    for other in (far, [output[1:] for output in together]):
        assert torch.allclose(other[0], alone[0], atol=1e-5)
        assert torch.equal(other[1], alone[1])
        assert torch.allclose(other[2][:, :frames], alone[2], atol=1e-5)


def test_a_graph_that_differs_is_not_written(runtime, tmp_path, monkeypatch):
    monkeypatch.setattr("ser.release.onnx.trace", lambda *args: Written())
    monkeypatch.setattr("ser.release.onnx.compare", lambda *args: {"emotion_logp": float("nan")})
    monkeypatch.setattr(runtime, "InferenceSession", lambda *args, **options: None)
    with pytest.raises(UserError, match="not written: it differs from PyTorch by more than 0.001"):
        export_onnx(make_experiment(tmp_path), tmp_path / "model.onnx")
    assert not list(tmp_path.glob("*onnx*"))


class Written:
    """Stands for what the exporter returns."""

    class model:
        metadata_props = {}

    def save(self, path, external_data):
        path.write_bytes(b"")


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["rnn", "transformer"])
def test_encoders_that_cannot_be_graphs_are_refused_by_name(encoder):
    conf = {"hidden_size": 8} if encoder == "rnn" else {"num_blocks": 1}
    conf |= {"output_size": 8}
    model = make_model(
        feats_type="fbank",
        frontend="feats",
        frontend_conf={"input_size": 80},
        encoder=encoder,
        encoder_conf=conf,
    )
    with pytest.raises(UserError, match=r"--onnx: encoder \w+ of ESPnet .* runs in PyTorch only"):
        refuse(model)


def test_a_model_whose_answers_hang_on_padding_is_refused():
    with pytest.raises(UserError, match="pooling_conf.mask is false: .* depend on the padding"):
        refuse(make_model(pooling_conf={"mask": False}))


def test_the_newest_opset_is_one_that_both_packages_have(runtime, tmp_path):
    import onnx
    import onnxscript

    newest = newest_opset(onnx, onnxscript)
    assert newest <= onnx.defs.onnx_opset_version() and hasattr(onnxscript, f"opset{newest}")
    with pytest.raises(UserError, match=rf"--opset {newest + 1}: .* {OLDEST_OPSET} to {newest};"):
        export_onnx(tmp_path, tmp_path / "model.onnx", opset=newest + 1)
    path = tmp_path / "gru.onnx"
    export_onnx(make_experiment(tmp_path, **NETWORKS["gru"]), path, opset=newest)
    assert path.is_file()


@pytest.mark.parametrize("opset", [OLDEST_OPSET - 1, 1000])
def test_an_opset_that_is_not_there_is_refused(runtime, tmp_path, opset):
    with pytest.raises(UserError, match=rf"--opset {opset}: the installed onnx .* {OLDEST_OPSET} "):
        export_onnx(tmp_path, tmp_path / "model.onnx", opset=opset)


def test_missing_packages_are_named_with_how_to_install_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="onnx is not installed; pip install -r requirements-apps"):
        export_onnx(tmp_path, tmp_path / "model.onnx")


def test_a_folder_that_does_not_exist_is_named(runtime, tmp_path):
    with pytest.raises(UserError, match="there is no folder .*; make it first"):
        export_onnx(tmp_path, tmp_path / "none/model.onnx")
    with pytest.raises(UserError, match="a folder; give the name of a file, such as .*/ser.onnx"):
        export_onnx(tmp_path, tmp_path)


def test_a_folder_that_cannot_be_written_in_is_named_before_the_model_is_read(runtime, tmp_path):
    # not even root can make a folder in /proc
    with pytest.raises(UserError, match="--onnx /proc/a.onnx: nothing can be written in /proc "):
        export_onnx(tmp_path / "no model", "/proc/a.onnx")


def test_a_fold_that_is_not_there_is_named(runtime, tmp_path):
    exp_dir = make_experiment(tmp_path)
    with pytest.raises(UserError, match="no fold 'Ses07F' in it"):
        export_onnx(exp_dir, tmp_path / "model.onnx", fold="Ses07F")
