"""Auxiliary heads, chosen in the YAML, whose losses are added to the emotion head's.

    aux_conf:
      pr:      {type: ctc, weight: 0.1}
      gender:  {type: label, weight: 0.5}
      speaker: {type: label, table: utt2spk, weight: 0.1, gradient_reversal: 1.0}
      valence: {type: value, weight: 0.5, range: [1, 5]}

``pr`` names the head (its loss is reported as ``loss_pr``), ``type`` picks a class (``ctc`` is
CTCHead) and ``weight`` is the lambda of eq. 1. Label and value heads read their targets from
``table``: the name of a table in dump/<corpus> (default ``utt2<name>``) or a path. Everything
else in the entry is an option of the class.
"""

import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from ser.data.labels import RATERS, Targets
from ser.errors import UserError
from ser.lang.units import ctc_min_frames
from ser.models.concordance import MOMENTS, concordance
from ser.models.masks import beside
from ser.models.registry import check_head, find_classes

IGNORE_ID = -1  # padding of target sequences, and unknown labels
UNITS, LABELS, VALUES = "units", "labels", "values"  # the kinds of targets

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
RESERVED = ("speech", "emotion", "text", "er", RATERS)  # data entries, the emotion head's loss
TINY = 1e-8


class Encoded(NamedTuple):
    """Encoder outputs of a batch that the heads read."""

    frames: torch.Tensor  # (B, T, D) float32
    lengths: torch.Tensor  # (B,) true frame counts, on the CPU
    pooled: torch.Tensor  # (B, P) float32, input of the emotion head


