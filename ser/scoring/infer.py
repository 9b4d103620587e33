"""Inference over the held-out utterances of every trained fold, in one process.

Importing ESPnet and transformers takes longer than inferring a small fold, so the process does it
once, and only if there is something to infer; folds that share a configuration share one model
object, into which each fold's weights are loaded. Inference is in 32-bit floats, whatever
training used. Outputs of frozen layers are cached on disk as in training, but in 32 bits, so that
experiments with the same frozen layers compute them once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser.console import progress
from ser.data.audio import SAMPLE_RATE
from ser.data.labels import read_targets
from ser.data.tables import own_ids, read_table
from ser.errors import UserError, one_line
from ser.files import ROOT
from ser.lang.units import greedy_ctc, units_head
from ser.models.inputs import load_input, make_batches, pad
from ser.scoring import auxiliary, decisions
from ser.scoring.auxiliary import LabelDecision, write_label_decisions
from ser.scoring.calibration import fit_temperature
from ser.scoring.decisions import Evidence, gather, unit_tags, write_evidence
from ser.scoring.predictions import FILE_NAME, Prediction, write_predictions
from ser.training.devices import require_gpu
from ser.training.experiment import (
    NOT_INFERRED,
    SCORED,
    Experiment,
    open_experiment,
    read_fold_config,
    read_weights,
)

if TYPE_CHECKING:
    import torch

# Keys of ESPnet's config.yaml about training inputs and outputs, not about the model.
NOT_THE_MODEL = (
    "output_dir",
    "run_label",
    "train_",
    "valid_",
    "log_",
    "dist_",
    "resume",
    "class_",
    "wandb_",
    "warm_start",
)

BuildModel = Callable[[Path, str], Any]


def infer_folds(
    exp_dir: Path | str,
    dump_dir: Path | str,
    folds: Sequence[str] = (),
    ngpu: int = 0,
    nj: int = 0,
    batch_seconds: float = 60.0,
    build_model: BuildModel | None = None,
) -> list[str]:
    """Write predictions.tsv for each trained fold that has none from its current model.

    Args:
        exp_dir: exp/<corpus>/<tag>.
        dump_dir: dump/<corpus>.
        folds: Folds to infer; all of the protocol if empty.
        ngpu: Use the GPU if above 0.
        nj: CPU threads; 0 leaves torch's default.
        batch_seconds: Padded audio per batch, in seconds. Predictions do not depend on it, except
            for a pooling that includes the padding (``mask: false``).
        build_model: Makes a model without trained weights from (config.yaml, device); the
            recipe's own if None.

    Returns:
        The folds inferred by this call.

    Raises:
        UserError: unknown fold names, no GPU, damaged model files, a model of other emotions,
            an utterance without input, or non-finite probabilities.
    """
    experiment = open_experiment(exp_dir, dump_dir)
    wanted = experiment.require_folds(folds)
    states = {fold: experiment.state(fold) for fold in wanted}
    todo = [fold for fold, state in states.items() if state == NOT_INFERRED]
    kept = sum(state == SCORED for state in states.values())
    if kept:
        progress(f"infer: {kept} of {len(wanted)} folds already inferred with their present model")
    if not todo:
        return []
    inputs = read_table(experiment.input_scp)
    for fold in todo:  # check all tables before computing
        for split in splits(experiment, fold):
            _lengths(experiment, fold, split, inputs)
    models = FoldModels(build_model, open_device(ngpu, nj))
    for number, fold in enumerate(todo, start=1):
        prefix = f"infer {experiment.exp_dir.name}: fold {fold} ({number} of {len(todo)})"
        made_from = experiment.made_from(fold)
        fold_dir = experiment.exp_dir / fold
        model = models.load(fold_dir / "config.yaml", fold_dir / made_from["model"])
        _check_emotions(fold_dir, model.emotions, experiment.labels)
        parts = {
            split: infer_split(
                experiment, fold, split, model, inputs, models.device, batch_seconds, prefix
            )
            for split in splits(experiment, fold)
        }
        _write_fold(experiment, fold_dir, parts)
        valid = parts["valid"][0] if "valid" in parts else ()
        temperature = fit_temperature(valid, experiment.labels) if valid else None
        experiment.mark_inferred(fold, made_from, units_head(model), temperature)
    return todo


def _write_fold(experiment: Experiment, fold_dir: Path, parts: Mapping[str, tuple]) -> None:
    """Write the results of ``infer_split``; only the test split has rows and labels."""
    rows, _, labels = parts["test"]
    evidence = [item for _, items, _ in parts.values() for item in items]
    if evidence:
        write_evidence(fold_dir / decisions.FILE_NAME, experiment.labels, evidence)
    else:
        (fold_dir / decisions.FILE_NAME).unlink(missing_ok=True)
    if labels:
        write_label_decisions(fold_dir / auxiliary.FILE_NAME, labels)
    else:
        (fold_dir / auxiliary.FILE_NAME).unlink(missing_ok=True)
    names = own_ids(experiment.dump_dir)
    write_predictions(fold_dir / FILE_NAME, experiment.labels, rows, names)


def splits(experiment: Experiment, fold: str) -> list[str]:
    """The splits of a fold to infer: test, and valid if there is one."""
    return ["test"] + ["valid"] * experiment.fold_list(fold, "valid").is_file()


def infer_split(
    experiment: Experiment,
    fold: str,
    split: str,
    model: Any,
    inputs: Mapping[str, str],
    device: str = "cpu",
    batch_seconds: float = 60.0,
    prefix: str = "infer",
) -> tuple[list[Prediction], list[Evidence], list[LabelDecision]]:
    """Predict a fold's test or validation utterances, in the order of their list.

    The evidence for decisions other than the emotion head's (scoring/decisions.py) is empty for a
    model without a tagged CTC head, as are the decisions of label heads (scoring/auxiliary.py)
    without such heads.
    """
    import torch

    references, head = experiment.references(fold, split), units_head(model)
    text = read_table(experiment.text, allow_empty=True) if tagged_head(experiment, model) else None
    predictions, evidence, labels = {}, {}, {}  # by utterance
    tables = {
        name: read_targets(name, targets, experiment.dump_dir)
        for name, targets in experiment.label_tables.items()
    }
    lengths = _lengths(experiment, fold, split, inputs)
    for batch in make_batches(lengths, batch_seconds * SAMPLE_RATE):
        arrays = [load_input(inputs[utt_id], experiment.feats_type) for utt_id in batch]
        speech, speech_lengths = pad(arrays)
        with torch.inference_mode():
            out = model.infer(speech.to(device), speech_lengths.to(device))
        logp = out["emotion_logp"].float().cpu().numpy()  # (B, C)
        _check_finite(experiment.exp_dir / fold, batch, logp)
        frames = out["lengths"].cpu().numpy()  # (B,)
        units_logp = out["aux"][head].float().cpu().numpy() if head is not None else None
        for i, utt_id in enumerate(batch):
            said = None if units_logp is None else units_logp[i, : frames[i]]  # (T, V)
            best = () if said is None else said.argmax(axis=-1)  # (T,)
            predictions[utt_id] = Prediction(
                utt_id=utt_id,
                ref=references[utt_id],
                hyp=experiment.labels[int(logp[i].argmax())],
                probs=tuple(float(p) for p in np.exp(logp[i])),
                units=tuple(greedy_ctc(best, model.aux_units[head])) if head else (),
            )
            labels[utt_id] = [
                _decision(utt_id, name, out["aux"][name][i], model.aux_labels.get(name), known)
                for name, known in tables.items()
            ]
            if text is not None:
                ref, spoken = experiment.labels.index(references[utt_id]), text.get(utt_id, "")
                units = model.aux_units[head]
                evidence[utt_id] = gather(utt_id, split, ref, logp[i], said, units, spoken.split())
        part = "" if split == "test" else f"{split}: "
        progress(f"{prefix}: {part}{len(predictions)} of {len(lengths)} utterances")
    return (
        [predictions[u] for u in references],
        [evidence[u] for u in references if u in evidence],
        [row for u in references for row in labels[u]],
    )


def _check_emotions(fold_dir: Path, emotions: Sequence[str], labels: Sequence[str]) -> None:
    if list(emotions) != list(labels):
        raise UserError(
            f"{fold_dir}: the model knows {' '.join(emotions)}, but the corpus has "
            f"{' '.join(labels)}; train with another --tag, or make the corpus with the same "
            "--emotions as then"
        )


def _check_finite(fold_dir: Path, batch: Sequence[str], logp: np.ndarray) -> None:
    wrong = [u for u, row in zip(batch, logp, strict=True) if not np.isfinite(row).all()]
    if wrong:
        raise UserError(
            f"{fold_dir}: the model gives probabilities that are not numbers for "
            f"{', '.join(wrong[:5])}; training has diverged: lower the learning rate and train "
            "this fold again (remove its directory, then --stage 4)"
        )


def _decision(
    utt_id: str, head: str, said: torch.Tensor, words: Sequence[str] | None, known: Mapping
) -> LabelDecision:
    """Decide from a value, or from (V,) log-probabilities of ``words``; references in ``known``."""
    ref = known.get(utt_id, "")
    if words is None:
        return LabelDecision(utt_id, head, str(ref), f"{float(said):.4f}")
    best = int(said.argmax())
    p_hyp = float(said[best].float().exp())
    return LabelDecision(utt_id, head, ref if ref in words else "", words[best], p_hyp)


def tagged_head(experiment: Experiment, model: Any) -> bool:
    """Whether the model has a CTC head whose units carry the emotion."""
    head = units_head(model)
    tagged = head is not None and experiment.token_type.startswith("tagged_")
    return tagged and unit_tags(model.aux_units[head], len(experiment.labels)) is not None


def _lengths(
    experiment: Experiment, fold: str, split: str, inputs: Mapping[str, str]
) -> dict[str, int]:
    """Length of each utterance of a split; UserError if one has no length or no input."""
    shape = experiment.fold_list(fold, f"{split}.shape")
    samples = read_table(shape)
    cure = "run stage 3 again: ./run.sh --stage 3 --stop-stage 3"
    for utt_id in experiment.references(fold, split):
        for table, path in ((samples, shape), (inputs, experiment.input_scp)):
            if utt_id not in table:
                raise UserError(f"{path}: {utt_id} of fold {fold} is not in it; {cure}")
    return {utt_id: int(samples[utt_id]) for utt_id in experiment.references(fold, split)}


def open_device(ngpu: int, nj: int = 0) -> str:
    """Set up the device for inference, with ``nj`` threads; 0 leaves torch's default."""
    import torch

    if nj > 0:
        torch.set_num_threads(nj)
    if ngpu <= 0:
        return "cpu"
    require_gpu(ngpu)
    torch.backends.cudnn.allow_tf32 = False  # convolutions in 32 bits, as on the CPU
    return "cuda"


