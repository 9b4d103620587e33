"""The complete model: frontend, encoder, pooling, emotion head and auxiliary heads."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F

from ser.data.labels import RATERS
from ser.errors import UserError
from ser.models.base import AbsEncoder, AbsFrontend
from ser.models.heads import IGNORE_ID, LABELS, TINY, UNITS, VALUES, AuxHead, Encoded
from ser.models.pooling import AbsPooling

# Batch entries that stay on the CPU, as all lengths do.
ON_CPU = ("text",)
AMP_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class SERModel(torch.nn.Module):
    """Speech emotion recognition with auxiliary tasks.

    L = L_ER + sum_k lambda_k L_k (eq. 1), where L_ER is the cross-entropy of one linear layer on
    the pooled frames (eq. 7) and L_k the loss of an auxiliary head on the frames or the pooled
    vector.

    Args:
        emotions: Class names in index order.
        frontend, encoder, pooling: (B, L) -> (B, T, D) -> (B, T', D') -> (B, P).
        aux_heads: By name (ser/models/heads.py).
        aux_weights: lambda_k by the same names.
        amp_dtype: ``bfloat16`` runs frontend and encoder in mixed precision while training and
            validating; pooling, heads and losses stay in float32.
        class_weighting: ``balanced`` weights the cross-entropy of class c in training by
            N / (C n_c), n_c of N training utterances being of that class; the mean weight is 1.
            ``effective_number`` by (1 - beta) / (1 - beta^n_c), times what makes the C weights sum
            to C (Cui et al., 2019).
        label_smoothing: Of the cross-entropy in training (Szegedy et al., 2016).
        dropout: Of the pooled vector before the emotion head, in training.
        class_counts: n_c, for ``class_weighting``.
        emotion_weight: Factor on L_ER; 0 trains the auxiliary heads alone.
        beta: Of ``effective_number``; 0 weights all classes alike, towards 1 by 1 / n_c.
        focal_gamma: In training -log p_c is multiplied by (1 - p_c)^gamma (Lin et al., 2017).

    Raises:
        UserError: an option out of range.
    """

    def __init__(
        self,
        emotions: list[str],
        frontend: AbsFrontend,
        encoder: AbsEncoder,
        pooling: AbsPooling,
        aux_heads: dict[str, AuxHead],
        aux_weights: dict[str, float],
        amp_dtype: str = "float32",
        class_weighting: str = "none",
        label_smoothing: float = 0.0,
        dropout: float = 0.0,
        class_counts: list[int] | None = None,
        emotion_weight: float = 1.0,
        beta: float = 0.999,
        focal_gamma: float = 0.0,
    ):
        super().__init__()
        self.emotions = emotions
        self.frontend, self.encoder, self.pooling = frontend, encoder, pooling
        self.emotion_head = torch.nn.Linear(pooling.output_size(), len(emotions))
        self.aux_heads = torch.nn.ModuleDict(aux_heads)
        self.aux_weights = aux_weights
        # Outputs of each head by name: units with the blank first, or labels.
        self.aux_units = {n: h.inventory for n, h in aux_heads.items() if h.targets == UNITS}
        self.aux_labels = {n: h.inventory for n, h in aux_heads.items() if h.targets == LABELS}
        self.aux_values = [n for n, h in aux_heads.items() if h.targets == VALUES]
        self.amp_dtype = AMP_DTYPES[amp_dtype]
        known = ("none", "balanced", "effective_number")
        if class_weighting not in known:
            choose = f"choose one of {', '.join(known)}"
            raise UserError(f"model_conf.class_weighting: {class_weighting!r}; {choose}")
        shares = {"label_smoothing": label_smoothing, "dropout": dropout, "beta": beta}
        for key, value in shares.items():
            if not 0.0 <= value < 1.0:
                raise UserError(f"model_conf.{key}: {value!r}; give 0.0 to below 1")
        for key, value in (("emotion_weight", emotion_weight), ("focal_gamma", focal_gamma)):
            if value < 0:
                raise UserError(f"model_conf.{key}: {value!r}; give a number of 0 or more")
        self.label_smoothing, self.dropout = label_smoothing, dropout
        self.emotion_weight, self.focal_gamma = emotion_weight, focal_gamma
        weights = torch.ones(len(emotions))
        if class_weighting != "none" and class_counts:
            counts = torch.tensor(class_counts).clamp(min=1)
            weights = counts.sum() / (len(emotions) * counts)
        if class_weighting == "effective_number" and class_counts:
            weights = (1 - beta) / (1 - beta ** counts.double())
            weights = (weights * len(emotions) / weights.sum()).float()
        self.register_buffer("class_weights", weights, persistent=False)
        # counts[reference, hypothesis] since begin_epoch(), for WA and UA over a whole epoch. Not a
        # buffer: distributed training would overwrite it with the first process's at every batch.
        self.counts = torch.zeros(len(emotions), len(emotions))

    def begin_epoch(self, epoch: int) -> None:
        """Reset the confusion counts; freeze or unfreeze layers as scheduled for ``epoch``.

        Call it when the model is on its device: the counts are kept there.
        """
        self.counts = torch.zeros_like(self.counts, device=self.class_weights.device)
        set_epoch = getattr(self.frontend, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)

    def layer_weights(self) -> list[float]:
        """Fusion weights of eq. 4, low-level features first; empty without a fusion."""
        get_weights = getattr(self.frontend, "layer_weights", None)
        weights = get_weights() if get_weights is not None else None
        return [] if weights is None else weights.tolist()

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        emotion: torch.Tensor,
        speech_keys: Sequence[str] | None = None,
        **targets: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Compute the loss of a batch, with ESPnet's interface.

        Args:
            speech: (B, L) samples in [-1, 1], or (B, L, F) features.
            speech_lengths: (B,), on the CPU.
            emotion: (B, 1) class indices, IGNORE_ID if the label is unknown; such utterances add
                nothing to L_ER and still count in the batch size.
            speech_keys: Output of the frontend's ``keys``, if it has a feature cache.
            targets: ``text`` (B, U) and ``text_lengths`` (B,) for unit heads, on the CPU,
                ``<name>_label`` (B, 1) for a label head, ``<name>_value`` (B, 1) for a value
                head; ``raters`` (B, C), the share of an utterance's raters for each emotion,
                which replaces its label in L_ER in training; zeros if it has none.

        Returns:
            The loss, statistics (losses, WA of the batch) and the batch size as their weight,
            each (1,), so that several devices can be gathered.
        """
        batch_size = speech.size(0)
        emotion = emotion.view(batch_size)
        encoded = self.encode(speech, speech_lengths, self.amp_dtype, speech_keys)
        pooled = F.dropout(encoded.pooled, self.dropout, self.training)
        logits = self.emotion_head(pooled)  # (B, C)
        loss_er = self._cross_entropy(logits, emotion, targets.get(RATERS))
        hypothesis = logits.detach().argmax(dim=-1)
        self._count(emotion, hypothesis)
        stats = {"loss_er": loss_er.detach(), "WA": (hypothesis == emotion).float().mean()}
        loss = self.emotion_weight * loss_er
        own_loss = getattr(self.encoder, "own_loss", None)  # of a semi-supervised encoder
        if self.training and own_loss is not None:
            loss, stats["loss_encoder"] = loss + own_loss, own_loss.detach()
        for name, head in self.aux_heads.items():
            entry = head.entry(name)
            aux_loss, aux_stats = head(encoded, targets[entry], targets.get(f"{entry}_lengths"))
            loss = loss + self.aux_weights[name] * aux_loss
            stats[f"loss_{name}"] = aux_loss.detach()
            stats.update({f"{key}_{name}": value for key, value in aux_stats.items()})
        stats["loss"] = loss.detach().clone()  # ESPnet scales the loss itself in place
        weight = loss.new_full((1,), batch_size, dtype=torch.long)
        return loss[None], {key: value.reshape(1) for key, value in stats.items()}, weight

    def encode(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        dtype: torch.dtype = torch.float32,
        keys: Sequence[str] | None = None,
    ) -> Encoded:
        """(B, L), (B,) -> frames (B, T, D), true lengths (B,) and pooled vectors (B, P).

        Lengths are kept on the CPU to avoid GPU synchronisation; lengths on a GPU are copied back.
        """
        if not torch.compiler.is_exporting():
            speech_lengths = speech_lengths.cpu()
        mixed = dtype != torch.float32  # float32 leaves an outer autocast (use_amp) alone
        with torch.autocast(speech.device.type, dtype=dtype) if mixed else nullcontext():
            known = () if keys is None else (keys,)
            frames, lengths = self.frontend(speech, speech_lengths, *known)
            frames, lengths, _ = self.encoder(frames, lengths)
        frames = frames.float()
        return Encoded(frames, lengths, self.pooling(frames, lengths))

    @torch.no_grad()
    def infer(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> dict:
        """Predict a batch; call it in evaluation mode.

        Args:
            speech: (B, L) samples in [-1, 1], or (B, L, F) features.
            speech_lengths: (B,).
            dtype: Precision of frontend and encoder; autocast is used unless float32.

        Returns:
            ``emotion_logp`` (B, C) log-probabilities; ``lengths`` (B,) frames; ``aux``, the output
            of each auxiliary head: log-probabilities (B, T, V) over units, (B, V) over labels,
            values (B,).
        """
        encoded = self.encode(speech, speech_lengths, dtype)
        return {
            "emotion_logp": self.emotion_head(encoded.pooled).log_softmax(dim=-1),
            "lengths": encoded.lengths,
            "aux": {name: head.infer(encoded) for name, head in self.aux_heads.items()},
        }

    def collect_feats(self, speech: torch.Tensor, speech_lengths: torch.Tensor, **_) -> dict:
        """Return the input itself to ESPnet's statistics pass, which this recipe does not use."""
        return {"feats": speech, "feats_lengths": speech_lengths}

    def _cross_entropy(
        self, logits: torch.Tensor, emotion: torch.Tensor, raters: torch.Tensor | None = None
    ) -> torch.Tensor:
        """L_ER: plain in evaluation; weighted, smoothed and focal in training."""
        if not self.training:
            return F.cross_entropy(logits, emotion)
        classes = torch.arange(len(self.emotions), device=emotion.device)
        target = (emotion[:, None] == classes).to(logits.dtype)  # (B, C), zeros if unknown
        if raters is not None:
            target = torch.where(raters.sum(dim=1, keepdim=True) > 0, raters, target)
        weights = target @ self.class_weights  # (B,)
        uniform = target.sum(dim=1, keepdim=True) / len(self.emotions)
        target = (1 - self.label_smoothing) * target + self.label_smoothing * uniform
        log_probs = logits.log_softmax(dim=1)
        focus = (1 - log_probs.exp()).clamp(min=TINY) ** self.focal_gamma
        losses = -(target * focus * log_probs).sum(dim=1)
        # Divided by the batch size, not by the sum of weights: averages over processes stay exact.
        return (weights * losses).mean()

    def _count(self, reference: torch.Tensor, hypothesis: torch.Tensor) -> None:
        known = (reference != IGNORE_ID).to(self.counts.dtype)
        self.counts.index_put_((reference.clamp(min=0), hypothesis), known, accumulate=True)


def to_device(batch: Mapping[str, torch.Tensor], model: SERModel) -> dict[str, Any]:
    """Move a batch from the CPU to the model's device, as arguments of ``SERModel.forward``."""
    device = model.class_weights.device
    find_keys = getattr(model.frontend, "keys", lambda *_: None)
    keys = find_keys(batch["speech"], batch["speech_lengths"])
    return {"speech_keys": keys} | {
        key: value
        if key in ON_CPU or key.endswith("_lengths")
        else value.to(device, non_blocking=True)
        for key, value in batch.items()
    }
