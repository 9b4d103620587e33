"""Models as ONNX graphs: what PyTorch says, for any number and length of utterances."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from ser.cli.tools import export
from ser.errors import UserError
from ser.models.encoders import MaskedBatchNorm
from ser.predict import classifier
from ser.predict.classifier import SpeechEmotion
from ser.predict.models import OnnxModel, Output, TorchModel
from ser.predict.package import load_models, open_model
from ser.release.onnx import (
    OLDEST_OPSET,
    Graph,
    compare,
    export_onnx,
    newest_opset,
    same_decisions,
    write_graph,
)
from tests.support import ROOT
from tests.support.packable import FOLDS, SMALLEST, make_experiment, make_model
from tests.support.systems import SYSTEMS, tiny_system
from tests.support.tiny import EMOTIONS, ENCODERS

# They cut an utterance, or choose parts of it, by its length or its values.
PYTORCH_ONLY = {"s9_co_attention", "s12_audio_visual", "s12_small"}
PYTORCH_ONLY |= {"s15_key_segments", "s15_small"}


@pytest.fixture(scope="module")
def runtime():
    """onnxruntime, where the packages of the applications are installed."""
    reason = "not installed: pip install -r requirements-apps.txt"
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name}: {reason}")
    return pytest.importorskip("onnxruntime", reason=f"onnxruntime: {reason}")


def write(model, path, feats_type="raw", precision="float32", opset=OLDEST_OPSET) -> str:
    packed = SimpleNamespace(
        **{"name": "toy", "emotions": EMOTIONS, "sampling_rate": 16000, "card": {}},
        feats_type=feats_type,
    )
    return write_graph(path, packed, "Ses01F", model, opset, precision)


def largest(told: str) -> float:
    return max(float(number) for number in re.findall(r"\d\.\de[+-]\d+", told))


# --- graphs ------------------------------------------------------------------------------------


@pytest.mark.slow  # torch's exporter takes seconds for each
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_of_conf_has_a_graph_but_for_those_that_the_documentation_names(
    runtime, tmp_path, name
):
    model, feats_type = tiny_system(name)
    if name in PYTORCH_ONLY:
        with pytest.raises(UserError, match="cannot export this model .* runs in PyTorch only"):
            write(model, tmp_path / "model.onnx", feats_type)
    else:
        assert largest(write(model, tmp_path / "model.onnx", feats_type)) < 1e-4
    text = " ".join((ROOT / "docs/systems.md").read_text(encoding="utf-8").split())
    (named,) = re.findall(r"every system except (.*?), which run in PyTorch only", text)
    short = name.partition("_")[0].upper()
    assert (short in named.replace(" and", ",").split(", ")) == (name in PYTORCH_ONLY)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wav2vec2-large-like", "wavlm", "data2vec"])
def test_encoders_that_no_system_has_have_graphs_too(runtime, tmp_path, name):
    model_type, config = ENCODERS[name]
    config = {**config, "num_hidden_layers": 1}
    conf = {"init": "random", "model_type": model_type, "config": config}
    told = write(make_model(frontend_conf=conf), tmp_path / "model.onnx")
    assert largest(told) < 1e-4


def test_a_graph_tells_what_its_inputs_and_outputs_are(runtime, with_graphs, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    export(onnx=path, model=str(with_graphs / "s1_strict_seed1.zip"), fold="Ses01M", opset=20)
    shown = capsys.readouterr().out
    assert re.search(r"noise\): emotion_logp \d\.\de-0\d, pr_logp \d\.\de-0\d, who_logp", shown)
    assert "Decisions were not compared: name recordings" in shown
    session = runtime.InferenceSession(path)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["emotions"]) == EMOTIONS
    assert json.loads(told["pr_names"]) == ["<blank>", "S", "V"]
    assert json.loads(told["who_names"]) == ["notSes01M", "somebody"]
    assert (told["fold"], told["sampling_rate"], told["units_head"]) == ("Ses01M", "16000", "pr")
    assert [p.name for p in tmp_path.glob("*onnx*")] == ["model.onnx"]
    # the comparison itself must be able to fail
    assert min(compare(Graph(make_model("Ses01F", **SMALLEST)), session, "raw").values()) > 1e-3


def test_batch_norm_of_an_exported_model_is_that_of_the_real_frames():
    norm = MaskedBatchNorm(3).eval()
    torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    maps = torch.randn(2, 3, 9, 5)
    exported = torch.export.export(norm, (maps, torch.ones(2, 9, dtype=torch.bool))).module()
    expected = norm(maps, torch.ones(2, 9, dtype=torch.bool))
    assert torch.allclose(exported(maps, torch.ones(2, 9, dtype=torch.bool)), expected)


def test_a_graph_that_differs_is_not_written(runtime, tmp_path, monkeypatch):
    monkeypatch.setattr("ser.release.onnx.compare", lambda *args: {"emotion_logp": float("nan")})
    with pytest.raises(UserError, match="not written: it differs from PyTorch by more than 0.001"):
        export_onnx(make_experiment(tmp_path, **SMALLEST), tmp_path / "model.onnx")
    assert not list(tmp_path.glob("*onnx*"))


# --- decisions ---------------------------------------------------------------------------------


class Stub:
    """Says the next of its answers, as a model does."""

    emotions, units, values = ["angry", "sad"], [], []

    def __init__(self, *angry: float):
        self.answers = iter(angry)

    def __call__(self, batch):
        angry = next(self.answers)
        return Output(np.log(np.array([[angry, 1 - angry]])), None, {})


def test_agreement_counts_equal_decisions_and_the_largest_difference():
    packed = SimpleNamespace(feats_type="raw", emotions=Stub.emotions)
    noise = {"array": np.random.default_rng(0).normal(0, 0.1, 8000), "sampling_rate": 16000}
    told = same_decisions(packed, Stub(0.9, 0.4, 0.6), Stub(0.7, 0.3, 0.45), [noise] * 3)
    # alike: 0.9 and 0.7, 0.4 and 0.3; not 0.6 and 0.45. The differences are 0.2, 0.1, 0.15
    assert "2 of 3 recordings (66.7%); largest difference of a probability 0.2000" in told


def test_int8_multiplies_whole_numbers_and_compares_decisions(runtime, tmp_path, capsys):
    import onnx

    exp_dir = make_experiment(tmp_path)
    wav = tmp_path / "a.wav"
    soundfile.write(wav, 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    path = tmp_path / "model.onnx"
    export(onnx=path, model=str(exp_dir), precision="int8", recordings=[str(wav)])
    found = re.search(
        r"decision as PyTorch for 1 of 1 recordings \(100.0%\); .* (\d\.\d+)",
        capsys.readouterr().out,
    )
    assert 0 < float(found[1]) < 0.05
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= kinds and "Gemm" not in kinds
    assert runtime.InferenceSession(path).get_modelmeta().custom_metadata_map["precision"] == "int8"


# --- packed models -----------------------------------------------------------------------------


def test_graphs_of_a_packed_model_say_what_pytorch_says_in_every_part_of_a_prediction(
    with_graphs, tmp_path, monkeypatch
):
    monkeypatch.setattr(classifier, "BATCH_SECONDS", 12.0)  # two windows
    wav = tmp_path / "a.wav"
    noise = np.random.default_rng(0).standard_normal(31 * 16000)
    soundfile.write(wav, 0.1 * noise * np.linspace(0, 1, len(noise)), 16000)
    names = sorted(path.name for path in (with_graphs / "packed").glob("*.onnx"))
    assert names == [f"fold_{fold}.onnx" for fold in FOLDS]
    assert "ONNX graphs, which" in (with_graphs / "packed/README.md").read_text(encoding="utf-8")
    for source in ("packed", "s1_strict_seed1.zip"):
        model = SpeechEmotion.from_pretrained(with_graphs / source)
        assert [type(each) for each in model.models] == [OnnxModel] * 2
        told = model(wav)
        expected = SpeechEmotion.from_pretrained(
            with_graphs / source, backend="torch", precision="float32"
        )(wav)
        assert len(told.segments) == 9 and told.units == expected.units != []
        for one, other in zip(told.segments, expected.segments, strict=True):
            assert (one.start, one.end) == (other.start, other.end)
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert told.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


def test_the_graphs_of_a_model_share_the_memory_that_they_compute_in(with_graphs):
    """In a process of its own, where no other test has left memory to compute in."""
    code = (
        "import sys; import numpy as np; from ser.predict.models import OnnxModel\n"
        "held = lambda: int(open('/proc/self/statm').read().split()[1])\n"
        "models = [OnnxModel(sys.argv[1]) for _ in range(8)]; before = held()\n"
        "for model in models:\n"
        "    model(np.zeros((1, 960000), np.float32)); print(held() - before)\n"
    )
    graph = with_graphs / "packed/fold_Ses01F.onnx"
    told = subprocess.check_output([sys.executable, "-c", code, graph], text=True, cwd=ROOT)
    first, *_, last = map(int, told.split())
    assert last < 1.5 * first


def test_a_graph_that_cannot_process_an_input_says_so_in_one_sentence(with_graphs):
    model = SpeechEmotion.from_pretrained(with_graphs / "packed", folds="Ses01F")
    model.models[0].session = SimpleNamespace(run=lambda *_: 1 / 0)
    with pytest.raises(UserError, match="^the array: onnxruntime cannot .* of length 8000 .*torch"):
        model(np.random.default_rng(0).standard_normal(8000) / 9, 16000)


def test_what_computes_is_chosen_by_what_there_is_and_what_is_asked_for(with_graphs, monkeypatch):
    packed, plain = open_model(with_graphs / "packed"), open_model(with_graphs)

    def kinds(model, **options):
        return {type(each) for each in load_models(model, FOLDS, **options)}

    assert kinds(packed) == kinds(packed, device="cpu", backend="onnx") == {OnnxModel}
    for options in ({"backend": "torch"}, {"precision": "float32"}):
        assert kinds(packed, **options) == {TorchModel}
    assert kinds(plain) == {TorchModel}
    refused = [(plain, {}), (packed, {"device": "cuda"}), (packed, {"precision": "int8"})]
    for model, options in refused:
        with pytest.raises(UserError, match="--backend onnx: needs .*, a model packed with graphs"):
            kinds(model, backend="onnx", **options)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert kinds(packed) == {TorchModel}
    with pytest.raises(UserError, match="--backend onnx: needs onnxruntime"):
        kinds(packed, backend="onnx")


@pytest.mark.parametrize("content", [None, b"", b"no graph", "another"])
def test_a_graph_that_is_missing_damaged_or_of_another_model_is_named(
    with_graphs, tmp_path, content
):
    folder = shutil.copytree(with_graphs / "packed", tmp_path / "model")
    graph = folder / "fold_Ses01F.onnx"
    if content == "another":
        (folder / "config.json").write_text(
            (folder / "config.json").read_text().replace('"angry"', '"cross"')
        )
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("emotions: angry", "emotions: cross"))
        expected = "its emotions are angry happy"
    else:
        graph.unlink() if content is None else graph.write_bytes(content)
        expected = "is missing, which" if content is None else "no graph of this recipe, or damaged"
    with pytest.raises(UserError, match=f"fold_Ses01F.onnx:? ?{expected}"):
        SpeechEmotion.from_pretrained(folder, folds="Ses01F")


# --- what is refused ---------------------------------------------------------------------------


def test_the_newest_opset_is_one_that_both_packages_have(runtime, tmp_path):
    import onnx
    import onnxscript

    newest = newest_opset(onnx, onnxscript)
    assert newest <= onnx.defs.onnx_opset_version() and hasattr(onnxscript, f"opset{newest}")
    with pytest.raises(UserError, match=rf"--opset {newest + 1}: .* {OLDEST_OPSET} to {newest};"):
        export_onnx(tmp_path, tmp_path / "model.onnx", opset=newest + 1)
    path = tmp_path / "raw.onnx"
    export_onnx(make_experiment(tmp_path, **SMALLEST), path, opset=newest)
    assert path.is_file()


@pytest.mark.parametrize("opset", [OLDEST_OPSET - 1, 1000])
def test_an_opset_that_is_not_there_is_refused(runtime, tmp_path, opset):
    with pytest.raises(UserError, match=rf"--opset {opset}: the installed onnx .* {OLDEST_OPSET} "):
        export_onnx(tmp_path, tmp_path / "model.onnx", opset=opset)


def test_missing_packages_are_named_with_how_to_install_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="onnx is not installed; pip install -r requirements-apps"):
        export_onnx(tmp_path, tmp_path / "model.onnx")


def test_places_that_cannot_be_written_are_named_before_the_model_is_read(runtime, tmp_path):
    with pytest.raises(UserError, match="nothing can be written in .*none .* or make it first"):
        export_onnx(tmp_path, tmp_path / "none/model.onnx")
    with pytest.raises(UserError, match="a folder; name a file, such as .*/ser.onnx"):
        export_onnx(tmp_path, tmp_path)
    # not even root can make a folder in /proc
    with pytest.raises(UserError, match="--onnx /proc/a.onnx: nothing can be written in /proc "):
        export_onnx(tmp_path / "no model", "/proc/a.onnx")


def test_a_fold_that_is_not_there_is_named(runtime, tmp_path):
    exp_dir = make_experiment(tmp_path)
    with pytest.raises(UserError, match="no fold 'Ses07F' in it"):
        export_onnx(exp_dir, tmp_path / "model.onnx", fold="Ses07F")


def test_recordings_are_looked_at_before_anything_is_loaded(tmp_path):
    with pytest.raises(UserError, match="none.wav: no such file"):
        export_onnx(tmp_path, tmp_path / "model.onnx", recordings=["none.wav"])