class AuxHead(torch.nn.Module, ABC):
    """Auxiliary task: map frames or the pooled vector to a loss.

    ``targets`` is the kind of target. ``UNITS``: the units of an utterance, in the batch as
    ``text`` (B, U) with ``text_lengths`` (B,). ``LABELS``: the utterance's label in a table, in
    the batch as ``<name>_label`` (B, 1), without lengths. ``VALUES``: its number, as
    ``<name>_value`` (B, 1). Options of a class are the keyword-only arguments of its constructor.

    Args:
        frame_size: D.
        pooled_size: P.
        inventory: The V output names: units with the blank first, or the labels of the fold's
            training utterances, in C order. For values, the mean and standard deviation over
            these utterances; empty if a state dict provides them.
    """

    targets: str

    def __init__(self, frame_size: int, pooled_size: int, inventory: Sequence[Any]):
        super().__init__()
        self.inventory = list(inventory)

    @classmethod
    def entry(cls, name: str) -> str:
        """Name of the batch entry that holds the targets of the head ``name``."""
        return {UNITS: "text", LABELS: f"{name}_label", VALUES: f"{name}_value"}[cls.targets]

    @abstractmethod
    def infer(self, encoded: Encoded) -> torch.Tensor:
        """Log-probabilities (B, T, V) of units or (B, V) of labels, or values (B,); in float32."""

    @abstractmethod
    def forward(
        self, encoded: Encoded, target: torch.Tensor, target_lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss and statistics of a batch.

        The loss is a sum over utterances divided by the full batch size, and statistics are
        fractions of the batch: their averages over batches and processes, weighted by batch
        size, equal those over all utterances.

        Args:
            encoded: The batch.
            target: (B, U) unit ids, with arbitrary padding beyond ``target_lengths``; or (B, 1)
                label indices, ``IGNORE_ID`` for labels outside the inventory; or (B, 1) values,
                NaN if unknown.
            target_lengths: (B,) for units, else None. Units and lengths are on the CPU.

        Returns:
            The scalar loss, part of the graph for any targets, and statistics, including
            ``skipped``, the fraction of the batch that adds no loss. A label head also returns
            ``correct``, the fraction classified correctly, and a value head MOMENTS / B.
        """


class CTCHead(AuxHead):
    """One linear layer on every frame, softmax, CTC loss (eq. 5 and 6).

    The loss of an utterance is -log p(units | frames) divided by its number of units; the
    batch's loss is the sum divided by the batch size. An utterance without units (no words), or
    with fewer frames than U + R (U units, R of them equal to their left neighbour), has no
    alignment: it adds nothing here and still counts in the batch size.

    Weights and bias start at zero, so that all units are equally probable in every frame: some
    random starts never leave the phase in which a few units and the blank dominate.

    Args:
        per_unit: Divide by the number of units. Otherwise long utterances count for more, and the
            effective ``weight`` grows with the number of units per utterance.
    """

    targets = UNITS

    def __init__(
        self, frame_size: int, pooled_size: int, inventory: Sequence[str], *, per_unit: bool = True
    ):
        super().__init__(frame_size, pooled_size, inventory)
        if not isinstance(per_unit, bool):
            raise UserError(f"per_unit: {per_unit!r}; give true or false")
        self.per_unit = per_unit
        self.linear = torch.nn.Linear(frame_size, len(inventory))
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def infer(self, encoded: Encoded) -> torch.Tensor:
        return self.linear(encoded.frames).float().log_softmax(dim=-1)  # (B, T, V)

    def forward(
        self, encoded: Encoded, target: torch.Tensor, target_lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        lengths, device = encoded.lengths, encoded.frames.device
        usable = self.usable(lengths, target, target_lengths)
        index = beside(usable.nonzero().flatten(), device)
        log_probs = self.infer(encoded).index_select(0, index).transpose(0, 1)  # (T, B', V)
        if usable.any():
            sizes = target_lengths[usable]
            loss = F.ctc_loss(
                log_probs,
                beside(target[usable].clamp(min=0), device),
                lengths[usable],
                sizes,
                blank=0,
                reduction="none",
            )  # (B',)
            if self.per_unit:
                loss = loss / beside(sizes, device)
            loss = loss.sum() / len(usable)
        else:
            loss = log_probs.sum() * 0.0  # keeps the head in the graph
        return loss, {"skipped": beside(1.0 - usable.float().mean(), device)}

    @staticmethod
    def usable(
        lengths: torch.Tensor, targets: torch.Tensor, target_lengths: torch.Tensor
    ) -> torch.Tensor:
        """(B,) True where the target is not empty and the frames suffice to align it."""
        rows = zip(targets.tolist(), target_lengths.tolist(), lengths.tolist(), strict=True)
        return torch.tensor(
            [size > 0 and frames >= ctc_min_frames(units[:size]) for units, size, frames in rows],
            dtype=torch.bool,
        )


class LabelHead(AuxHead):
    """One linear layer on the pooled vector, softmax, cross-entropy over the values of a table.

    The batch's loss is the sum divided by the batch size; an utterance of unknown value (a test
    speaker, a gap in the table) adds nothing and still counts in the batch size.

    Args:
        gradient_reversal: Multiply the gradient that the head passes to the layers below by minus
            this factor, so that they unlearn its task (Ganin and Lempitsky, 2015). 0 passes no
            gradient: the head only measures what the vector reveals. None: no reversal.

    Raises:
        UserError: the factor is not a finite number of 0 or more.
    """

    targets = LABELS

    def __init__(
        self,
        frame_size: int,
        pooled_size: int,
        inventory: Sequence[str],
        *,
        gradient_reversal: float | None = None,
    ):
        super().__init__(frame_size, pooled_size, inventory)
        if gradient_reversal is not None and not _is_factor(gradient_reversal):
            raise UserError(f"gradient_reversal: {gradient_reversal!r}; give a number of 0 or more")
        self.gradient_reversal = gradient_reversal
        self.linear = torch.nn.Linear(pooled_size, len(inventory))

    def infer(self, encoded: Encoded) -> torch.Tensor:
        pooled = encoded.pooled
        if self.gradient_reversal is not None:
            pooled = _ReverseGradient.apply(pooled, self.gradient_reversal)
        return self.linear(pooled).float().log_softmax(dim=-1)  # (B, V)

    def forward(
        self, encoded: Encoded, target: torch.Tensor, target_lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        target = target.view(-1)  # (B,)
        log_probs = self.infer(encoded)
        loss = F.nll_loss(log_probs, target, ignore_index=IGNORE_ID, reduction="sum") / len(target)
        return loss, {
            "skipped": (target == IGNORE_ID).float().mean(),
            "correct": (log_probs.argmax(dim=-1) == target).float().mean(),
        }


class ValueHead(AuxHead):
    """One linear layer on the pooled vector: a number of a table, such as arousal from 1 to 5.

    It is trained on z-scores, with the mean and standard deviation of the fold's training
    utterances, which are part of its state, and predicts values on the table's scale. An utterance
    of unknown value adds nothing to the loss and still counts in the batch size.

    Args:
        loss: ``ccc``, 1 - CCC over the known utterances of a batch, times their share of it; noisy
            in small batches; or ``mse``, the mean squared error of z-scores.
        range: Smallest and largest valid value of the table, e.g. [1, 5].
    """

    targets = VALUES

    def __init__(
        self,
        frame_size: int,
        pooled_size: int,
        inventory: Sequence[float],
        *,
        loss: str = "ccc",
        range: Sequence[float] | None = None,
    ):
        super().__init__(frame_size, pooled_size, inventory)
        if loss not in ("ccc", "mse"):
            raise UserError(f"loss: {loss!r}; choose ccc or mse")
        if range is not None and not _is_range(range):
            raise UserError(f"range: {range!r}; give the least and the largest value, e.g. [1, 5]")
        self.loss = loss
        self.linear = torch.nn.Linear(pooled_size, 1)
        mean, std = inventory or (0.0, 1.0)
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))

    def infer(self, encoded: Encoded) -> torch.Tensor:
        return self.linear(encoded.pooled).squeeze(-1).float() * self.std + self.mean  # (B,)

    def forward(
        self, encoded: Encoded, target: torch.Tensor, target_lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        z = (target.view(-1) - self.mean) / self.std  # (B,)
        known = z.isfinite()
        ref = torch.where(known, z, 0.0)
        hyp = torch.where(known, self.linear(encoded.pooled).squeeze(-1), 0.0)
        share = known.to(hyp.dtype).mean()
        moments = [v.mean() for v in (ref, hyp, ref * ref, hyp * hyp, ref * hyp)]
        if self.loss == "mse":
            loss = ((hyp - ref) ** 2).mean()
        else:
            above, below = concordance(share.clamp(min=TINY), *moments)
            loss = (1 - above / (below + TINY)) * share
        stats = dict(zip(MOMENTS, (value.detach() for value in moments), strict=True))
        return loss, {"skipped": 1 - share, **stats}


class _ReverseGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by ``-factor``."""

    @staticmethod
    def forward(ctx, values: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.factor * gradient, None


def aux_heads() -> dict[str, type[AuxHead]]:
    """Head classes by ``type``, including those in other files of ser/models."""
    return find_classes(AuxHead, "Head")


@dataclass(frozen=True)
class HeadConf:
    """A validated entry of ``aux_conf``."""

    cls: type[AuxHead]
    entry: str  # batch entry with the targets
    weight: float
    table: Targets | None  # of a label or value head
    options: dict[str, Any]  # constructor arguments of the class


def read_heads(aux_conf: Mapping[str, Any]) -> dict[str, HeadConf]:
    """Read the heads of ``aux_conf``, by name.

    Raises:
        UserError: naming ``aux_conf.<name>.<key>``, for an invalid name, an unknown type or
            option, a value out of range, or a second unit head.
    """
    heads = {name: _read_head(name, entry) for name, entry in aux_conf.items()}
    of_units = [name for name, head in heads.items() if head.cls.targets == UNITS]
    if len(of_units) > 1:
        raise UserError(
            f"aux_conf.{of_units[1]}.type: {aux_conf[of_units[1]]['type']} would learn the same "
            f"units as {of_units[0]}, since token_type is one; take one of them out"
        )
    return heads


def label_tables(aux_conf: Mapping[str, Any], raters: str | None = None) -> dict[str, Targets]:
    """Target table of each label or value head, by name, and that of RATERS if any."""
    tables = {name: head.table for name, head in read_heads(aux_conf).items() if head.table}
    if raters:
        tables[RATERS] = Targets(raters if "/" in raters else f"utt2{raters}")
    return tables


def _read_head(name: Any, entry: Any) -> HeadConf:
    where = f"aux_conf.{name}"
    fits = isinstance(name, str) and NAME.fullmatch(name) and name not in RESERVED
    if not fits or hasattr(torch.nn.ModuleDict(), name):  # attributes cannot be keys
        raise UserError(
            f"{where}: not a name for a head, which is made of letters, digits and underscores, "
            f"begins with a letter, and is none of {', '.join(RESERVED)} or Python's own such as "
            "type; rename it"
        )
    check_head(where, entry, {kind: _options(cls) for kind, cls in aux_heads().items()})
    options = dict(entry)
    cls, weight = aux_heads()[options.pop("type")], options.pop("weight", None)
    if not _is_factor(weight):
        raise UserError(f"{where}.weight: {weight!r}; give a number of 0 or more")
    table = options.pop("table", f"utt2{name}") if cls.targets != UNITS else None
    if cls.targets != UNITS and (not isinstance(table, str) or not table):
        raise UserError(
            f"{where}.table: {table!r}; give the name of a table of dump/<corpus>, such as "
            "utt2gender, or the path of one"
        )
    try:
        with torch.device("meta"):  # leaves the random state of training alone
            inventory = [] if cls.targets == VALUES else ["", ""]
            cls(1, 1, inventory, **options)  # checks the range of its options
    except UserError as err:
        raise UserError(f"{where}.{err}") from None
    limits = tuple(options.get("range") or ()) if cls.targets == VALUES else None
    return HeadConf(cls, cls.entry(name), weight, table and Targets(table, limits), options)


def _options(cls: type[AuxHead]) -> list[str]:
    """YAML keys of a head of this class."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return ["type", "weight", *(["table"] if cls.targets != UNITS else []), *known]


def _is_factor(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0


def _is_range(value: Any) -> bool:
    numbers = isinstance(value, list | tuple) and len(value) == 2
    return numbers and all(isinstance(v, int | float) for v in value) and value[0] < value[1]
