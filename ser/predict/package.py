"""Open trained models: a packed folder, its zip, the Hugging Face hub, or an experiment.

A packed model (ser/release/pack.py writes it) is a folder with

    config.json              description: emotions, sampling rate, folds, scores
    config.yaml              the network, with the encoder's own configuration
    encoder.safetensors      the encoder shared by all folds, if these hold only adapters
    units.txt                the units of its CTC head, if it has one
    *.safetensors            the weights of each fold
    *.onnx                   the graph of each fold, if ser pack --onnx was given

and files for other readers. A zip of it is read in place: nothing is unpacked. A model may be
untrusted, so nothing in it is unpickled, no file outside it is read, and its metadata is checked
before anything is built.
"""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser.config import encoder_confs
from ser.data.features import FUNCTIONALS
from ser.errors import UserError, one_line
from ser.files import expand_home
from ser.lang.units import read_units
from ser.models.lora import adapted, frozen_weights, merge, without_adapters
from ser.predict.config import SAMPLING_RATE, check_weights, needs_units, read_config, read_network
from ser.predict.files import (
    AGAIN,
    CONFIG,
    HUB_ID,
    WHAT,
    Files,
    Folder,
    Zip,
    download,
    read_tensors,
    read_text,
)
from ser.predict.models import Model, OnnxModel, TorchModel, full_memory
from ser.training.experiment import (
    NETWORK,
    NETWORK_KEYS,
    UNITS,
    find_units,
    finished_folds,
    fold_model_file,
    read_fold_config,
    read_temperature,
    read_weights,
)

if TYPE_CHECKING:
    import torch

    from ser.models.model import SERModel


@dataclass(frozen=True)
class Fold:
    """How to build and fill the model of one fold."""

    where: str  # for messages
    network: Mapping[str, Any]  # config.yaml
    labels: Mapping[str, list[str]]  # the classes of each label head
    weights: Callable[[], dict[str, torch.Tensor]]
    encoder: Callable[[], dict[str, torch.Tensor]] | None = None  # frozen, if there are adapters
    graph: Callable[[], OnnxModel] | None = None
    temperature: float | None = None  # divisor of the logits


@dataclass(frozen=True)
class Packed:
    """A model of one or more folds, ready to be loaded."""

    name: str
    emotions: list[str]  # in class order
    sampling_rate: int  # Hz
    feats_type: str  # raw, or one of ser.data.features.FEATS_TYPES
    token_type: str
    units: list[str] | None  # of the CTC head by id, the first is the blank
    card: dict[str, Any]  # corpus, protocol, scores, marks, limits ...; see ser/predict/card.py
    members: Mapping[str, Fold]

    @property
    def folds(self) -> list[str]:
        """Names of the folds, in the protocol's order."""
        return list(self.members)

    @property
    def graphs(self) -> dict[str, Callable[[], OnnxModel]]:
        """Functions that open the ONNX graphs of the folds that have one."""
        return {fold: member.graph for fold, member in self.members.items() if member.graph}

    def load(self, fold: str, device: str = "cpu") -> SERModel:
        """Load the model of ``fold`` in evaluation mode, in 32-bit floats, with its temperature.

        Raises:
            UserError: No such fold, damaged weights, or weights of another network.
        """
        if fold not in self.members:
            raise UserError(
                f"{self.name}: no fold {fold!r} in it; choose from: {' '.join(self.members)}"
            )
        member = self.members[fold]
        from ser.models.transformers_import import no_init_weights

        weights, network = member.weights(), member.network
        if member.encoder is not None:
            parts = network["frontend"], network["frontend_conf"]
            weights = merge(weights, member.encoder(), *parts, member.where)
            network = {**network, "frontend_conf": without_adapters(network["frontend_conf"])}
        with no_init_weights():  # random init of wav2vec2-base would take five seconds
            model = build_network_model(network, self.units, member.labels, member.where)
        try:
            model.load_state_dict(weights, assign=True)  # they stay memory-mapped
        except (RuntimeError, TypeError) as err:
            raise UserError(
                f"{member.where}: the weights do not fit the network that {NETWORK} describes "
                f"({one_line(err, 300)}); {AGAIN}"
            ) from err
        if member.temperature:
            model.emotion_head.load_state_dict(
                {k: v / member.temperature for k, v in model.emotion_head.state_dict().items()},
                assign=True,
            )
        return model.to(device).float().eval()


