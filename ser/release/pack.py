"""Stage 7: the finished folds of an experiment -> a model that others can load.

``exp/<corpus>/<tag>/packed`` is a Hugging Face model folder (config.json, preprocessor_config.json,
safetensors weights, README.md with the hub's metadata), and ``<tag>.zip`` beside it holds the same
files as an ESPnet archive (meta.yaml). The packed model file is the one that stage 5 tested, for
one fold or several; folds with adapters of a frozen encoder share one encoder file. Nothing depends
on this machine: the configuration of a pretrained encoder is written into config.yaml, and paths
are not.
"""

import contextlib
import json
import platform
import re
import shutil
import time
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from ser.console import progress
from ser.errors import UserError
from ser.files import atomic_dir, atomic_write
from ser.lang.units import read_units, write_units
from ser.models.lora import adapted, check_encoder, frozen_weights
from ser.predict.card import format_card, format_size, make_card, make_marks
from ser.predict.config import FORMAT_VERSION, MODEL_TYPE, SAMPLING_RATE
from ser.predict.files import CARD, CONFIG
from ser.predict.inputs import measure_training
from ser.predict.package import label_values, network_conf, open_model
from ser.provenance import public_path
from ser.scoring.predictions import FILE_NAME
from ser.scoring.records import SCORE_FIRST, read_scores
from ser.stage import file_digest, read_marker
from ser.training.experiment import (
    NETWORK,
    NETWORK_KEYS,
    UNITS,
    choose_folds,
    find_file,
    find_units,
    fold_model_file,
    is_inferred,
    model_state,
    read_fold_config,
    read_run,
    read_temperature,
    read_weights,
)

PACKED, META, PREPROCESSOR = "packed", "meta.yaml", "preprocessor_config.json"
ENCODER = "encoder.safetensors"
# Entries of ESPnet's config.yaml that describe the training, for users.
TRAINING_KEYS = (
    "seed",
    "max_epoch",
    "optim",
    "optim_conf",
    "scheduler",
    "scheduler_conf",
    "lr_conf",
    "batch_type",
    "batch_size",
    "batch_bins",
    "accum_grad",
    "grad_clip",
    "best_model_criterion",
    "keep_nbest_models",
    "train_dtype",
    "use_amp",
    "version",
)
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])(?:~|/[\w.@+-]+)/[\w.@+/-]+")


def pack_experiment(
    exp_dir: Path | str, folds: Sequence[str] = (), onnx: str | None = None
) -> tuple[Path, Path]:
    """Write ``packed`` and ``<tag>.zip`` into an experiment, each of them atomically.

    Args:
        exp_dir: exp/<corpus>/<tag>, trained and scored.
        folds: Pack only these; all scored folds if empty.
        onnx: ``float32`` or ``int8``: also write each fold's ONNX graph in this precision.

    Returns:
        The folder and the archive.

    Raises:
        UserError: Not trained or not scored, scores of models other than the current ones, unknown
            folds, too little disk space, or a model that ONNX cannot express.
    """
    exp_dir = Path(exp_dir)
    if not exp_dir.is_dir():
        what = "a file" if exp_dir.exists() else "no such folder"
        raise UserError(f"{exp_dir}: {what}; give an experiment: exp/<corpus>/<tag>")
    run = read_run(exp_dir)
    scores = read_scores(exp_dir / "scores.json")
    names = choose_folds(folds, scores["folds"]["scored"], f"the scored folds of {exp_dir}")
    for fold in names:
        _require_scored(exp_dir, fold, run)
    configs = {fold: read_fold_config(exp_dir / fold) for fold in names}
    first = configs[names[0]]
    other = [f for f in names if any(configs[f][k] != first[k] for k in NETWORK_KEYS)]
    if other:
        raise UserError(
            f"{exp_dir}: the network of fold {other[0]} is not that of {names[0]}; train the folds "
            "alike (--overwrite true), or pack one of them: --folds"
        )
    files = {fold: fold_model_file(exp_dir / fold) for fold in names}
    frozen = frozen_weights(first["frontend"], first["frontend_conf"])
    _require_space(exp_dir, files, frozen, onnx)
    units = read_units(find_units(exp_dir, first)) if first.get("units") else None
    wavs = find_file(exp_dir, Path("dump", str(run["corpus"]), "wav.scp"))
    trained = measure_training(wavs) if wavs else None
    told = {fold: read_temperature(exp_dir / fold) for fold in names}
    config = describe(exp_dir.resolve().name, configs, make_card(scores, trained), told, onnx)
    with atomic_dir(exp_dir / PACKED) as temporary:
        _write_folds(temporary, config, files, frozen, first)
        write_texts(temporary, config, first, units)
        packed = open_model(temporary)  # read back before it replaces the target
        for fold in packed.graphs:
            from ser.release.onnx import OLDEST_OPSET, write_graph

            path = temporary / config["folds"][fold]["onnx"]
            write_graph(path, packed, fold, packed.load(fold), OLDEST_OPSET, onnx)
            packed.graphs[fold]()
    archive = exp_dir / f"{exp_dir.resolve().name}.zip"
    write_zip(archive, exp_dir / PACKED)
    _report(exp_dir, archive, names, scores)
    return exp_dir / PACKED, archive


