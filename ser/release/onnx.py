"""Export a model to ONNX in 32-bit floats or 8-bit integers, and compare it with PyTorch.

The modules of ser/models are exported unchanged: a graph takes utterances of equal length, so that
there is no padding.
"""

import contextlib
import importlib
import json
import logging
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ser.console import progress
from ser.data.features import FEATS_SIZES, FUNCTIONALS
from ser.data.tables import read_lines, read_table
from ser.errors import UserError
from ser.files import naming
from ser.lang.units import units_head
from ser.models.inputs import load_input
from ser.models.model import SERModel
from ser.predict.card import format_size
from ser.predict.classifier import NONE, SpeechEmotion
from ser.predict.models import Model, OnnxModel, TorchModel
from ser.predict.package import Packed, open_model
from ser.predict.recordings import open_recording
from ser.training.experiment import find_file, read_run

OLDEST_OPSET = 18  # of torch's exporter
TOLERANCE = 1e-3  # of log-probabilities; a graph that differs more is not written
EMBEDDED = 1_500_000_000  # bytes of weights; more go to a separate file, as ONNX requires
# Batches on which PyTorch and the graph are compared: utterances, and seconds of each.
COMPARED = ((1, 1.0), (3, 0.6), (2, 3.1))
UTTERANCES = 200  # of a fold's test set on which decisions are compared


@torch.library.custom_op("ser::recur", mutates_args=())
def recur(
    frames: torch.Tensor,
    start: torch.Tensor,
    weights: list[torch.Tensor],
    mode: str,
    bidirectional: bool,
) -> torch.Tensor:
    """GRU or LSTM with zero initial state, for graphs; torch 2.13 fails to export its own."""
    raise NotImplementedError("only traced")


@recur.register_fake
def _(frames, start, weights, mode, bidirectional):
    return frames.new_empty(*frames.shape[:2], start.size(2) * (1 + bidirectional))


def _recur_in_onnx(frames, start, weights, mode: str, bidirectional: bool):
    core = _import("onnxscript.function_libs.torch_lib.ops.core")
    layers = len(weights) // (4 * (1 + bidirectional))
    options = (weights, True, layers, 0.0, False, bidirectional, True)
    if mode == "GRU":
        return core.aten_gru(frames, start, *options)[0]
    return core.aten_lstm(frames, [start, start], *options)[0]


class Graph(torch.nn.Module):
    """Module to export: (B, L) or (B, T, F) of equal length -> a tuple of log-probabilities."""

    def __init__(self, model: SERModel):
        super().__init__()
        self.model = model
        values = model.aux_values
        names = (f"{name}_{'value' if name in values else 'logp'}" for name in model.aux_heads)
        self.output_names = ["emotion_logp", *names]

    def forward(self, speech: torch.Tensor) -> tuple[torch.Tensor, ...]:
        said = self.model.infer(speech, torch.full((speech.size(0),), speech.size(1)))
        return (said["emotion_logp"], *said["aux"].values())


def export_onnx(
    source: str | Path,
    path: Path | str,
    fold: str | None = None,
    opset: int = OLDEST_OPSET,
    precision: str = "float32",
    recordings: Sequence[str] = (),
) -> None:
    """Write the model of one fold to ``path`` and print its difference from PyTorch.

    Args:
        source: A source for ser.predict.package.open_model.
        path: File to write, atomically.
        fold: Fold of the model; the first if None.
        opset: Version of ONNX's operator set.
        precision: ``float32``, or ``int8`` for the weights of linear layers.
        recordings: Files whose decisions are compared; if none, the fold's test utterances if
            ``source`` is an experiment.

    Raises:
        UserError: No such fold or opset, a folder that is not writable, or as ``write_graph``.
    """
    path = Path(path)
    _check_request(path, opset)
    for recording in recordings:  # before anything is traced
        open_recording(recording)
    packed = open_model(source)
    fold = fold or packed.folds[0]
    model = packed.load(fold)
    spoken = list(recordings) or test_utterances(Path(source), fold)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory, naming(path.parent, directory):
        written = Path(directory) / path.name
        differences = write_graph(written, packed, fold, model, opset, precision)
        decided = same_decisions(packed, TorchModel(model), OnnxModel(str(written)), spoken)
        for file in sorted(Path(directory).iterdir(), reverse=True):  # the data, then the graph
            file.chmod(path.parent.stat().st_mode & 0o666)
            os.replace(file, path.parent / file.name)
    size = format_size(path.stat().st_size)
    print(f"Exported: {path} ({size}, {precision}, opset {opset}, fold {fold})")
    print(f"Largest difference to PyTorch (float32, log-probabilities of noise): {differences}")
    print("\n  ".join([decided, *(packed.card.get("marks") or [])]))