def _open_graph(files: Files, name: str, emotions: list[str]) -> OnnxModel:
    where = f"{files.where}: {name}"
    if not files.has(name):
        raise UserError(f"{where} is missing, which {CONFIG} names; {AGAIN}")
    graph = OnnxModel(files.graph(name), where)
    if graph.emotions != emotions:
        raise UserError(
            f"{where}: its emotions are {' '.join(graph.emotions)}, those of {CONFIG} "
            f"{' '.join(emotions)}; these files are not of the same model: {AGAIN}"
        )
    return graph


def open_model(source: str | Path, cache_dir: str | Path | None = None) -> Packed:
    """Open the model at ``source`` without loading its weights.

    Args:
        source: A packed folder, its zip, a hub id, or an experiment exp/<corpus>/<tag>.
        cache_dir: Cache for models of the hub; huggingface_hub's own cache if None.

    Raises:
        UserError: Nothing there, no network, or an invalid model: which file, what is wrong with
            it and what to do.
    """
    path = expand_home(source)
    if path.is_dir():
        if (path / CONFIG).is_file():
            return _open_packed(Folder(path))
        if (path / "run.yaml").is_file():
            return _open_experiment(path)
        raise UserError(
            f"{path}: not a model: it holds neither {CONFIG} (a packed model) nor run.yaml (an "
            f"experiment); give {WHAT}"
        )
    if path.is_file():
        return _open_packed(Zip(path))
    if HUB_ID.fullmatch(str(source)):
        return _open_packed(Folder(download(str(source), cache_dir)))
    raise UserError(f"{source}: no such file or folder; give {WHAT}")


def load_models(
    packed: Packed,
    folds: Sequence[str],
    device: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
) -> list[Model]:
    """Load the models of ``folds``.

    Args:
        backend: ``torch``; ``onnx``; or ``auto``: onnx if all of the folds have graphs,
            onnxruntime is installed, and neither a device nor a precision is requested.
        precision: See TorchModel; for graphs, ``auto`` is the packed precision.

    Raises:
        UserError: A fold, backend, device or precision that is not available.
    """
    graphs = [packed.graphs.get(fold) for fold in folds]
    fits = all(graphs) and device in (None, "auto", "cpu") and precision == "auto"
    fits = fits and importlib.util.find_spec("onnxruntime") is not None
    if backend == "onnx" and not fits:
        raise UserError(
            "--backend onnx: needs onnxruntime (pip install onnxruntime), a model packed with "
            "graphs (ser pack EXP --onnx float32), and neither --precision nor a --device but cpu"
        )
    if fits and backend != "torch":
        if packed.feats_type not in ("raw", *FUNCTIONALS) and not importlib.util.find_spec("torch"):
            raise UserError(
                f"{packed.name}: reads {packed.feats_type}, which torchaudio computes; pip install "
                "ser-mtl[predict]"
            )
        return [graph() for graph in graphs]
    from ser.training.devices import find_device

    device = find_device(device)
    with full_memory(device):
        return [TorchModel(packed.load(fold, device), device, precision) for fold in folds]


def network_conf(config: Mapping[str, Any]) -> dict[str, Any]:
    """Extract the part of ESPnet's config.yaml that builds the model, without hub or folder.

    Raises:
        UserError: The encoder's own configuration is not available.
    """
    network = {key: config[key] for key in NETWORK_KEYS if key in config}
    if encoder_confs(network["frontend"], network["frontend_conf"]):
        from ser.models.pretrained import embedded_frontend

        network["frontend_conf"] = embedded_frontend(network["frontend"], network["frontend_conf"])
    if "weights" in network["encoder_conf"]:  # the packed model contains them
        network["encoder_conf"] = {**network["encoder_conf"], "weights": None, "freeze": False}
    network["aux_conf"] = {
        name: {**head, "table": Path(str(head["table"])).name} if "table" in head else head
        for name, head in network["aux_conf"].items()
    }
    return network