def describe(
    name: str,
    configs: Mapping[str, Mapping[str, Any]],
    card: Mapping[str, Any],
    temperatures: Mapping[str, float | None],
    onnx: str | None = None,
) -> dict[str, Any]:
    """Make config.json for the folds with these ESPnet configurations."""
    first = next(iter(configs.values()))
    entries = {}
    stems: list[str] = []
    for number, (fold, config) in enumerate(configs.items(), start=1):
        stem = "model" if len(configs) == 1 else "fold_" + re.sub(r"[^\w.-]", "_", fold)
        stems.append(stem := f"{stem}_{number}" if stem in stems else stem)
        entries[fold] = {"weights": f"{stem}.safetensors"}
        if onnx:
            entries[fold]["onnx"] = f"{stem}.onnx"
        if temperatures[fold]:
            entries[fold]["temperature"] = temperatures[fold]
        labels = label_values(config)
        if labels:  # e.g. the training speakers of a head differ between folds
            entries[fold]["labels"] = labels
    emotions = first["emotions"].split()
    encoder = adapted(first["frontend"], first["frontend_conf"])  # not in the folds
    return without_paths(
        {
            "model_type": MODEL_TYPE,
            "format_version": FORMAT_VERSION if encoder else 1,
            "architectures": ["SERModel"],
            "name": name,
            "emotions": emotions,
            "id2label": {str(i): emotion for i, emotion in enumerate(emotions)},
            "label2id": {emotion: i for i, emotion in enumerate(emotions)},
            "sampling_rate": SAMPLING_RATE,
            "feats_type": first["feats_type"],
            "token_type": first["token_type"],
            "folds": entries,
            **({"encoder": ENCODER} if encoder else {}),
            "card": dict(card),
        }
    )


def _write_folds(
    directory: Path,
    config: Mapping[str, Any],
    files: Mapping[str, Path],
    frozen: Mapping[str, Any],
    espnet_config: Mapping[str, Any],
) -> None:
    """Write the weights of every fold, and the encoder if these are adapters."""
    source = espnet_config["frontend"], espnet_config["frontend_conf"]
    if frozen:
        write_weights(directory / config["encoder"], frozen)
    for number, (fold, file) in enumerate(files.items(), start=1):
        progress(f"pack: fold {fold} ({number} of {len(files)})")
        weights = read_weights(file)
        check_encoder(weights, frozen, *source, str(file))
        write_weights(directory / config["folds"][fold]["weights"], weights)


