"""The contents of scores.json, schema 2, as pydantic models.

All scores are fractions from 0 to 1; class scores are None where the denominator is zero.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    StrictBool,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ser.console import validation_problems
from ser.errors import UserError
from ser.files import atomic_write

SCHEMA = 2
CURE = "write it again: ./run.sh --stage 5 --stop-stage 5 with its --corpus, --config, --tag"


def _fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise PydanticCustomError("fraction", "expected a number from 0 to 1")
    return value


Fraction = Annotated[float, PlainValidator(_fraction)]
Concordance = Annotated[float, Field(ge=-1, le=1)]
Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2)]  # from, to


class Part(BaseModel):
    """Part of scores.json; values are not converted, unknown keys and key order are kept."""

    model_config = ConfigDict(
        strict=True,
        extra="allow",
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
    )

    _keys: list[str] = PrivateAttr(default_factory=list)  # in file order

    @model_validator(mode="wrap")
    @classmethod
    def _remember_keys(cls, value: Any, handler: Callable[[Any], "Part"]) -> "Part":
        part = handler(value)
        part._keys = list(value) if isinstance(value, dict) else []
        return part

    @model_serializer(mode="wrap")
    def _in_order(self, handler: Callable[["Part"], dict[str, Any]]) -> dict[str, Any]:
        found = handler(self)
        return {key: found[key] for key in self._keys if key in found} | found


class ConfigFile(Part):
    """The YAML file of the system."""

    path: str
    sha256: str | None


class Sweep(Part):
    """The sweep that the experiment belongs to, and its point."""

    file: str | None = None
    name: str
    about: str
    point: str
    number: int
    points: int
    stated: dict[str, Any] | None = None


class Folds(Part):
    """The protocol's folds, the scored ones, and why others are missing."""

    expected: list[str]
    scored: list[str]
    missing: dict[str, str]


class Summary(Part):
    """WA and UA: means over folds (or speakers), and pooled over all utterances."""

    n: int
    wa: Fraction
    wa_sd: Fraction | None
    ua: Fraction
    ua_sd: Fraction | None
    wa_pooled: Fraction
    ua_pooled: Fraction
    wa_ci: Interval | None = None
    ua_ci: Interval | None = None
    wa_pooled_ci: Interval | None = None
    ua_pooled_ci: Interval | None = None


class FoldScores(Part):
    """One fold: ``absent`` lists emotions without utterances, ``valid_ua`` is the validation UA."""

    wa: Fraction
    ua: Fraction
    n: int
    absent: list[str]
    epochs: int | None = None
    best_epoch: int | None = None
    train_seconds: float | None = None
    valid_ua: Fraction | None = None


class ClassScores(Part):
    """Precision, recall and F1 of one emotion with ``n`` utterances."""

    n: int
    precision: Fraction | None = None
    recall: Fraction | None
    f1: Fraction | None = None


class Macro(Part):
    """Means over the classes."""

    precision: Fraction
    recall: Fraction
    f1: Fraction


class Confusion(Part):
    """Rows are references, columns are decisions; both (C, C)."""

    counts: list[list[int]]
    row_normalised: list[list[Fraction | None]]


class SpeakerDecisions(Part):
    """All decisions on one speaker in one fold, one character per utterance."""

    fold: str
    speaker: str
    ref: str
    hyp: str


class IntervalMethod(Part):
    """How the ``_ci`` of the summary were computed."""

    level: float
    method: str
    replicates: int
    speakers: int


class Decision(Part):
    """Scores of a decision other than the emotion head's; ``hyp`` is parallel to ``speakers``."""

    wa: Fraction
    ua: Fraction
    wa_pooled: Fraction
    ua_pooled: Fraction
    hyp: list[str]
    weights: dict[str, Fraction] | None


class Slice(Part):
    """Pooled scores of a part of the test set."""

    n: int
    wa: Fraction
    ua: Fraction
    absent: list[str]


class Bin(Part):
    """Decisions whose confidence is above ``low`` and at most ``high``."""

    low: Fraction
    high: Fraction
    n: int
    confidence: Fraction | None
    accuracy: Fraction | None