def label_values(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Classes of each label head in a fold's ESPnet config.yaml."""
    known = {name: entry["values"] for name, entry in (config.get("aux_labels") or {}).items()}
    return {name: values for name, values in known.items() if isinstance(values[0], str)}


def build_network_model(
    network: Mapping[str, Any],
    units: list[str] | None,
    labels: Mapping[str, list[str]],
    where: str = "config.yaml",
) -> SERModel:
    """Build the untrained model of a packed config.yaml, preserving the caller's random state.

    Raises:
        UserError: This version cannot build ``network``.
    """
    import torch

    from ser.models.build import build_model, check_network

    args = Namespace(**network)
    with torch.random.fork_rng(devices=[]):
        try:
            check_network(args)
            return build_model(args, units, labels)
        except Exception as err:  # an untrusted configuration can make any part fail
            what = str(err) if isinstance(err, UserError) else f"{type(err).__name__}: {err}"
            what = " ".join(what.split())[:300]
            raise UserError(
                f"{where}: this version of the recipe cannot build its network ({what}); use the "
                f"version that packed it, or {AGAIN}"
            ) from err


def _open_packed(files: Files) -> Packed:
    config = read_config(files)
    where, emotions = files.where, config.emotions
    network = read_network(files, emotions)
    units = None
    if needs_units(network):
        with tempfile.TemporaryDirectory() as directory:  # read_units needs a path
            copy = Path(directory) / UNITS
            copy.write_bytes(read_text(files, UNITS))
            try:
                units = read_units(copy)
            except UnicodeDecodeError as err:
                raise UserError(f"{where}: {UNITS}: not UTF-8 ({err}); {AGAIN}") from None
            except UserError as err:
                what = str(err).partition("; make")[0].replace(f"{directory}/", "")
                raise UserError(f"{where}: {what}; {AGAIN}") from None
    members, name = {}, config.encoder
    encoder = functools.cache(lambda name=name: read_tensors(files, name)) if name else None
    counts = len(emotions), None if units is None else len(units)
    for fold, entry in config.folds.items():
        name = entry.weights
        check_weights(files, name, *counts, network, config.encoder)
        members[fold] = Fold(
            where=f"{where}: {name}",
            network=network,
            labels=entry.labels,
            weights=lambda name=name: read_tensors(files, name),
            encoder=encoder,
            graph=entry.onnx and (lambda graph=entry.onnx: _open_graph(files, graph, emotions)),
            temperature=entry.temperature,
        )
    return Packed(
        name=str(config.name or Path(where).stem),
        emotions=emotions,
        sampling_rate=config.sampling_rate,
        feats_type=str(network.get("feats_type")),
        token_type=str(network.get("token_type")),
        units=units,
        card=config.card.model_dump(),
        members=members,
    )


def _open_experiment(exp_dir: Path) -> Packed:
    """Open the finished folds of an experiment, each with the model file that stage 5 tests."""
    from ser.predict.card import card_of_experiment

    folds = finished_folds(exp_dir)
    if not folds:
        raise UserError(
            f"{exp_dir}: none of its folds is trained; train first: ./run.sh --stage 4 "
            "--stop-stage 4 with the same options"
        )
    configs = {fold: read_fold_config(exp_dir / fold) for fold in folds}
    first = configs[folds[0]]
    network = network_conf(first)
    units = read_units(find_units(exp_dir, first)) if needs_units(network) else None
    source = first["frontend"], first["frontend_conf"]
    encoder = functools.cache(lambda: frozen_weights(*source)) if adapted(*source) else None
    members = {
        fold: Fold(
            where=str(exp_dir / fold),
            network=network
            if all(config[key] == first[key] for key in NETWORK_KEYS)
            else network_conf(config),
            labels=label_values(config),
            weights=lambda fold=fold: read_weights(fold_model_file(exp_dir / fold)),
            encoder=encoder,
            temperature=read_temperature(exp_dir / fold),
        )
        for fold, config in configs.items()
    }
    return Packed(
        name=exp_dir.resolve().name,
        emotions=first["emotions"].split(),
        sampling_rate=SAMPLING_RATE,
        feats_type=str(first.get("feats_type") or "raw"),
        token_type=str(first.get("token_type") or "tagged_class"),
        units=units,
        card=card_of_experiment(exp_dir),
        members=members,
    )