def write_weights(path: Path, weights: Mapping[str, Any]) -> None:
    """Write a state dict as safetensors; a tensor with two names is written twice."""
    from safetensors.torch import save_file

    seen: set[int] = set()
    separate = {}
    for name, tensor in weights.items():
        tensor = tensor.detach().contiguous()
        separate[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    save_file(separate, path, metadata={"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors makes files private


def write_texts(
    directory: Path,
    config: Mapping[str, Any],
    espnet_config: Mapping[str, Any],
    units: list[str] | None,
) -> None:
    """Write all files of a packed model except its weights, which are in ``directory`` already."""
    network = network_conf(espnet_config)
    training = {key: espnet_config[key] for key in TRAINING_KEYS if key in espnet_config}
    content = without_paths({**training, **network})
    if units is not None:
        write_units(directory / UNITS, units[1:])
        content["units"] = UNITS
    weights = {fold: entry["weights"] for fold, entry in config["folds"].items()}
    keys = {fold: "ser_model_file" + f"_{fold}" * (len(weights) > 1) for fold in weights}
    meta = {
        "files": {keys[fold]: name for fold, name in weights.items()}
        | ({"ser_encoder_file": config["encoder"]} if "encoder" in config else {}),
        "yaml_files": {"ser_train_config": NETWORK},
        "timestamp": time.time(),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("torch", "espnet")},
    }
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLING_RATE,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "do_normalize": False,  # done by the network if it was trained with it
    }
    names = [*weights.values(), *([config["encoder"]] if "encoder" in config else [])]
    sizes = {name: (directory / name).stat().st_size for name in names}
    for name, value in ((CONFIG, config), (PREPROCESSOR, preprocessor)):
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        (directory / name).write_text(text + "\n", encoding="utf-8")
    for name, value in ((NETWORK, content), (META, meta)):
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
        (directory / name).write_text(text, encoding="utf-8")
    (directory / CARD).write_text(format_card(config, sizes), encoding="utf-8")


def write_zip(path: Path, directory: Path) -> None:
    """Zip ``directory`` like an ESPnet archive: meta.yaml first, names without a folder."""
    names = sorted((p.name for p in directory.iterdir()), key=lambda name: (name != META, name))
    with atomic_write(path, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            stored = name.endswith((".safetensors", ".onnx"))  # weights do not compress
            kind = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.write(directory / name, name, compress_type=kind)


def without_paths(value: Any) -> Any:
    """Replace every absolute path in the strings of ``value`` by PATH/TO/<name>."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "~")):
        return public_path(value)
    roots = [Path.cwd()]
    with contextlib.suppress(RuntimeError):  # a user without a home folder
        roots.append(Path.home())
    for root in roots:  # may contain blanks, unlike the patterns below
        if root != Path("/"):
            value = value.replace(f"{root}/", "PATH/TO/")
    return ABSOLUTE_PATH.sub(lambda match: f"PATH/TO/{Path(match[0]).name}", value)


def _require_scored(exp_dir: Path, fold: str, run: Mapping[str, Any]) -> None:
    """Raise UserError if the model was retrained after scoring, so that the scores do not fit."""
    fold_dir = exp_dir / fold
    trained = read_marker(fold_dir)
    if trained is None or trained != run.get("settings"):
        state = "trained with other settings than run.yaml says"
        if trained is None:
            state = "its training is not finished" if fold_dir.is_dir() else "no such folder"
        raise UserError(
            f"{fold_dir}: {state}; train and score it: ./run.sh --stage 4 --stop-stage 5 with the "
            "same options, or pack other folds: --folds NAMES"
        )
    present = model_state(fold_dir)
    noted = present["model_sha256"]
    whole = noted is None or noted == file_digest(fold_model_file(fold_dir))
    if not (fold_dir / FILE_NAME).is_file() or not is_inferred(fold_dir) or not whole:
        raise UserError(
            f"{fold_dir}: its scores are not those of {present['model']} as it is now; "
            f"{SCORE_FIRST if whole else 'copy it again, or train this fold again: --stage 4'}"
        )


def _require_space(
    exp_dir: Path, files: Mapping[str, Path], frozen: Mapping[str, Any], onnx: str | None
) -> None:
    """Print the expected size; raise UserError before writing if the disk is too full."""
    one, total = (f(p.stat().st_size for p in files.values()) for f in (max, sum))
    encoder = sum(value.nbytes for value in frozen.values())
    graphs = total + len(files) * encoder if onnx else 0  # each includes the encoder
    needed, free = 2 * (total + encoder + graphs), shutil.disk_usage(exp_dir).free
    progress(
        f"pack: {len(files)} fold{'s' * (len(files) != 1)} of {format_size(one)} each, "
        f"{format_size(needed)} with the zip"
    )
    if needed > free:
        raise UserError(
            f"{exp_dir}: folder and zip need {format_size(needed)}, the disk has "
            f"{format_size(free)}; free some space, or pack fewer folds, such as --folds "
            f"{next(iter(files))}"
        )


def _report(exp_dir: Path, archive: Path, names: Sequence[str], scores: Mapping[str, Any]) -> None:
    size = sum(p.stat().st_size for p in (exp_dir / PACKED).iterdir())
    print(f"Packed: {exp_dir / PACKED}/ ({len(names)} folds, {format_size(size)})")
    print(f"Packed: {archive} ({format_size(archive.stat().st_size)})")
    for mark in make_marks(scores):
        print(f"  {mark}")
    print(f"Try it: python -m ser predict FILE.wav --model {archive}")
    if len(names) > 1:
        print(f"A folder of one model: add --folds {names[0]}")