def _build_untrained(config: Path, device: str) -> Any:
    with contextlib.redirect_stdout(sys.stderr):  # ESPnet prints which options it lacks
        from ser.training.task import SERTask

    config, here = config.resolve(), Path.cwd()
    os.chdir(ROOT)  # relative paths of units and encoders start here, where run.sh trains
    try:
        # Without a model file: ESPnet's own loading silently ignores missing weights.
        return SERTask.build_model_from_file(config, None, device)[0]
    finally:
        os.chdir(here)


class FoldModels:
    """Load each fold's model; rebuild it only if the configuration differs.

    Args:
        build_model: As in ``infer_folds``.
        device: Device of the models.
        keep: Cache outputs of frozen layers where training cached them.
    """

    def __init__(self, build_model: BuildModel | None, device: str, keep: bool = True):
        self.build_model, self.keep = build_model or _build_untrained, keep
        self.device = device
        self.config: dict[str, Any] | None = None
        self.model: Any = None

    def load(self, config_file: Path, model_file: Path) -> Any:
        config = model_config(config_file)
        if config != self.config:
            self.model = None  # two models at once may not fit
            self.model = self.build_model(config_file, self.device)
            self.config = config
        weights = read_weights(model_file)
        try:
            self.model.load_state_dict(weights)
        except (RuntimeError, TypeError) as err:
            raise UserError(
                f"{model_file}: does not fit {config_file} ({one_line(err)}); remove "
                f"{model_file.parent} and train the fold again with --stage 4"
            ) from err
        keep_layers = getattr(getattr(self.model, "frontend", None), "keep_layers", None)
        if keep_layers is not None:
            keep_layers(config.get("layer_cache") if self.keep else None)
        return self.model.float().eval()


def model_config(config_file: Path) -> dict[str, Any]:
    """Read the part of ESPnet's config.yaml that defines the model, shared by all folds."""
    config = read_fold_config(config_file.parent)
    return {key: value for key, value in config.items() if not key.startswith(NOT_THE_MODEL)}
