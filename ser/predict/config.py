"""config.json and config.yaml of a packed model, which may be untrusted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ser.config import encoder_confs
from ser.errors import UserError, one_line
from ser.models.lora import adapted
from ser.predict.files import AGAIN, CONFIG, WHAT, Files, read_shapes, read_text
from ser.predict.inputs import Trained
from ser.training.experiment import NETWORK, NETWORK_KEYS, UNITS

FORMAT_VERSION = 2  # with an encoder beside the folds; a model without one has version 1
MODEL_TYPE = "speech-emotion-recognition"
SAMPLING_RATE = 16000
ENCODER_SIZES = (  # in its configuration, bounded by tensor sizes or the number of tensors
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "encoder_layers",
    "d_model",
    "encoder_ffn_dim",
)


def _each_once(names: list[str]) -> list[str]:
    if not all(names) or len(set(names)) < len(names):
        raise PydanticCustomError("names", "expected names, each once")
    return names


def _two_or_more(names: Any) -> list[str]:
    strings = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    if not strings or len(set(names)) < max(2, len(names)):
        raise PydanticCustomError("names", "expected two names or more, each once")
    return names


class FoldEntry(BaseModel):
    """One fold: weight and graph files, temperature, and the classes of label heads."""

    weights: str
    onnx: Annotated[str | None, Field(pattern=r"^[\w-][\w.-]*\.onnx$")] = None
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    labels: dict[str, Annotated[list[str], AfterValidator(_each_once)]] = {}

    @model_validator(mode="before")
    @classmethod
    def _within(cls, entry: Any) -> Any:
        name = entry.get("weights") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not re.fullmatch(WEIGHTS, name):
            raise PydanticCustomError("weights", "expected a .safetensors file in it")
        return {"labels": {}, **{key: value for key, value in entry.items() if value is not None}}


WEIGHTS = r"[\w-][\w.-]*\.safetensors"


class Card(BaseModel):
    """Entries of the card used for warnings; ser/predict/card.py writes it."""

    model_config = ConfigDict(extra="allow")

    synthetic: bool = False
    input: Trained | None = None


class Config(BaseModel):
    """Entries of config.json that are read; the others are for users."""

    model_config = ConfigDict(strict=True)

    name: str | None = None
    emotions: Annotated[list[str], PlainValidator(_two_or_more)]
    sampling_rate: Literal[16000]  # Hz
    folds: Annotated[dict[str, FoldEntry], Field(min_length=1)]
    encoder: Annotated[str | None, Field(pattern=f"^{WEIGHTS}$")] = None
    card: Card


def read_config(files: Files) -> Config:
    """Read config.json; UserError for another version or an invalid value."""
    where = f"{files.where}: {CONFIG}"
    try:
        config = json.loads(read_text(files, CONFIG).decode("utf-8"))
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
    try:
        return Config.model_validate(config)
    except ValidationError as err:
        first = err.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise UserError(f"{where}: {key} is missing; {AGAIN}") from None
        found = "empty" if first["input"] in ({}, []) else repr(first["input"])
        what = first["msg"].replace("Input should be", "expected")
        raise UserError(f"{where}: {key} is {found}; {what}; {AGAIN}") from None


def read_network(files: Files, emotions: list[str]) -> dict[str, Any]:
    """Read the entries of config.yaml that build the network."""
    where = f"{files.where}: {NETWORK}"
    try:
        content = yaml.safe_load(read_text(files, NETWORK).decode("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        raise UserError(f"{where}: not YAML ({one_line(err)}); {AGAIN}") from None
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
    encoders = encoder_confs(network["frontend"], network["frontend_conf"])
    if any(conf.get("init") != "random" or conf.get("model") for conf in encoders):
        raise UserError(
            f"{where}: frontend_conf refers to another model; a packed model holds its encoder "
            f"itself (init: random, without model); {AGAIN}"
        )
    if network["encoder_conf"].get("weights"):
        raise UserError(
            f"{where}: encoder_conf.weights refers to another file; a packed model holds its "
            f"weights itself; {AGAIN}"
        )
    return network


def needs_units(network: Mapping[str, Any]) -> bool:
    """Whether the network has a CTC head."""
    heads = network["aux_conf"].values()
    return any(isinstance(head, dict) and head.get("type") == "ctc" for head in heads)


def check_weights(
    files: Files,
    name: str,
    num_emotions: int,
    num_units: int | None,
    network: Mapping[str, Any],
    encoder: str | None = None,
) -> None:
    """Reject weights that are missing, truncated or for other outputs, from the header alone."""
    where = f"{files.where}: {name}"
    shapes = read_shapes(files, name) | (read_shapes(files, encoder) if encoder else {})
    try:
        adapters = adapted(network["frontend"], network["frontend_conf"])
    except UserError as err:
        raise UserError(f"{files.where}: {NETWORK}: {err}; {AGAIN}") from None
    if bool(encoder) != bool(adapters):
        raise UserError(
            f"{files.where}: {NETWORK} and {CONFIG} disagree on whether the weights are adapters "
            f"of an encoder; {AGAIN}"
        )
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
    most = max([len(shapes), *(size for shape in shapes.values() for size in shape)])
    for frontend in encoder_confs(network["frontend"], network["frontend_conf"]):
        encoder = frontend.get("config")
        for key in ENCODER_SIZES if isinstance(encoder, dict) else ():
            # such a network would be built, for minutes or until memory is full, and then not fit
            if isinstance(encoder.get(key), int) and encoder[key] > most:
                raise UserError(
                    f"{files.where}: {NETWORK}: frontend_conf.config.{key} is {encoder[key]}, "
                    f"which nothing in {name} comes near; {AGAIN}"
                )
