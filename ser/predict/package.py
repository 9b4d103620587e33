"""Trained models, wherever they lie: a packed folder, its zip, the Hugging Face hub, an experiment.

A packed model (ser/release/pack.py writes it) is a folder with

    config.json              what it is: emotions, sampling rate, folds, scores
    config.yaml              the network, with the encoder's own configuration
    units.txt                the units of its CTC head, if it has one
    *.safetensors            the weights of each fold

and files for other readers. A zip of it is read in place: nothing is unpacked. A model may come
from anywhere, so nothing in it is unpickled, no file outside it is read for it, and what it says of
itself is checked before anything is built.
"""

from __future__ import annotations

import contextlib
import json
import re
import stat
import tempfile
import zipfile
import zlib
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

import yaml

from ser.errors import UserError
from ser.files import expand_home
from ser.lang.units import read_units
from ser.training.experiment import (
    NETWORK,
    NETWORK_KEYS,
    UNITS,
    find_units,
    finished_folds,
    fold_model_file,
    read_fold_config,
    read_weights,
)

if TYPE_CHECKING:
    import torch

    from ser.models.model import SERModel

FORMAT_VERSION = 1
MODEL_TYPE = "speech-emotion-recognition"
SAMPLING_RATE = 16000
CONFIG, CARD = "config.json", "README.md"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
ENCODER_SIZES = (  # of its configuration, that a tensor's size or the number of tensors reaches
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "encoder_layers",
    "d_model",
    "encoder_ffn_dim",
)
LFS_POINTER = b"version https://git-lfs"  # how the files begin that Git LFS leaves in place
TEXT_LIMIT = 16 << 20  # bytes of a file that is read as text, or of a header of weights
ZIP_LIMIT = 100  # unpacked bytes for each byte of the archive; weights hardly compress
AGAIN = "copy or download it again, or pack it again: ser pack exp/<corpus>/<tag>"
WHAT = "a packed model (folder or zip), a hub id such as owner/name, or exp/<corpus>/<tag>"