def write_graph(
    path: Path, packed: Packed, fold: str, model: SERModel, opset: int, precision: str
) -> str:
    """Write ``path`` and return the difference of each 32-bit output from PyTorch, in words.

    Raises:
        UserError: Packages are missing, or the model cannot be exported or differs too much.
    """
    _import("onnxruntime")
    progress(f"export: tracing the model of fold {fold}")
    graph = Graph(model)
    large = sum(p.numel() * p.element_size() for p in model.parameters()) > EMBEDDED
    with _quiet():
        program = trace(graph, packed.feats_type, opset)
        program.model.metadata_props.update(_metadata(packed, fold, model, precision))
        program.save(path, external_data=large)
    progress("export: comparing it with PyTorch")
    differences = compare(graph, OnnxModel(str(path)).session, packed.feats_type)
    told = ", ".join(f"{name} {difference:.1e}" for name, difference in differences.items())
    if not max(differences.values()) <= TOLERANCE:
        raise UserError(
            f"--onnx {path.name}: not written: it differs from PyTorch by more than {TOLERANCE} "
            f"({told}); another --opset may do better"
        )
    if precision == "int8":
        graph = _import("onnx").load(path)
        del graph.graph.value_info[:]  # the exporter's shapes confuse the quantiser
        options = {"per_channel": True, "use_external_data_format": large}
        quantize = _import("onnxruntime.quantization").quantize_dynamic
        with _quiet():
            quantize(graph, path, op_types_to_quantize=["MatMul", "Gemm"], **options)
    return told


