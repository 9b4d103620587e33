"""Backends for the model of one fold: PyTorch, or onnxruntime, which needs no PyTorch.

Both take float32 utterances of equal length, (B, L) samples in [-1, 1] or (B, T, F) features, and
return log-probabilities: (B, C) over ``emotions`` and, if there are ``units``, (B, T, V); and (B,)
for each of the estimated ``values``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ser.errors import UserError, one_line
from ser.lang.units import units_head

if TYPE_CHECKING:
    from ser.models.model import SERModel


class Output(NamedTuple):
    """Output for one batch; ``units`` is None without a unit head."""

    logp: np.ndarray
    units: np.ndarray | None
    values: dict[str, np.ndarray]


class TorchModel:
    """A model in PyTorch.

    Args:
        model: In evaluation mode, on ``device``.
        device: Name of a torch device.
        precision: ``float32``; ``bfloat16`` by autocast in frontend and encoder; ``int8`` for the
            weights of linear layers, on a CPU; ``auto``: bfloat16 for a model that was trained in
            it if the processor or GPU supports it natively, else float32.
    """

    def __init__(self, model: SERModel, device: str = "cpu", precision: str = "float32"):
        import torch

        from ser.training.devices import lacks_bfloat16

        self.head = units_head(model)
        self.emotions = list(model.emotions)
        self.units = list(model.aux_units[self.head]) if self.head else []
        self.values = list(model.aux_values)
        if precision == "int8":
            if device != "cpu":
                raise UserError(f"--precision int8: not on {device}; set --device cpu")
            with warnings.catch_warnings():  # deprecated, but torch has no replacement
                warnings.simplefilter("ignore")
                quantize = torch.ao.quantization.quantize_dynamic
                model = quantize(model, {torch.nn.Linear}, torch.qint8)
        self.model, self.device = model, device
        if precision == "auto":
            real = (
                device.startswith(("cpu", "cuda")) and lacks_bfloat16(int(device != "cpu")) is None
            )
            trained_in = getattr(model, "amp_dtype", torch.float32)
            self.dtype = trained_in if real else torch.float32
        else:
            self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32

    def __call__(self, batch: np.ndarray) -> Output:
        """Process one batch; UserError if GPU memory is full or an utterance too short."""
        import torch

        speech = torch.from_numpy(batch)
        lengths = torch.full((len(speech),), speech.size(1))
        with full_memory(self.device), torch.inference_mode():
            out = self.model.infer(speech.to(self.device), lengths, self.dtype)
            logp, aux = out["emotion_logp"].float().cpu().numpy(), out["aux"]
            units = aux[self.head].float().cpu().numpy() if self.head else None
            values = {name: aux[name].float().cpu().numpy() for name in self.values}
            return Output(logp, units, values)


class OnnxModel:
    """A graph written by ``ser pack --onnx`` or ``ser export``, on the CPU.

    Args:
        graph: Its file, or its contents.
        where: Name of the graph in error messages.

    Raises:
        UserError: No such graph, or a damaged one.
    """

    def __init__(self, graph: str | bytes, where: str = "the ONNX file"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # failures are raised
        # All graphs share one arena: each of its own would keep the memory of its largest input,
        # and with patterns also of each other length.
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.enable_mem_pattern = False
        try:
            self.session = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
            told = self.session.get_modelmeta().custom_metadata_map
            self.emotions: list[str] = json.loads(told["emotions"])
            head = told["units_head"]
            self.units: list[str] = json.loads(told[f"{head}_names"]) if head else []
            outputs = [output.name for output in self.session.get_outputs()]
            self.values = [
                name.removesuffix("_value") for name in outputs if name.endswith("_value")
            ]
        except Exception as err:  # onnxruntime has its own class for every error
            raise UserError(
                f"{where}: no graph of this recipe, or damaged ({one_line(err, 200)}); export it "
                "again, or set --backend torch"
            ) from None
        self.head = f"{head}_logp" if head else None
        self.names = ["emotion_logp", *(f"{name}_value" for name in self.values)]
        self.names += [self.head] if self.head else []

    def __call__(self, batch: np.ndarray) -> Output:
        """Process one batch; UserError if the graph cannot, as when an utterance is too short."""
        try:
            outputs = self.session.run(self.names, {"speech": batch})
        except Exception as err:  # onnxruntime has its own class for every error
            raise UserError(
                f"onnxruntime cannot process an input of length {batch.shape[1]} "
                f"({one_line(err, 200)}); give more of the recording if that is too short for the "
                "encoder, or set --backend torch"
            ) from None
        found = dict(zip(self.names, outputs, strict=True))
        values = {name: found[f"{name}_value"] for name in self.values}
        return Output(found["emotion_logp"], found.get(self.head), values)


@functools.cache
def _share_arena() -> None:
    from onnxruntime import OrtAllocatorType, OrtMemoryInfo, OrtMemType
    from onnxruntime import create_and_register_allocator as register

    kind = OrtAllocatorType.ORT_ARENA_ALLOCATOR
    register(OrtMemoryInfo("Cpu", kind, 0, OrtMemType.DEFAULT), None)


Model = TorchModel | OnnxModel


@contextlib.contextmanager
def full_memory(device: str) -> Iterator[None]:
    """Turn a full GPU memory into a readable error."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as err:
        what = str(err).splitlines()[0].rstrip(".")
        raise UserError(
            f"--device {device}: {what}; choose fewer models with --folds, shorter --segments, or "
            "--device cpu"
        ) from None
