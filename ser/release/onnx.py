"""A model as an ONNX graph for batches of any size and length, compared with PyTorch afterwards.

Some modules look at values to decide what to compute: they take each utterance by itself, or pack
what is not padding. A graph cannot, so in a copy of the model these are exchanged for ones that
compute the same by masks. Padding does not change the graph's answers either.
"""

import contextlib
import copy
import importlib
import json
import logging
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F

from ser.console import progress
from ser.data.features import FEATS_SIZES
from ser.errors import UserError
from ser.files import naming
from ser.models.encoders import ConvRecurrentEncoder, MaskedBatchNorm
from ser.models.masks import MaskedGroupNorm, frame_mask
from ser.models.model import SERModel
from ser.models.pooling import MeanPooling
from ser.models.ssl import HFFrontend
from ser.models.whisper import HOP, N_FFT, LogMel
from ser.predict.card import format_size
from ser.predict.package import Packed, open_model

OLDEST_OPSET = 18  # of torch's exporter
TOLERANCE = 1e-3  # of log-probabilities; a graph that is further off is not written
EMBEDDED = 1_500_000_000  # bytes of weights; more go to a file of their own, as ONNX demands
# Batches that PyTorch and the graph are compared on: seconds of each utterance.
COMPARED = ((1.0,), (2.5, 0.6), (0.5, 1.7, 3.1, 0.9), (1.3, 1.3))
DECIMALS = "{:.1e}"


class TraceableGroupNorm(torch.nn.Module):
    """MaskedGroupNorm by sums over real frames, of all utterances at once."""

    def __init__(self, norm: MaskedGroupNorm):
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        self.lengths: torch.Tensor | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, C, T) -> (B, C, T), zeros for padding."""
        size = input.size(1) // self.groups
        real = frame_mask(self.lengths, input.size(2)).unsqueeze(1).to(input.dtype)  # (B, 1, T)
        count = (self.lengths * size).to(input.dtype).view(-1, 1, 1)

        def mean(values: torch.Tensor) -> torch.Tensor:  # of a group's real frames, (B, C, 1)
            groups = (values * real).sum(-1, keepdim=True).unflatten(1, (self.groups, size))
            return (groups.sum(2) / count).repeat_interleave(size, dim=1)

        centred = input - mean(input)
        normalised = centred / (mean(centred.square()) + self.eps).sqrt()
        return (normalised * self.weight.unsqueeze(-1) + self.bias.unsqueeze(-1)) * real


class TraceableBatchNorm(torch.nn.Module):
    """MaskedBatchNorm as it is in evaluation: one factor and one offset for each map."""

    def __init__(self, norm: MaskedBatchNorm):
        super().__init__()
        self.norm = norm

    def forward(self, maps: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(B, C, T, F), (B, T) -> (B, C, T, F), zeros for padding."""
        norm = self.norm
        mean, var = norm.running_mean, norm.running_var
        maps = F.batch_norm(maps, mean, var, norm.weight, norm.bias, eps=norm.eps)
        return maps.masked_fill(~real[:, None, :, None], 0.0)