def trace(graph: Graph, feats_type: str, opset: int) -> Any:
    """Trace a torch.onnx.ONNXProgram for any number and length of utterances."""
    dynamic = torch.export.Dim.DYNAMIC
    try:
        return torch.onnx.export(
            graph,
            (_noise(2, 1.03, feats_type),),  # a multiple of a pooling could become a constraint
            input_names=["speech"],
            output_names=graph.output_names,
            dynamic_shapes={"speech": {0: dynamic, 1: dynamic}},
            custom_translation_table={torch.ops.ser.recur.default: _recur_in_onnx},
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as err:
        found = re.search(r"<class '[\w.]*?\w+'>: (.+)", str(err))
        what = found[1] if found else str(err).splitlines()[0]
        raise UserError(
            f"--onnx: torch {torch.__version__} cannot export this model ({what}); such a model "
            "runs in PyTorch only: ser predict, ser.predict.package"
        ) from err


def compare(graph: Graph, session: Any, feats_type: str) -> dict[str, float]:
    """Maximum absolute difference of each output; inf for different shapes and NaN."""
    found = dict.fromkeys(graph.output_names, 0.0)
    for count, seconds in COMPARED:
        speech = _noise(count, seconds, feats_type)
        if feats_type in FUNCTIONALS:
            speech = speech[:, :1]
        try:
            outputs = session.run(graph.output_names, {"speech": speech.numpy()})
        except Exception:  # onnxruntime's own: the graph only fits the traced length
            return dict.fromkeys(found, math.inf)
        for name, ours, theirs in zip(found, graph(speech), outputs, strict=True):
            same = ours.shape == theirs.shape and np.isfinite(theirs).all()
            worst = float(np.abs(ours.numpy() - theirs).max()) if same else math.inf
            found[name] = max(found[name], worst)
    return found


def same_decisions(packed: Packed, ours: Model, theirs: Model, recordings: Sequence[Any]) -> str:
    """Number of recordings with equal decisions of two models, and the probability differences."""
    if not recordings:
        return "Decisions were not compared: name recordings, or an experiment that has its dump"
    progress("export: comparing decisions")
    one, other = (SpeechEmotion([model], packed.feats_type) for model in (ours, theirs))
    pairs = [(one(each, segments=NONE), other(each, segments=NONE)) for each in recordings]
    equal = sum(a.emotion == b.emotion for a, b in pairs)
    largest = max(abs(a.probabilities[e] - p) for a, b in pairs for e, p in b.probabilities.items())
    return (
        f"Same decision as PyTorch for {equal} of {len(pairs)} recordings "
        f"({100 * equal / len(pairs):.1f}%); largest difference of a probability {largest:.4f}"
    )


def test_utterances(exp_dir: Path, fold: str) -> list[Any]:
    """Load some of a fold's test utterances as input of SpeechEmotion; none without the dump."""
    if not (exp_dir / "run.yaml").is_file():
        return []
    run = read_run(exp_dir)
    files = (f"folds/{run['protocol']}/{fold}/test", "wav.scp")
    tested, wavs = (find_file(exp_dir, Path("dump", run["corpus"], name)) for name in files)
    if tested is None or wavs is None:
        return []
    names, table = read_lines(tested), read_table(wavs)
    chosen = names[:: -(-len(names) // UTTERANCES)]
    return [{"array": load_input(table[name]), "sampling_rate": 16000} for name in chosen]


def _check_request(path: Path, opset: int) -> None:
    """Reject requests that would fail after a minute of tracing."""
    onnx, onnxscript, _ = map(_import, ("onnx", "onnxscript", "onnxruntime"))
    newest = newest_opset(onnx, onnxscript)
    if not OLDEST_OPSET <= opset <= newest:
        raise UserError(
            f"--opset {opset}: the installed onnx {onnx.__version__}, onnxscript "
            f"{onnxscript.__version__} and torch export versions {OLDEST_OPSET} to {newest}; "
            "choose one of them"
        )
    if path.is_dir():
        raise UserError(f"--onnx {path}: a folder; name a file, such as {path}/ser.onnx")
    try:
        tempfile.TemporaryDirectory(dir=path.parent).cleanup()
    except OSError as err:
        raise UserError(
            f"--onnx {path}: nothing can be written in {path.parent} ({err.strerror}); choose "
            "another folder, or make it first"
        ) from None


def newest_opset(onnx: ModuleType, onnxscript: ModuleType) -> int:
    """Newest version of ONNX's operator set that both packages support."""
    named = (re.fullmatch(r"opset(\d+)", name) for name in dir(onnxscript))
    return min(onnx.defs.onnx_opset_version(), max(int(found[1]) for found in named if found))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output of the exporter and the quantiser."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _noise(count: int, seconds: float, feats_type: str) -> torch.Tensor:
    """Random utterances of the given duration: (B, L) or (B, T, F)."""
    raw = feats_type == "raw"
    shape = [int(seconds * (16000 if raw else 100)), *([] if raw else [FEATS_SIZES[feats_type]])]
    return 0.1 * torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def _metadata(packed: Packed, fold: str, model: SERModel, precision: str) -> dict[str, str]:
    """Metadata about inputs and outputs for programs that use the graph; lists as JSON."""
    told: dict[str, Any] = {
        "name": packed.name,
        "fold": fold,
        "emotions": packed.emotions,
        "sampling_rate": packed.sampling_rate,
        "feats_type": packed.feats_type,
        "precision": precision,
        "units_head": units_head(model) or "",
        "marks": packed.card.get("marks") or [],
    }
    told |= {f"{name}_names": head.inventory for name, head in model.aux_heads.items()}
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in told.items()
    }


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"--onnx: the package {name} is not installed; pip install -r requirements-apps.txt"
        ) from None