@dataclass(frozen=True)
class Fold:
    """How to build and fill the model of one fold."""

    where: str  # for messages
    network: Mapping[str, Any]  # config.yaml
    labels: Mapping[str, list[str]]  # the classes of each head of labels
    weights: Callable[[], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Packed:
    """A model of one or more folds that is ready to be loaded."""

    name: str
    emotions: list[str]  # in class order
    sampling_rate: int  # Hz
    feats_type: str  # raw, or one of ser.data.features.FEATS_TYPES
    token_type: str
    units: list[str] | None  # of the CTC head by id, the first being the blank
    card: dict[str, Any]  # corpus, protocol, scores, marks, limits ...; see ser/predict/card.py
    members: Mapping[str, Fold]

    @property
    def folds(self) -> list[str]:
        """The names of the folds, in the protocol's order."""
        return list(self.members)

    def load(self, fold: str, device: str = "cpu") -> SERModel:
        """The model of ``fold`` in evaluation mode, in 32-bit floats.

        Raises:
            UserError: no such fold, damaged weights, or weights of another network.
        """
        if fold not in self.members:
            raise UserError(
                f"{self.name}: no fold {fold!r} in it; choose from: {' '.join(self.members)}"
            )
        member = self.members[fold]
        from ser.models.transformers_import import no_init_weights

        weights = member.weights()
        with no_init_weights():  # random numbers for wav2vec2-base would take five seconds
            model = build_network_model(member.network, self.units, member.labels, member.where)
        try:
            model.load_state_dict(weights, assign=True)  # which stay mapped from their file
        except (RuntimeError, TypeError) as err:
            what = " ".join(str(err).split())[:300]
            raise UserError(
                f"{member.where}: the weights do not fit the network that {NETWORK} describes "
                f"({what}); {AGAIN}"
            ) from err
        return model.to(device).float().eval()


def open_model(source: str | Path, cache_dir: str | Path | None = None) -> Packed:
    """The model at ``source``, looked into but not loaded.

    Args:
        source: A packed folder, its zip, a hub id, or an experiment exp/<corpus>/<tag>.
        cache_dir: Where models of the hub are kept; huggingface_hub's own cache when None.

    Raises:
        UserError: nothing there, no network, or not a sound model: which file, what is wrong with
            it and how to go on.
    """
    path = expand_home(source)
    if path.is_dir():
        if (path / CONFIG).is_file():
            return _open_packed(_Folder(path))
        if (path / "run.yaml").is_file():
            return _open_experiment(path)
        raise UserError(
            f"{path}: not a model: it holds neither {CONFIG} (a packed model) nor run.yaml (an "
            f"experiment); give {WHAT}"
        )
    if path.is_file():
        return _open_packed(_Zip(path))
    if HUB_ID.fullmatch(str(source)):
        return _open_packed(_Folder(_download(str(source), cache_dir)))
    raise UserError(f"{source}: no such file or folder; give {WHAT}")


def network_conf(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ESPnet's config.yaml that builds the model, needing neither hub nor folder.

    Raises:
        UserError: the encoder's own configuration is not to be had.
    """
    network = {key: config[key] for key in NETWORK_KEYS if key in config}
    if network["frontend"] == "hf":
        from ser.models.pretrained import embedded_conf

        network["frontend_conf"] = embedded_conf(**network["frontend_conf"])
    network["aux_conf"] = {
        name: {key: _file_name(value) if key == "table" else value for key, value in head.items()}
        for name, head in network["aux_conf"].items()
    }
    return network


def label_values(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """The classes of each head of labels that ESPnet's config.yaml of a fold names."""
    known = config.get("aux_labels") or {}
    return {name: [str(value) for value in entry["values"]] for name, entry in known.items()}


def build_network_model(
    network: Mapping[str, Any],
    units: list[str] | None,
    labels: Mapping[str, list[str]],
    where: str = "config.yaml",
) -> SERModel:
    """The untrained model of a packed config.yaml; the caller's random numbers are left alone.

    Raises:
        UserError: ``network`` is not one that this version can build.
    """
    import torch

    from ser.models.build import build_model, check_network

    args = Namespace(**network)
    with torch.random.fork_rng(devices=[]):
        try:
            check_network(args)
            return build_model(args, units, labels)
        except Exception as err:  # a configuration from anywhere can make any part of it fail
            what = str(err) if isinstance(err, UserError) else f"{type(err).__name__}: {err}"
            what = " ".join(what.split())[:300]
            raise UserError(
                f"{where}: this version of the recipe cannot build its network ({what}); use the "
                f"version that packed it, or {AGAIN}"
            ) from err


# --- packed folders and zips -------------------------------------------------------------------


class _Folder:
    def __init__(self, path: Path):
        self.where = str(path)
        self.path = path

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def open(self, name: str) -> IO[bytes]:
        return open(self.path / name, "rb")

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        return load_file(self.path / name)


class _Zip:
    """A zip that is read where it lies, once its members are known to be harmless."""

    def __init__(self, path: Path):
        self.where = str(path)
        try:
            self.file = zipfile.ZipFile(path)
        except zipfile.BadZipFile:
            raise UserError(
                f"{path}: not a model: no zip archive, or one that was cut short; give {WHAT}"
            ) from None
        self.members = {info.filename: info for info in self.file.infolist()}
        refuse_members(path, self.file.infolist())
        if any(name.endswith("/data.pkl") for name in self.members):
            raise UserError(f"{path}: a checkpoint of PyTorch, which is not unpickled; give {WHAT}")
        within = [name for name in self.members if name.endswith(f"/{CONFIG}")]
        # the zip of a folder, not of what is in it
        nested = CONFIG not in self.members and len(within) == 1
        self.folder = within[0].removesuffix(CONFIG) if nested else ""

    def has(self, name: str) -> bool:
        return self.folder + name in self.members

    def size(self, name: str) -> int:
        return self.members[self.folder + name].file_size

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with self.file.open(self.folder + name) as stream:
                yield stream
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as err:
            raise UserError(f"{self.where}: {name}: damaged ({err}); {AGAIN}") from None

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        from safetensors.torch import load

        with self.open(name) as stream:
            return load(stream.read())


def refuse_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive that would write outside its folder, or more than it can well hold.

    Raises:
        UserError: absolute names, names with ``..``, links, devices, a name that is there twice,
            or members that say they unpack to more than ZIP_LIMIT times the archive.
    """
    cure = "do not unpack it; get it again from somebody whom you trust"
    seen = set()
    for info in members:
        name = info.filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        kind = stat.S_IFMT(info.external_attr >> 16)
        if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
            raise UserError(f"{path}: its member {name!r} leads out of the folder; {cure}")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{path}: its member {name!r} is a link or a device; {cure}")
        if name in seen:
            raise UserError(f"{path}: its member {name!r} is there twice; {cure}")
        seen.add(name)
    unpacked, packed = sum(info.file_size for info in members), path.stat().st_size
    if unpacked > ZIP_LIMIT * packed:
        raise UserError(
            f"{path}: {packed} bytes that unpack to {unpacked}, more than {ZIP_LIMIT} times as "
            f"many; {cure}"
        )


def _open_packed(files: _Folder | _Zip) -> Packed:
    config = _read_config(files)
    where, emotions = files.where, config["emotions"]
    network = _read_network(files, emotions)
    units = None
    if _needs_units(network):
        with tempfile.TemporaryDirectory() as directory:  # its reader wants a path
            copy = Path(directory) / UNITS
            copy.write_bytes(_read(files, UNITS))
            try:
                units = read_units(copy)
            except UnicodeDecodeError as err:
                raise UserError(f"{where}: {UNITS}: not UTF-8 ({err}); {AGAIN}") from None
            except UserError as err:
                what = str(err).partition("; make")[0].replace(f"{directory}/", "")
                raise UserError(f"{where}: {what}; {AGAIN}") from None
    members = {}
    for fold, entry in config["folds"].items():
        name = entry["weights"]
        _check_weights(files, name, len(emotions), None if units is None else len(units), network)
        members[fold] = Fold(
            where=f"{where}: {name}",
            network=network,
            labels=entry.get("labels") or {},
            weights=lambda name=name: _tensors(files, name),
        )
    return Packed(
        name=str(config.get("name") or Path(where).stem),
        emotions=emotions,
        sampling_rate=config["sampling_rate"],
        feats_type=str(network.get("feats_type")),
        token_type=str(network.get("token_type")),
        units=units,
        card=config["card"],
        members=members,
    )


def _read(files: _Folder | _Zip, name: str) -> bytes:
    if not files.has(name):
        raise UserError(f"{files.where}: {name} is missing in it; {AGAIN}")
    if files.size(name) > TEXT_LIMIT:
        raise UserError(f"{files.where}: {name} has {files.size(name)} bytes of text; {AGAIN}")
    with files.open(name) as stream:
        content = stream.read()
    if content.startswith(LFS_POINTER):
        raise _is_pointer(files, name)
    return content


def _is_pointer(files: _Folder | _Zip, name: str) -> UserError:
    return UserError(
        f"{files.where}: {name} is a pointer of Git LFS, not the file itself; get the file with "
        "`git lfs pull` in the cloned folder, and pack the zip again if it is one"
    )


def _read_config(files: _Folder | _Zip) -> dict[str, Any]:
    """config.json, each of whose keys that is used has been checked."""
    where = f"{files.where}: {CONFIG}"
    try:
        config = json.loads(_read(files, CONFIG).decode("utf-8"))
    except (ValueError, RecursionError) as err:
        raise UserError(f"{where}: not JSON ({err}); {AGAIN}") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != MODEL_TYPE:
        raise UserError(
            f"{where}: model_type is {kind!r}, not {MODEL_TYPE!r}: this model has no emotions; "
            f"give {WHAT} (a speech encoder goes to --ssl of run.sh)"
        )
    version = config.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(f"{where}: format_version is {version!r}; expected a number; {AGAIN}")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{where}: format_version {version}, made by a newer version of the recipe; this one "
            f"reads up to {FORMAT_VERSION}: update it (git pull, make install)"
        )
    emotions, folds = config.get("emotions"), config.get("folds")
    problem = None
    if not _is_names(emotions) or len(emotions) < 2:
        problem = f"emotions is {emotions!r}; expected two names or more, each once"
    elif config.get("sampling_rate") != SAMPLING_RATE:
        problem = f"sampling_rate is {config.get('sampling_rate')!r}; expected {SAMPLING_RATE}"
    elif not isinstance(folds, dict) or not folds:
        problem = "folds is empty or no table of names"
    elif not isinstance(config.get("card"), dict):
        problem = "card is missing or no table"
    else:
        for fold, entry in folds.items():
            name = entry.get("weights") if isinstance(entry, dict) else None
            plain = isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*\.safetensors", name)
            labels = (entry.get("labels") or {}) if plain else {}
            if not plain:
                problem = f"folds.{fold}.weights is {name!r}; expected a .safetensors file in it"
            elif not isinstance(labels, dict) or not all(map(_is_names, labels.values())):
                problem = f"folds.{fold}.labels is no table of lists of names"
    if problem:
        raise UserError(f"{where}: {problem}; {AGAIN}")
    return config


def _is_names(value: Any) -> bool:
    strings = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
    return strings and len(set(value)) == len(value)


def _read_network(files: _Folder | _Zip, emotions: list[str]) -> dict[str, Any]:
    """config.yaml, less what does not build the network."""
    where = f"{files.where}: {NETWORK}"
    try:
        content = yaml.safe_load(_read(files, NETWORK).decode("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        raise UserError(f"{where}: not YAML ({' '.join(str(err).split())}); {AGAIN}") from None
    content = content if isinstance(content, dict) else {}
    lacking = [key for key in NETWORK_KEYS if key not in content]
    network = {key: content[key] for key in NETWORK_KEYS if key in content}
    tables = [
        key for key in network if key.endswith("_conf") and not isinstance(network[key], dict)
    ]
    if lacking or tables:
        raise UserError(f"{where}: {', '.join(lacking or tables)} not found in it; {AGAIN}")
    if network["emotions"] != " ".join(emotions):
        raise UserError(
            f"{files.where}: {CONFIG} has the emotions {' '.join(emotions)}, {NETWORK} "
            f"{network['emotions']}; {AGAIN}"
        )
    conf = network["frontend_conf"]
    if network["frontend"] == "hf" and (conf.get("init") != "random" or conf.get("model")):
        raise UserError(
            f"{where}: frontend_conf refers to another model; a packed model holds its encoder "
            f"itself (init: random, without model); {AGAIN}"
        )
    return network


def _needs_units(network: Mapping[str, Any]) -> bool:
    heads = network["aux_conf"].values()
    return any(isinstance(head, dict) and head.get("type") == "ctc" for head in heads)


def _check_weights(
    files: _Folder | _Zip,
    name: str,
    num_emotions: int,
    num_units: int | None,
    network: Mapping[str, Any],
) -> None:
    """Refuse weights that are missing, cut short or of other outputs, by their header alone."""
    where = f"{files.where}: {name}"
    shapes = _read_header(files, name)
    expected = {"emotion_head.weight": (num_emotions, "emotions", CONFIG)}
    for head, conf in network["aux_conf"].items():
        if num_units is not None and isinstance(conf, dict) and conf.get("type") == "ctc":
            expected[f"aux_heads.{head}.linear.weight"] = (num_units, "units", UNITS)
    for tensor, (count, what, file) in expected.items():
        rows = (shapes.get(tensor) or [None])[0]
        if rows != count:
            raise UserError(
                f"{where}: the weights ({tensor}) are for {rows or 'no'} {what}, {file} has "
                f"{count}; these files are not of the same model: {AGAIN}"
            )
    frontend = network.get("frontend_conf")
    encoder = frontend.get("config") if isinstance(frontend, dict) else None
    most = max([len(shapes), *(size for shape in shapes.values() for size in shape)])
    for key in ENCODER_SIZES if isinstance(encoder, dict) else ():
        # which would be built, for minutes or until the memory is full, before it does not fit
        if isinstance(encoder.get(key), int) and encoder[key] > most:
            raise UserError(
                f"{files.where}: {NETWORK}: frontend_conf.config.{key} is {encoder[key]}, which "
                f"nothing in {name} comes near; {AGAIN}"
            )


def _read_header(files: _Folder | _Zip, name: str) -> dict[str, list[int]]:
    """The shapes of the tensors in a safetensors file: 8 bytes of length, JSON, data."""
    where = f"{files.where}: {name}"
    if not files.has(name):
        raise UserError(f"{where} is missing, which {CONFIG} names; {AGAIN}")
    size = files.size(name)
    with files.open(name) as stream:
        start = stream.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise _is_pointer(files, name)
        length = int.from_bytes(start[:8], "little")
        text = (start[8:] + stream.read(min(length, TEXT_LIMIT)))[:length]
    try:
        header = {key: entry for key, entry in json.loads(text).items() if key != "__metadata__"}
        shapes = {key: list(entry["shape"]) for key, entry in header.items()}
        end = 8 + length + max(entry["data_offsets"][1] for entry in header.values())
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise UserError(
            f"{where}: not a safetensors file, or cut short ({size} bytes); {AGAIN}"
        ) from None
    if end != size:
        raise UserError(f"{where}: cut short or damaged: {size} bytes instead of {end}; {AGAIN}")
    return shapes


def _tensors(files: _Folder | _Zip, name: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError

    try:
        return files.tensors(name)
    except SafetensorError as err:
        raise UserError(f"{files.where}: {name}: damaged ({err}); {AGAIN}") from None


# --- the hub -----------------------------------------------------------------------------------


def _download(hub_id: str, cache_dir: str | Path | None) -> Path:
    """The snapshot of a model of the hub; what is already in the cache needs no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(
            snapshot_download(
                hub_id,
                cache_dir=cache_dir,
                allow_patterns=[CONFIG, NETWORK, UNITS, "*.safetensors"],
            )
        )
    except GatedRepoError:
        raise UserError(
            f"{hub_id}: this model of the Hugging Face hub is given on request; ask for it on its "
            "page, log in (hf auth login) and try again"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{hub_id}: neither a folder here nor a model on the Hugging Face hub; check the "
            "spelling, or log in if it is a private one (hf auth login)"
        ) from None
    except Exception as err:  # the hub's client and its transport have errors of many kinds
        if not isinstance(err, OSError | ValueError) and "httpx" not in type(err).__module__:
            raise
        what = " ".join(str(err.__cause__ or err).split())[:80]
        raise UserError(
            f"{hub_id}: no folder of this name here, and the Hugging Face hub cannot be reached "
            f"({what}); check the network, or download the model on another machine (hf download) "
            "and give its folder"
        ) from None


# --- experiments -------------------------------------------------------------------------------


def _open_experiment(exp_dir: Path) -> Packed:
    """The finished folds of an experiment, each with the model file that stage 5 tests."""
    from ser.predict.card import card_of_experiment

    folds = finished_folds(exp_dir)
    if not folds:
        raise UserError(
            f"{exp_dir}: none of its folds is trained; train first: ./run.sh --stage 4 "
            "--stop-stage 4 with the same options"
        )
    configs = {fold: read_fold_config(exp_dir, fold) for fold in folds}
    first = configs[folds[0]]
    network = network_conf(first)
    units = read_units(find_units(exp_dir, first)) if _needs_units(network) else None
    members = {
        fold: Fold(
            where=str(exp_dir / fold),
            network=network if _same_network(config, first) else network_conf(config),
            labels=label_values(config),
            weights=lambda fold=fold: read_weights(fold_model_file(exp_dir / fold)),
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


def _same_network(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(config[key] == other[key] for key in NETWORK_KEYS)


def _file_name(path: Any) -> str:
    return Path(str(path)).name
