"""What a fold's model says of one utterance, frame by frame."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ser.data.tables import read_table
from ser.errors import UserError
from ser.lang.units import greedy_ctc
from ser.models.heads import units_head
from ser.models.inputs import load_input, pad
from ser.training.experiment import Experiment

LoadModel = Callable[[Path, str], Any]  # (exp/<corpus>/<tag>, fold) -> a model for inference


@dataclass(frozen=True)
class Said:
    """The answer to one utterance; without a CTC head ``posteriors`` is None."""

    probs: tuple[float, ...]  # by emotion
    posteriors: np.ndarray | None  # (T, V)
    units: Sequence[str]  # the inventory, the blank first
    decoded: Sequence[str]  # best path


def load_trained(exp_dir: Path, fold: str) -> Any:
    """The model that stage 5 tests a fold with, on the CPU."""
    from ser.predict.package import open_model

    return open_model(exp_dir).load(fold)


def fold_of(experiment: Experiment, utt_id: str, folds: Sequence[str]) -> str | None:
    """The fold of ``folds`` that tests an utterance; None if none does."""
    return next((fold for fold in folds if utt_id in experiment.references(fold)), None)


def ask(
    experiment: Experiment, fold: str, utt_id: str, load_model: LoadModel = load_trained
) -> Said:
    """Infer one utterance with the model of its fold, as stage 5 does.

    Raises:
        UserError: no model, or a damaged one, or no input for the utterance.
        OSError: a file that cannot be read.
    """
    import torch

    entry = read_table(experiment.input_scp).get(utt_id)
    if entry is None:
        raise UserError(f"{experiment.input_scp}: {utt_id} is not in it; run stage 3 again")
    speech, lengths = pad([load_input(entry, experiment.feats_type)])
    model = load_model(experiment.exp_dir, fold)
    with torch.inference_mode():
        out = model.infer(speech, lengths)
    probs = tuple(float(p) for p in out["emotion_logp"][0].float().exp())
    head = units_head(model)
    if head is None:
        return Said(probs, None, (), ())
    frames = int(out["lengths"][0])
    posteriors = out["aux"][head][0, :frames].float().exp().numpy()  # (T, V)
    units = model.aux_units[head]
    return Said(probs, posteriors, units, greedy_ctc(posteriors.argmax(axis=-1), units))
