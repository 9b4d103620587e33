"""Auxiliary heads: each reads the frames that the emotion head reads and adds a loss.

A head is built from one entry of ``aux_conf`` in the YAML:

    aux_conf:
      pr: {type: ctc, weight: 0.1}

``pr`` names the head (its loss is reported as ``loss_pr``), ``type`` picks a class of
``AUX_HEADS`` and ``weight`` is the lambda of eq. 1. What else the entry holds goes to the class.
"""

import torch
import torch.nn.functional as F

from ser.units import ctc_min_frames

IGNORE_ID = -1  # padding of target sequences


class CTCHead(torch.nn.Module):
    """One linear layer on every frame, softmax, CTC loss (eq. 5 and 6).

    The loss of an utterance is -log p(units | frames) divided by its number of units; the
    batch's loss is the sum divided by the batch size. An utterance without units (no words), or
    with fewer frames than U + R (U units, R of them equal to their left neighbour), has no
    alignment: it adds nothing here and still counts in the batch size.

    Args:
        input_size: D, the frame size.
        num_units: V, the number of units with the blank, which has index 0.
    """

    target = "text"  # the data entry with this head's targets

    def __init__(self, input_size: int, num_units: int):
        super().__init__()
        self.linear = torch.nn.Linear(input_size, num_units)

    def log_probs(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T, V) log-probabilities in float32."""
        return self.linear(frames).float().log_softmax(dim=-1)

    def forward(
        self,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        targets: torch.Tensor,
        target_lengths: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and statistics.

        Args:
            frames: (B, T, D).
            lengths: (B,) true numbers of frames.
            targets: (B, U) unit ids, padded with anything beyond ``target_lengths``.
            target_lengths: (B,).

        Returns:
            The scalar loss, and ``{"skipped": share of the batch without an alignment}``.
        """
        usable = self.usable(lengths, targets, target_lengths)
        log_probs = self.log_probs(frames)[usable].transpose(0, 1)  # (T, B', V)
        if usable.any():
            loss = F.ctc_loss(
                log_probs,
                targets[usable].clamp(min=0),
                lengths[usable],
                target_lengths[usable],
                blank=0,
                reduction="none",
            )  # (B',)
            loss = (loss / target_lengths[usable]).sum() / len(usable)
        else:
            loss = log_probs.sum() * 0.0  # keeps the head in the graph
        return loss, {"skipped": 1.0 - usable.float().mean()}

    @staticmethod
    def usable(
        lengths: torch.Tensor, targets: torch.Tensor, target_lengths: torch.Tensor
    ) -> torch.Tensor:
        """(B,) True where the target is not empty and the frames suffice to align it."""
        rows = zip(targets.tolist(), target_lengths.tolist(), lengths.tolist(), strict=True)
        return torch.tensor(
            [size > 0 and frames >= ctc_min_frames(units[:size]) for units, size, frames in rows],
            dtype=torch.bool,
            device=lengths.device,
        )


AUX_HEADS = {"ctc": CTCHead}
