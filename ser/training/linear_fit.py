"""Stage 4 without gradients: a linear classifier on the pooled vectors of a frozen network.

``fit: logistic_regression`` or ``fit: linear_svm`` in the YAML replaces ESPnet's training by a fit
with scikit-learn, which takes seconds. Every utterance of the fold's training and validation
speakers is encoded once by the frozen network, C is chosen on held-out speakers, and the result is
written into the emotion head. Later stages see a model like any other. Nothing here is random: the
seed only matters for an encoder with ``init: random``.
"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ser.cluster import preemption
from ser.config import check_arguments, encoder_confs
from ser.console import progress
from ser.data.audio import SAMPLE_RATE
from ser.data.tables import read_table
from ser.errors import UserError
from ser.files import atomic_write, locked
from ser.models.inputs import load_input, make_batches, pad
from ser.models.layer_cache import FrameCache, fingerprint
from ser.models.model import SERModel
from ser.models.registry import check_whole
from ser.models.ssl import CACHE_VERSION
from ser.training.experiment import HISTORY
from ser.training.task import GRADIENT, LINEAR_SVM, SERTask
from ser.training.trainer import PARAMETERS, count_parameters, wa_ua

BATCH_SAMPLES = 60 * SAMPLE_RATE  # per batch, padding included
# A dimension whose standard deviation is a smaller fraction of its largest value is treated as
# constant: it varies only by rounding.
LEAST_SPREAD = 1e-5
FACTORS = (1e-4, 1e4)  # bounds of the temperature's inverse


@dataclass(frozen=True)
class FitConf:
    """Options of ``fit: logistic_regression`` and ``fit: linear_svm``.

    Args:
        C: Inverse strengths of the L2 penalty. The one with the best UA on the fold's validation
            speakers is chosen, or without validation speakers by cross-validation over the
            training speakers; ties are broken by the negative log-likelihood.
        class_weight: ``balanced`` or ``none``, as in scikit-learn.
        max_iter: Maximum number of solver iterations.
    """

    C: Sequence[float] = (0.001, 0.01, 0.1, 1.0)
    class_weight: str = "balanced"
    max_iter: int = 10000


@dataclass(frozen=True)
class Split:
    """Utterances of a fold: pooled vectors (N, P) float64, class indices (N,), speakers (N,)."""

    vectors: np.ndarray
    labels: np.ndarray
    speakers: np.ndarray

    def where(self, chosen: np.ndarray) -> "Split":
        """Select the utterances where the mask (N,) is True."""
        return Split(self.vectors[chosen], self.labels[chosen], self.speakers[chosen])


@dataclass(frozen=True)
class Linear:
    """logits = weight x + bias: (C, P) and (C,) float64."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """(N, P) -> (N, C)."""
        return vectors @ self.weight.T + self.bias


def check_fit(args: argparse.Namespace) -> None:
    """Raise UserError unless all but the emotion head is frozen and ``fit_conf`` is valid."""
    if args.fit == GRADIENT:
        if args.fit_conf:
            raise UserError(f"fit_conf: belongs to another fit than {GRADIENT}; remove it")
        return
    read_conf(args.fit_conf)
    for key, possible in (("encoder", ("identity",)), ("pooling", ("mean", "last", "statistics"))):
        if getattr(args, key) not in possible:
            raise UserError(
                f"{key}: found {getattr(args, key)}, but fit: {args.fit} learns the emotion head "
                f"only; choose {' or '.join(possible)}"
            )
    encoders = encoder_confs(args.frontend, args.frontend_conf)
    if any(conf.get("freeze") != "all" or conf.get("unfreeze_after") for conf in encoders):
        raise UserError(
            f"frontend_conf.freeze: fit: {args.fit} learns the emotion head only; set freeze: all "
            "and leave out unfreeze_after"
        )
    if args.heads_first_conf:
        raise UserError(
            f"heads_first_conf: fit: {args.fit} trains nothing before or after; remove the section"
        )
    if args.aux_conf:
        raise UserError(
            f"aux_conf: found {', '.join(args.aux_conf)}, but fit: {args.fit} learns the emotion "
            "head only; remove it"
        )


def read_conf(conf: dict[str, Any]) -> FitConf:
    """Read ``fit_conf``; UserError for an unknown option or a value out of range."""
    check_arguments("fit_conf", FitConf, conf)
    found = FitConf(**conf)
    if not isinstance(found.C, list | tuple) or not found.C or not all(map(_is_positive, found.C)):
        raise UserError(f"fit_conf.C: found {found.C!r}; give a list of numbers above 0")
    if found.class_weight not in ("balanced", "none"):
        raise UserError(f"fit_conf.class_weight: {found.class_weight!r}; choose balanced or none")
    check_whole("fit_conf.max_iter", found.max_iter)
    return found


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < np.inf


def fit_fold(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Fit one fold and write the files of a training: model, configuration, history, parameters.

    Args:
        args: The task's arguments for the fold (ser.training.folds.fold_arguments).

    Returns:
        The history, of one epoch.

    Raises:
        UserError: an emotion that no training speaker has, or only one training speaker where the
            protocol has no validation speaker.
        Stopped: on a signal.
    """
    start = time.perf_counter()
    set_all_random_seed(args.seed)
    device = "cuda" if args.ngpu > 0 else "cpu"
    torch.backends.cudnn.allow_tf32 = False  # 32 bits, as on a CPU and in stage 5
    model = SERTask.build_model(args).to(device).eval()
    train = read_split(args, model, args.train_shape_file[0])
    valid = read_split(args, model, args.valid_shape_file[0]) if args.has_valid else None
    conf = read_conf(args.fit_conf)
    linear, c, factor = choose(args.fit, conf, train, valid, args.emotions.split())
    logging.info(f"C {c:g}, logits times {factor:g}")
    head = model.emotion_head
    model.requires_grad_(False)
    head.requires_grad_(True)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(linear.weight))
        head.bias.copy_(torch.from_numpy(linear.bias))
    entry = {"epoch": 1, "train": _stats(linear, train) | {"C": c, "factor": factor}}
    for i, weight in enumerate(model.layer_weights()):
        entry["train"][f"layer_weight_{i}"] = weight
    if valid is not None:
        entry["valid"] = _stats(linear, valid) | {"seconds": 0.0}
    entry["train"]["seconds"] = time.perf_counter() - start
    _write(args, model, [entry])
    return [entry]