class Scaled(Part):
    """Calibration after temperature scaling, and each fold's temperature."""

    ece: Fraction
    confidence: Fraction
    nll: float
    brier: float
    aurc: Fraction
    risk: list[Fraction]
    temperature: dict[str, float]


class Calibration(Part):
    """Expected calibration error and its bins; proper scores; risk by coverage."""

    ece: Fraction
    confidence: Fraction
    accuracy: Fraction
    bins: list[Bin]
    nll: float | None = None
    brier: float | None = None
    aurc: Fraction | None = None
    risk: list[Fraction] | None = None
    scaled: Scaled | None = None


class Parameters(Part):
    """Parameters of the largest fold's model."""

    total: int
    trained: int


class Auxiliary(Part):
    """Accuracy of an auxiliary label head over the ``n`` utterances with a known label."""

    accuracy: Fraction | None
    n: int
    unknown: int


class Values(Part):
    """CCC and RMSE of a value head; CCC is None where it is undefined."""

    ccc: Concordance | None
    ccc_ci: list[Concordance] | None
    rmse: float | None
    n: int
    unknown: int
    per_speaker: dict[str, Concordance | None]


class Raters(Part):
    """Divergence (nats) from the raters' shares; ``divided`` and ``any_rater`` are fractions."""

    n: int
    divided: Fraction
    kl: float
    jsd: float
    any_rater: Fraction


class Alignment(Part):
    """Reference and decoded units of one utterance in ``pairs``; None is a gap."""

    utt_id: str
    rate: float
    pairs: list[list[str | None]]


class Units(Part):
    """Unit and phoneme error rates of the CTC head; may exceed 1."""

    uer: float
    per: float | None
    reference_units: int
    utterances: int
    empty: int
    sample: Alignment | None = None


class Scores(Part):
    """A scores.json, or a record of one."""

    version: Annotated[Literal[2], Field(alias="schema")] = SCHEMA
    system: str
    tag: str
    corpus: str
    protocol: str
    seed: int
    labels: list[str]
    token_type: str
    feats_type: str
    ssl: str | None
    max_epoch: int | None
    config: ConfigFile
    settings_sha256: str
    data_sha256: str | None
    stated: dict[str, Any] | None
    leaky: list[str]
    sweep: Sweep | None = None
    command: str
    commit: str
    scored_by: str
    date: str
    versions: dict[str, str]
    hardware: str
    partial: StrictBool
    corpus_partial: list[str]
    folds: Folds
    speakers: list[SpeakerDecisions]
    summary: Summary
    per_fold: dict[str, FoldScores]
    per_class: dict[str, ClassScores]
    macro: Macro | None = None
    confusion: Confusion
    test_sha256: str
    interval: IntervalMethod
    decisions: dict[str, Decision] | None
    slices: dict[str, dict[str, Slice]]
    calibration: Calibration
    train_seconds: float | None
    parameters: Parameters | None = None
    auxiliary: dict[str, Auxiliary | Values] = {}
    raters: Raters | None = None
    units: Units | None

    @classmethod
    def read(cls, path: Path) -> "Scores":
        """Read a scores.json.

        Raises:
            UserError: not JSON, another schema, or values of the wrong type.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except ValueError as err:
            raise UserError(f"{path}: not JSON ({err}); {CURE}") from None
        schema = found.get("schema") if isinstance(found, dict) else None
        if schema != SCHEMA or isinstance(schema, bool):
            raise UserError(f"{path}: schema {schema}, this version reads {SCHEMA}; {CURE}")
        try:
            return cls.model_validate(found)
        except ValidationError as err:
            problems = validation_problems(err.errors())
            raise UserError(f"{path}: {problems}; it was not written by stage 5; {CURE}") from None

    def plain(self) -> dict[str, Any]:
        """Entries as in the file, with defaults for missing ones."""
        return self.model_dump(by_alias=True)

    def text(self) -> str:
        """Contents of the file; scores that were read give the same bytes."""
        found = self.model_dump(by_alias=True, exclude_unset=True)
        return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: Path) -> None:
        """Write a scores.json atomically."""
        with atomic_write(path) as stream:
            stream.write(self.text())


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