class TraceableLogMel(torch.nn.Module):
    """LogMel with every utterance's own edges and maximum, by indices and masks.

    The spectrum is a product with cosines and sines in 64 bits: the 80 dB that a log-mel spans are
    more than 32-bit sums of 400 products keep.
    """

    def __init__(self, log_mel: LogMel):
        super().__init__()
        self.register_buffer("mel_filters", log_mel.mel_filters)
        angles = torch.outer(torch.arange(N_FFT), torch.arange(N_FFT // 2 + 1)).double()
        angles = angles * (2 * math.pi / N_FFT)
        basis = torch.cat([angles.cos(), angles.sin()], dim=1)  # (400, 2 * 201)
        self.register_buffer("basis", basis * log_mel.window.double().unsqueeze(1))

    def forward(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L) samples, (B,) -> (B, mels, T), zeros for padding, and (B,) frames."""
        num_frames = speech.size(1) // HOP
        starts = torch.arange(num_frames, device=speech.device) * HOP - N_FFT // 2
        index = starts.unsqueeze(1) + torch.arange(N_FFT, device=speech.device)  # (T, 400)
        last = (lengths - 1).view(-1, 1, 1)
        index = index.abs().unsqueeze(0)  # mirrored at the first sample, and at the last:
        index = torch.where(index > last, 2 * last - index, index).clamp(min=0)  # (B, T, 400)
        windows = speech.gather(1, index.flatten(1)).unflatten(1, (num_frames, N_FFT))
        real, imaginary = (windows.double() @ self.basis).chunk(2, dim=-1)  # (B, T, 201)
        power = (real.square() + imaginary.square()).float()
        log_mel = (power @ self.mel_filters).clamp(min=1e-10).log10()  # (B, T, mels)
        frames = lengths // HOP
        padding = ~frame_mask(frames, num_frames).unsqueeze(-1)
        loudest = log_mel.masked_fill(padding, -math.inf).amax(dim=(1, 2), keepdim=True)
        log_mel = (torch.maximum(log_mel, loudest - 8.0) + 4.0) / 4.0
        return log_mel.masked_fill(padding, 0.0).transpose(1, 2), frames


class TraceableRNN(torch.nn.Module):
    """A recurrent network as ONNX has it: with lengths, and its gates in ONNX's order.

    Traced as such a module of torch it would be unrolled for the length of the example.
    """

    # of torch's gates: reset, update, new; and input, forget, cell, output
    GATES = {"GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}

    def __init__(self, rnn: torch.nn.GRU | torch.nn.LSTM):
        super().__init__()
        self.kind, self.hidden_size = rnn.mode, rnn.hidden_size
        self.directions = ("", "_reverse") if rnn.bidirectional else ("",)
        self.num_layers = rnn.num_layers
        for number in range(rnn.num_layers):
            for name, kinds in (("w", ["weight_ih"]), ("r", ["weight_hh"]), ("b", BIASES)):
                both = [
                    torch.cat([self._reordered(getattr(rnn, f"{k}_l{number}{way}")) for k in kinds])
                    for way in self.directions
                ]
                self.register_buffer(f"{name}{number}", torch.stack(both).detach())

    def _reordered(self, weight: torch.Tensor) -> torch.Tensor:
        gates = weight.chunk(len(self.GATES[self.kind]))
        return torch.cat([gates[i] for i in self.GATES[self.kind]])

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, T, D), (B,) -> (B, T, D') with zeros for padding."""
        for number in range(self.num_layers):
            weights = [getattr(self, f"{name}{number}") for name in "wrb"]
            frames = torch.ops.ser.recur(frames, lengths, *weights, self.kind == "LSTM")
        real = frame_mask(lengths, frames.size(1)).unsqueeze(-1)
        return frames.masked_fill(~real, 0.0)


BIASES = ["bias_ih", "bias_hh"]


@torch.library.custom_op("ser::recur", mutates_args=())
def recur(
    frames: torch.Tensor,
    lengths: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor,
    lstm: bool,
) -> torch.Tensor:
    """A layer of ONNX's GRU or LSTM on (B, T, D); it exists in graphs only."""
    raise NotImplementedError("only traced")


@recur.register_fake
def _(frames, lengths, w, r, b, lstm):
    return frames.new_empty(frames.size(0), frames.size(1), r.size(0) * r.size(2))


def _recur_in_onnx(opset: int) -> Any:
    """How ONNX computes ``recur``; its own layout is (T, B, D) -> (T, directions, B, H)."""
    onnxscript = _import("onnxscript")
    op = getattr(onnxscript, f"opset{opset}")

    def translate(frames, lengths, w, r, b, lstm: bool):
        directions, _, hidden_size = r.shape
        options = {"hidden_size": int(hidden_size)}
        options["direction"] = "bidirectional" if int(directions) == 2 else "forward"
        inputs = (op.Transpose(frames, perm=[1, 0, 2]), w, r, b, op.Cast(lengths, to=INT32))
        if lstm:
            outputs, _, _ = op.LSTM(*inputs, **options)
        else:  # as cuDNN and torch have it: the new gate's bias inside the product with reset
            outputs, _ = op.GRU(*inputs, linear_before_reset=1, **options)
        outputs = op.Transpose(outputs, perm=[2, 0, 1, 3])  # (B, T, directions, H)
        return op.Reshape(outputs, op.Constant(value_ints=[0, 0, -1]))

    return translate


INT32 = 6  # onnx.TensorProto.INT32


class Graph(torch.nn.Module):
    """A model whose outputs are a tuple in the order of ``output_names``."""

    def __init__(self, model: SERModel):
        super().__init__()
        self.model = traceable(model)
        self.heads = list(model.aux_heads)
        values = model.aux_values
        names = (f"{name}_{'value' if name in values else 'logp'}" for name in self.heads)
        self.output_names = ["emotion_logp", "lengths", *names]

    def forward(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        said = self.model.infer(speech, speech_lengths)
        heads = [said["aux"][name] for name in self.heads]
        return (said["emotion_logp"], said["lengths"], *heads)


def traceable(model: SERModel) -> SERModel:
    """A copy of ``model`` that computes the same, and whose graph does not depend on values.

    Raises:
        UserError: a part of the model that cannot be a graph, or whose answers hang on padding.
    """
    refuse(model)
    model = copy.deepcopy(model).eval()
    if isinstance(model.frontend, HFFrontend):
        model.frontend.plain()
    stages = getattr(model.frontend, "stages", None)
    if getattr(stages, "masked_norm", None) is not None:
        first = stages.encoder.feature_extractor.conv_layers[0]
        first.layer_norm = stages.masked_norm = TraceableGroupNorm(stages.masked_norm)
    if isinstance(getattr(stages, "log_mel", None), LogMel):
        model.frontend.log_mel = stages.log_mel = TraceableLogMel(stages.log_mel)
    if isinstance(model.encoder, ConvRecurrentEncoder):
        for layer in model.encoder.convs:
            layer.norm = TraceableBatchNorm(layer.norm) if layer.norm is not None else None
        if model.encoder.rnn is not None:
            model.encoder.recurrent = TraceableRNN(model.encoder.rnn)
            model.encoder.recur = model.encoder.recurrent.forward
    return model


def refuse(model: SERModel) -> None:
    """Raise UserError for a model that has no sound graph, saying which part of it."""
    cure = "such a model runs in PyTorch only: ser predict, ser.predict.package"
    if type(model.encoder).__module__.startswith("espnet2."):
        raise UserError(
            f"--onnx: encoder {type(model.encoder).__name__} of ESPnet sorts and packs a batch by "
            f"its lengths, which a graph cannot; {cure} (encoder conv_recurrent can be exported)"
        )
    if isinstance(model.pooling, MeanPooling) and not model.pooling.mask:
        raise UserError(
            "--onnx: pooling_conf.mask is false: the answers of this model depend on the padding "
            f"of a batch; {cure}"
        )


def export_onnx(
    source: str | Path, path: Path | str, fold: str | None = None, opset: int = OLDEST_OPSET
) -> dict[str, float]:
    """Write the model of one fold as ``path`` and print how far it is from PyTorch.

    Args:
        source: What ser.predict.package.open_model takes.
        path: The file to write, whole or not at all.
        fold: Which model; the first when None.
        opset: Version of ONNX's operators.

    Returns:
        The largest absolute difference of each output over all compared batches.

    Raises:
        UserError: packages are missing, no such fold or opset, a model that cannot be exported, or
            a graph that differs from PyTorch.
    """
    path = Path(path)
    runtime = _check_request(path, opset)
    packed = open_model(source)
    fold = fold or packed.folds[0]
    model = packed.load(fold)
    graph = Graph(model)
    progress(f"export: tracing the model of fold {fold}")
    program = trace(graph, packed.feats_type, opset)
    program.model.metadata_props.update(_metadata(packed, fold, model))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    with tempfile.TemporaryDirectory(dir=path.parent) as directory, naming(path.parent, directory):
        program.save(Path(directory) / path.name, external_data=size > EMBEDDED)
        progress("export: comparing it with PyTorch")
        session = runtime.InferenceSession(
            Path(directory) / path.name, providers=["CPUExecutionProvider"]
        )
        differences = compare(model, session, packed.feats_type)
        told = ", ".join(f"{name} {DECIMALS.format(d)}" for name, d in differences.items())
        if not max(differences.values()) <= TOLERANCE:
            raise UserError(
                f"--onnx {path}: not written: it differs from PyTorch by more than {TOLERANCE} "
                f"({told}); another --opset may do better"
            )
        for written in sorted(Path(directory).iterdir(), reverse=True):  # the data, then the graph
            written.chmod(path.parent.stat().st_mode & 0o666)
            os.replace(written, path.parent / written.name)
    lengths = "; ".join(" ".join(map(str, batch)) for batch in COMPARED)
    print(f"Exported: {path} ({format_size(path.stat().st_size)}, opset {opset}, fold {fold})")
    print(f"Largest difference to PyTorch (log-probabilities): {told}")
    print(f"  over batches of {lengths} s, each also with noise for padding")
    for mark in packed.card.get("marks") or []:
        print(f"  {mark}")
    return differences


def _check_request(path: Path, opset: int) -> ModuleType:
    """Refuse what would fail after a minute of tracing; gives onnxruntime."""
    onnx, onnxscript, runtime = map(_import, ("onnx", "onnxscript", "onnxruntime"))
    newest = newest_opset(onnx, onnxscript)
    if not OLDEST_OPSET <= opset <= newest:
        raise UserError(
            f"--opset {opset}: the installed onnx {onnx.__version__}, onnxscript "
            f"{onnxscript.__version__} and torch export versions {OLDEST_OPSET} to {newest}; "
            "choose one of them"
        )
    if not path.parent.is_dir():
        raise UserError(f"--onnx {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise UserError(
            f"--onnx {path}: a folder; give the name of a file, such as {path}/ser.onnx"
        )
    try:
        tempfile.TemporaryDirectory(dir=path.parent).cleanup()
    except OSError as err:  # to be told before a minute of tracing
        raise UserError(
            f"--onnx {path}: nothing can be written in {path.parent} ({err.strerror}); choose "
            "another folder"
        ) from None
    return runtime


def newest_opset(onnx: ModuleType, onnxscript: ModuleType) -> int:
    """The newest version of ONNX's operators that both packages have."""
    named = (re.fullmatch(r"opset(\d+)", name) for name in dir(onnxscript))
    return min(onnx.defs.onnx_opset_version(), max(int(found[1]) for found in named if found))


def trace(graph: Graph, feats_type: str, opset: int) -> Any:
    """The graph as a torch.onnx.ONNXProgram with dynamic batch, length and frames."""
    example = _batch((1.0, 0.75), feats_type)
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {"speech": {0: dynamic, 1: dynamic}, "speech_lengths": {0: dynamic}}
    logger = logging.getLogger("torch.onnx")  # it warns that torchvision is not installed
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(sys.stderr),
            warnings.catch_warnings(),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                graph.eval(),
                example,
                input_names=["speech", "speech_lengths"],
                output_names=graph.output_names,
                dynamic_shapes=shapes,
                custom_translation_table={torch.ops.ser.recur.default: _recur_in_onnx(opset)},
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as err:
        what = str(err).strip().splitlines()[0]
        raise UserError(
            f"--onnx: torch {torch.__version__} cannot export this model ({what}); such a model "
            "runs in PyTorch only: ser predict, ser.predict.package"
        ) from err
    finally:
        logger.setLevel(level)


def compare(model: SERModel, session: Any, feats_type: str) -> dict[str, float]:
    """The largest absolute difference of each output between PyTorch and onnxruntime.

    Real frames are compared; the padding of the graph's input is noise there, and
    zero for PyTorch. Different frame counts are infinitely far apart.
    """
    names = [output.name for output in session.get_outputs()]
    found = dict.fromkeys((name for name in names if name != "lengths"), 0.0)
    for seconds in COMPARED:
        speech, lengths = _batch(seconds, feats_type)
        said = model.infer(speech.clone(), lengths)
        expected = dict(zip(names[2:], said["aux"].values(), strict=True))
        expected["emotion_logp"] = said["emotion_logp"]
        noisy = speech.clone()
        for row, length in zip(noisy, lengths.tolist(), strict=True):
            row[length:] = torch.randn_like(row[length:])
        inputs = {"speech": noisy.numpy(), "speech_lengths": lengths.numpy()}
        outputs = dict(zip(names, map(torch.from_numpy, session.run(None, inputs)), strict=True))
        frames = said["lengths"]
        for name in found:
            if not torch.equal(outputs["lengths"], frames):
                found[name] = math.inf
                continue
            theirs, ours = outputs[name], expected[name]
            for i, count in enumerate(frames.tolist()):
                rows = slice(count) if ours.dim() == 3 else slice(None)
                difference = (theirs[i][rows] - ours[i][rows]).abs().max().item()
                found[name] = max(found[name], difference if difference >= 0 else math.inf)
    return found


def _batch(seconds: Sequence[float], feats_type: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of so many seconds each, padded with zeros: (B, L) or (B, T, F), and (B,)."""
    generator = torch.Generator().manual_seed(0)
    raw = feats_type == "raw"
    lengths = torch.tensor([int(s * (16000 if raw else 100)) for s in seconds])
    size = () if raw else (FEATS_SIZES[feats_type],)
    speech = 0.1 * torch.randn(len(seconds), int(lengths.max()), *size, generator=generator)
    for row, length in zip(speech, lengths.tolist(), strict=True):
        row[length:] = 0.0
    return speech, lengths


def _metadata(packed: Packed, fold: str, model: SERModel) -> dict[str, str]:
    """What a program needs to know about inputs and outputs; lists as JSON."""
    told: dict[str, Any] = {
        "name": packed.name,
        "fold": fold,
        "emotions": packed.emotions,
        "sampling_rate": packed.sampling_rate,
        "feats_type": packed.feats_type,
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