def read_split(args: argparse.Namespace, model: SERModel, shape_file: str) -> Split:
    """Read the utterances listed in a shape file, with their pooled vectors."""
    shapes = read_table(shape_file)
    lengths = {utt: int(shape.split(",")[0]) for utt, shape in shapes.items()}
    speech, emotion = (Path(entry[0]) for entry in args.train_data_path_and_name_and_type[:2])
    utt2emo, utt2spk = read_table(emotion), read_table(emotion.parent / "utt2spk")
    vectors = pooled_vectors(args, model, lengths, read_table(speech))
    classes = args.emotions.split()
    return Split(
        np.stack([vectors[utt] for utt in lengths]),
        np.array([classes.index(utt2emo[utt]) for utt in lengths]),
        np.array([utt2spk[utt] for utt in lengths]),
    )


def pooled_vectors(
    args: argparse.Namespace, model: SERModel, lengths: dict[str, int], inputs: dict[str, str]
) -> dict[str, np.ndarray]:
    """Compute the pooled vector (P,) of each utterance, as float64, in 32-bit evaluation mode.

    With a speech encoder they are cached in the folder of ``layer_cache``, so that ten folds
    compute them once.

    Args:
        lengths: Samples of each utterance.
        inputs: Entry of each utterance in wav.scp or feats.scp.
    """

    def compute(
        speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = model.encode(speech, speech_lengths).pooled
        return pooled[:, None, None], torch.ones_like(speech_lengths)  # (B, 1, 1, P)

    device = model.emotion_head.weight.device
    cache = _cache(args, model, device) if args.layer_cache and args.frontend == "hf" else None
    vectors: dict[str, np.ndarray] = {}
    with _alone(args, cache):
        for batch in make_batches(lengths, BATCH_SAMPLES):
            preemption.check()
            speech, speech_lengths = pad([load_input(inputs[u], args.feats_type) for u in batch])
            batched = speech.to(device), speech_lengths
            with torch.inference_mode():
                pooled, _ = cache(*batched, compute) if cache else compute(*batched)
            vectors.update(zip(batch, pooled[:, 0, 0].double().cpu().numpy(), strict=True))
            progress(f"{args.run_label}: {len(vectors)} of {len(lengths)} utterances encoded")
    return vectors


def _alone(args: argparse.Namespace, cache: FrameCache | None) -> AbstractContextManager:
    """Lock the cache, so that concurrent folds reuse what one of them has encoded."""
    if cache is None:
        return nullcontext()
    with suppress(OSError):  # without a cache there is nothing to wait for
        cache.directory.mkdir(parents=True, exist_ok=True)
    return locked(cache.directory, f"{args.run_label}: another fold is encoding; waiting")


def _cache(args: argparse.Namespace, model: SERModel, device: torch.device) -> FrameCache:
    facts = [args.frontend_conf, model.frontend.encoder.config.to_dict(), CACHE_VERSION]
    facts += [args.pooling, args.pooling_conf, device.type]
    directory = Path(args.layer_cache) / f"{fingerprint(model.frontend, *facts)}-pooled"
    return FrameCache(directory, torch.float32)


def choose(
    fit: str, conf: FitConf, train: Split, valid: Split | None, emotions: Sequence[str]
) -> tuple[Linear, float, float]:
    """Fit with every C, and choose the one with the best UA on held-out speakers.

    Args:
        fit: ``logistic_regression`` or ``linear_svm``.
        conf: Its options.
        train: Data that the result is fitted to.
        valid: Held-out speakers; None leaves out one training speaker at a time instead.
        emotions: The classes in index order.

    Returns:
        The classifier fitted to all of ``train``, C, and the positive factor by which its logits
        are multiplied: 1 for logistic regression, ``fit_factor`` for a support vector machine.
    """
    count = len(emotions)
    if valid is None and len(set(train.speakers)) < 2:
        raise UserError(
            "fit_conf.C: there is one training speaker and no validation speaker to choose it on; "
            "use --protocol strict, or a corpus of more speakers"
        )
    best: tuple[tuple[float, float], float, float] | None = None
    for c in map(float, conf.C):
        preemption.check()
        logits, labels = _held_out(fit, conf, c, train, valid, emotions)
        factor = fit_factor(logits, labels) if fit == LINEAR_SVM else 1.0
        (_, ua), loss = _accuracies(logits, labels, count), _loss(factor * logits, labels)
        logging.info(f"C {c:g}: UA {ua:.1%}, loss {loss:.3f} for speakers it was not fitted to")
        if best is None or (ua, -loss) > best[0]:
            best = (ua, -loss), c, factor
    _, c, factor = best
    linear = fit_linear(fit, conf, c, train, emotions)
    return Linear(factor * linear.weight, factor * linear.bias), c, factor


def _held_out(
    fit: str, conf: FitConf, c: float, train: Split, valid: Split | None, emotions: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, C) and labels (N,) of held-out speakers."""
    if valid is not None:
        return fit_linear(fit, conf, c, train, emotions).logits(valid.vectors), valid.labels
    logits, labels = [], []
    for speaker in sorted(set(train.speakers)):
        preemption.check()
        out = train.where(train.speakers == speaker)
        linear = fit_linear(fit, conf, c, train.where(train.speakers != speaker), emotions)
        logits.append(linear.logits(out.vectors))
        labels.append(out.labels)
    return np.concatenate(logits), np.concatenate(labels)


def fit_linear(fit: str, conf: FitConf, c: float, split: Split, emotions: Sequence[str]) -> Linear:
    """Fit a classifier to z-scores, and express it in terms of the vectors themselves.

    With z = (x - m) / s, for means m and standard deviations s of ``split``, w z + b equals
    (w / s) x + b - (w / s) m. A constant dimension has weight 0.
    """
    lacking = [e for i, e in enumerate(emotions) if i not in split.labels]
    if lacking:
        raise UserError(
            f"fit: {fit} needs utterances of every emotion, but the training speakers "
            f"{' '.join(sorted(set(split.speakers)))} have none of {', '.join(lacking)}; choose "
            "another --protocol or --emotions"
        )
    mean, std = split.vectors.mean(axis=0), split.vectors.std(axis=0)
    varies = std > LEAST_SPREAD * np.abs(split.vectors).max(axis=0)
    scale = np.where(varies, std, np.inf)
    estimator = _estimator(fit, conf, c).fit((split.vectors - mean) / scale, split.labels)
    weight, bias = estimator.coef_, estimator.intercept_
    if len(emotions) == 2:  # scikit-learn has only the second class's
        weight, bias = (np.concatenate([-value, value]) / 2 for value in (weight, bias))
    weight = weight / scale
    return Linear(weight, bias - weight @ mean)


def _estimator(fit: str, conf: FitConf, c: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    options = {"C": c, "max_iter": conf.max_iter}
    options["class_weight"] = None if conf.class_weight == "none" else conf.class_weight
    if fit == LINEAR_SVM:
        # one-vs-rest; the dual solver visits utterances in random order
        return LinearSVC(dual="auto", random_state=0, **options)
    return LogisticRegression(**options)


def fit_factor(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the inverse temperature that turns decision values into probabilities.

    It minimises the cross-entropy of softmax(a f(x)) over a > 0. As in Platt (1999) the targets
    are smoothed by one more utterance of every class, (N [c = y] + 1) / (N + C); otherwise the
    factor would grow without bound if all decisions are right.

    Args:
        logits: f(x), (N, C).
        labels: y, (N,).
    """
    n, count = logits.shape
    targets = (n * np.eye(count)[labels] + 1) / (n + count)

    def loss(log_factor: float) -> float:
        return -(targets * log_softmax(np.exp(log_factor) * logits, axis=1)).sum() / n

    return float(np.exp(minimize_scalar(loss, bounds=np.log(FACTORS), method="bounded").x))


def _stats(linear: Linear, split: Split) -> dict[str, float]:
    logits = linear.logits(split.vectors)
    wa, ua = _accuracies(logits, split.labels, len(linear.bias))
    loss = _loss(logits, split.labels)
    return {"loss_er": loss, "loss": loss, "WA": wa, "UA": ua}


def _accuracies(logits: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[float, float]:
    counts = torch.zeros(num_classes, num_classes)
    index = torch.from_numpy(labels), torch.from_numpy(logits.argmax(axis=1))
    return wa_ua(counts.index_put_(index, torch.ones(len(labels)), accumulate=True))


def _loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood."""
    return -float(log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def _write(args: argparse.Namespace, model: SERModel, history: list[dict[str, Any]]) -> None:
    output_dir = Path(args.output_dir)
    with atomic_write(output_dir / "config.yaml") as stream:
        yaml_no_alias_safe_dump(vars(args), stream, indent=4, sort_keys=False)
    with atomic_write(output_dir / PARAMETERS) as stream:
        json.dump(count_parameters(model), stream)
    with atomic_write(output_dir / HISTORY) as stream:
        json.dump(history, stream, indent=1)
    with atomic_write(output_dir / "latest.pth", "wb") as stream:
        torch.save(model.state_dict(), stream)
