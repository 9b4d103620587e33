"""Trained models on what they were not meant for: other corpora, and worse recordings.

**Other corpora.** Each fold's model classifies the utterances of the other corpus with an emotion
that both have; probabilities are averaged over the folds, restricted to the shared emotions and
renormalised. Nothing is trained. WA and UA are means over the test speakers, as in
leave-one-speaker-out, with the same intervals.

**Worse recordings.** The experiment's own test sets, each fold's model on its held-out speaker,
under the conditions of ser/scoring/degrade.py; the change of UA has an interval that is paired over
speakers. ``clean`` is the same computation without a change.

Probabilities are at each fold's temperature, where it has one. Results are added one by one to
crosscorpus.json and robustness.json of the experiment; those that the present models have made from
the present data are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser.console import progress
from ser.data.audio import FULL_SCALE, SAMPLE_RATE
from ser.data.tables import read_lines, read_table
from ser.errors import UserError
from ser.files import atomic_write
from ser.models.inputs import load_input, make_batches, pad, to_input
from ser.provenance import git_commit
from ser.scoring.degrade import CLEAN, CONDITIONS, Degrader, parse
from ser.scoring.infer import BuildModel, FoldModels, model_config, open_device
from ser.scoring.predictions import FILE_NAME, Prediction, read_predictions, write_predictions
from ser.scoring.score import decisions_by_speaker
from ser.scoring.slices import read_utterance_table
from ser.scoring.uncertainty import from_decisions, measure, score_intervals
from ser.stage import file_digest
from ser.training.experiment import (
    NOT_INFERRED,
    SCORED,
    Experiment,
    model_state,
    open_experiment,
)

if TYPE_CHECKING:
    import torch

CROSSCORPUS, ROBUSTNESS = "crosscorpus.json", "robustness.json"
BATCH_SECONDS = 60.0  # padded
STRICT = "strict"  # how scores are averaged: over speakers, who are strangers to the model
Record = dict[str, Any]  # tag, system, corpus, labels, and by name what was tested
Change = Callable[[str, np.ndarray], np.ndarray]


def beside(exp_dir: Path | str) -> Path:
    """dump/<corpus> beside the exp/ that an experiment is in."""
    exp_dir = Path(exp_dir).resolve()
    return exp_dir.parents[2] / "dump" / exp_dir.parent.name


def crosscorpus(
    exp_dir: Path | str,
    dump_dirs: Iterable[Path | str],
    ngpu: int = 0,
    nj: int = 0,
    build_model: BuildModel | None = None,
) -> Record:
    """Test an experiment on other corpora, and its own folds' predictions on its own corpus.

    Args:
        exp_dir: exp/<corpus>/<tag>, with dump/<corpus> beside exp/.
        dump_dirs: dump/<corpus> of the others; of its own corpus nothing is computed.
        ngpu, nj, build_model: As in ``infer_folds``.

    Returns:
        The contents of crosscorpus.json: ``tests`` by the name of the corpus.

    Raises:
        UserError: no trained fold, no such dump, or fewer than two shared emotions.
    """
    experiment = open_experiment(exp_dir, beside(exp_dir))
    folds, others = _trained(experiment), [Path(d) for d in dump_dirs]
    shared = {d: _shared(experiment, d) for d in others if d.name != experiment.run["corpus"]}
    path = experiment.exp_dir / CROSSCORPUS
    record = _open_record(path, experiment)
    models = {fold: model_state(experiment.exp_dir / fold) for fold in folds}
    for dump_dir, labels in shared.items():
        tables = [dump_dir / name for name in ("utt2emo", "utt2spk", "utt2hash")]
        made_from = {"models": models, "data": file_digest(*tables), "labels": labels}
        if record["tests"].get(dump_dir.name, {}).get("made_from") == made_from:
            progress(f"crosscorpus: {experiment.exp_dir.name} on {dump_dir.name}: already done")
            continue
        rows = _classify(experiment, folds, dump_dir, labels, open_device(ngpu, nj), build_model)
        write_predictions(path.with_suffix(f".{dump_dir.name}.tsv"), labels, rows)
        entry = _entry({"": rows}, read_table(dump_dir / "utt2spk"), labels)
        record["tests"][dump_dir.name] = {"labels": labels, "made_from": made_from, **entry}
        _write(path, record)
    record["tests"][str(experiment.run["corpus"])] = own_tests(experiment, experiment.labels)
    _write(path, record)
    return record


def cross_matrix(
    exp_dirs: Sequence[Path | str], dump_dirs: Sequence[Path | str], ngpu: int = 0, nj: int = 0
) -> list[Record]:
    """``crosscorpus`` of several experiments.

    A test has as ``there`` what the same system scores on the same utterances and emotions if it
    was trained on that corpus, where such an experiment is among them.
    """
    records = [crosscorpus(exp_dir, dump_dirs, ngpu, nj) for exp_dir in exp_dirs]
    for exp_dir, record in zip(exp_dirs, records, strict=True):
        for corpus, test in record["tests"].items():
            for other, known in zip(exp_dirs, records, strict=True):
                if (known["system"], known["corpus"]) == (record["system"], corpus) != (
                    record["system"], record["corpus"]
                ):  # fmt: skip
                    there = open_experiment(other, beside(other))
                    found = own_tests(there, [e for e in there.labels if e in test["labels"]])
                    test["there"] = {"tag": known["tag"], **found}
        _write(Path(exp_dir) / CROSSCORPUS, record)
    return records


def own_tests(experiment: Experiment, labels: Sequence[str]) -> dict[str, Any]:
    """The scored folds' predictions among ``labels``, of utterances with these emotions."""
    folds = {}
    for fold in (f for f in experiment.folds if experiment.state(f) == SCORED):
        path, references = experiment.exp_dir / fold / FILE_NAME, experiment.references(fold)
        rows = read_predictions(path, experiment.labels, references)
        own = [p for p in rows if p.ref in labels]
        probs = np.array([p.probs for p in own]).reshape(len(own), -1)
        names = [(p.utt_id, p.ref) for p in own]
        folds[fold] = _restrict(names, probs, experiment.labels, labels)
    if not folds:
        raise UserError(
            f"{experiment.exp_dir}: none of its folds is scored; score it: ./run.sh --stage 5 "
            "--stop-stage 5 with the same options"
        )
    entry = _entry(folds, read_table(experiment.dump_dir / "utt2spk"), labels)
    return {"labels": list(labels), **entry}


def robustness(
    exp_dir: Path | str,
    conditions: Sequence[str] = (),
    ngpu: int = 0,
    nj: int = 0,
    build_model: BuildModel | None = None,
) -> Record:
    """Test an experiment's folds on their own test sets under ``conditions``; all when empty.

    Returns:
        The contents of robustness.json: ``tests`` by condition, ``clean`` among them.

    Raises:
        UserError: no trained fold, or a condition that there is not.
    """
    experiment = open_experiment(exp_dir, beside(exp_dir))
    wanted = dict.fromkeys((CLEAN, *(conditions or CONDITIONS)))
    for condition in wanted:
        parse(condition)
    folds, path = _trained(experiment), experiment.exp_dir / ROBUSTNESS
    record = _open_record(path, experiment)
    wavs = read_table(experiment.dump_dir / "wav.scp")
    utt2spk = read_table(experiment.dump_dir / "utt2spk")
    degrade = Degrader(utt2spk, lambda utt: load_input(wavs[utt]).astype(np.float64))
    made_from = {fold: experiment.made_from(fold) for fold in folds}
    models = FoldModels(build_model, open_device(ngpu, nj), keep=False)
    for condition in wanted:
        if record["tests"].get(condition, {}).get("made_from") == made_from:
            progress(f"robustness: {experiment.exp_dir.name}: {condition}: already done")
            continue
        rows = {}
        for fold in folds:
            model = models.load(*_files(experiment, fold))
            references = experiment.references(fold)
            samples = read_table(experiment.fold_list(fold, "test.shape"))
            lengths = {utt: int(samples[utt]) for utt in references}
            where = f"robustness: {condition}, fold {fold}"
            vectors = _pooled(
                model, wavs, lengths, experiment.feats_type, where,
                lambda utt, speech, condition=condition: degrade(condition, utt, speech),
            )  # fmt: skip
            probs = _probabilities(model, vectors, experiment.temperature(fold))
            rows[fold] = _restrict(
                list(references.items()), probs, experiment.labels, experiment.labels
            )
        record["tests"][condition] = {
            "made_from": made_from, **_entry(rows, utt2spk, experiment.labels)
        }  # fmt: skip
        _write(path, record)
    return record


def _trained(experiment: Experiment) -> list[str]:
    """The folds whose training is finished."""
    found = [f for f in experiment.folds if experiment.state(f) in (SCORED, NOT_INFERRED)]
    if not found:
        raise UserError(
            f"{experiment.exp_dir}: none of its folds is trained; train first: ./run.sh --stage 4 "
            "--stop-stage 5 with the same options"
        )
    return found


def _shared(experiment: Experiment, dump_dir: Path) -> list[str]:
    """The emotions of the experiment that a corpus has too, in class order."""
    for name in ("emotions", "utt2emo", "utt2spk", "utt2hash", "wav.scp", "utt2num_samples"):
        if not (dump_dir / name).is_file():
            raise UserError(
                f"--on {dump_dir}: there is no {dump_dir / name}; expected dump/<corpus>, which "
                "./run.sh --corpus NAME --stop-stage 3 makes"
            )
    theirs = read_lines(dump_dir / "emotions")
    shared = [emotion for emotion in experiment.labels if emotion in theirs]
    if len(shared) < 2:
        raise UserError(
            f"--on {dump_dir}: its emotions ({', '.join(theirs)}) and those of "
            f"{experiment.exp_dir} ({', '.join(experiment.labels)}) share "
            f"{shared[0] if shared else 'none'}; there is nothing to decide between: "
            "map them to the same names (label_map in corpus.yaml)"
        )
    return shared


def _classify(
    experiment: Experiment,
    folds: Sequence[str],
    dump_dir: Path,
    labels: Sequence[str],
    device: str,
    build_model: BuildModel | None,
) -> list[Prediction]:
    """The mean of the folds' models on the utterances of a corpus with one of ``labels``.

    Folds that differ in nothing but the emotion head (S0, S14) encode an utterance once.
    """
    import torch

    from ser.models.layer_cache import fingerprint

    names = [(u, e) for u, e in read_table(dump_dir / "utt2emo").items() if e in labels]
    utts = [utt for utt, _ in names]
    wavs = read_utterance_table(dump_dir / "wav.scp", utts)
    samples = read_utterance_table(dump_dir / "utt2num_samples", utts)
    lengths = {utt: int(samples[utt]) for utt in utts}
    config = model_config(experiment.exp_dir / folds[0] / "config.yaml")
    models = FoldModels(build_model, device, keep=config.get("fit") == "gradient")
    known, vectors, total = None, None, 0.0
    for number, fold in enumerate(folds, start=1):
        model = models.load(*_files(experiment, fold))
        network = fingerprint(torch.nn.ModuleList([model.frontend, model.encoder, model.pooling]))
        if network != known:
            vectors = None  # before the next ones take memory
            where = f"crosscorpus: {experiment.exp_dir.name} on {dump_dir.name}"
            where += f", fold {fold} ({number} of {len(folds)})"
            vectors = _pooled(model, wavs, lengths, experiment.feats_type, where)
            known = network
        total = total + _probabilities(model, vectors, experiment.temperature(fold))
    return _restrict(names, total / len(folds), experiment.labels, labels)


def _files(experiment: Experiment, fold: str) -> tuple[Path, Path]:
    directory = experiment.exp_dir / fold
    return directory / "config.yaml", directory / model_state(directory)["model"]


def _pooled(
    model: Any,
    wavs: Mapping[str, str],
    lengths: Mapping[str, int],
    feats_type: str,
    where: str,
    change: Change | None = None,
) -> torch.Tensor:
    """What the emotion head reads of each utterance of ``lengths``, (N, P) on the CPU."""
    import torch

    def load(utt: str) -> np.ndarray:
        speech = load_input(wavs[utt])
        if change is not None:
            speech = change(utt, speech.astype(np.float64))
        speech = np.rint(speech * FULL_SCALE).clip(-FULL_SCALE, FULL_SCALE - 1)
        return to_input(speech.astype(np.int16), feats_type)

    device, vectors = model.emotion_head.weight.device, {}
    for batch in make_batches(lengths, BATCH_SECONDS * SAMPLE_RATE):
        speech, counts = pad([load(utt) for utt in batch])
        with torch.inference_mode():
            pooled = model.encode(speech.to(device), counts).pooled.cpu()
        vectors.update(zip(batch, pooled, strict=True))
        progress(f"{where}: {len(vectors)} of {len(lengths)} utterances")
    return torch.stack([vectors[utt] for utt in lengths])


def _probabilities(model: Any, vectors: torch.Tensor, temperature: float | None) -> np.ndarray:
    """(N, P) -> (N, C)."""
    import torch

    with torch.inference_mode():
        logits = model.emotion_head(vectors.to(model.emotion_head.weight.device)).double()
        return (logits / (temperature or 1)).softmax(dim=-1).cpu().numpy()


def _restrict(
    names: Sequence[tuple[str, str]],
    probs: np.ndarray,
    emotions: Sequence[str],
    labels: Sequence[str],
) -> list[Prediction]:
    """(N, C) probabilities of ``emotions`` as predictions among ``labels``; (id, reference)."""
    probs = probs[:, [emotions.index(label) for label in labels]] + 1e-30
    probs = probs / probs.sum(axis=1, keepdims=True)
    return [
        Prediction(utt, ref, labels[int(row.argmax())], tuple(row.tolist()))
        for (utt, ref), row in zip(names, probs, strict=True)
    ]


def _entry(
    folds: Mapping[str, Sequence[Prediction]], utt2spk: Mapping[str, str], labels: Sequence[str]
) -> dict[str, Any]:
    """All decisions by speaker, and WA and UA, means over them, with their intervals."""
    speakers: dict[str, list[Prediction]] = {}
    for p in (p for rows in folds.values() for p in rows):
        speakers.setdefault(utt2spk[p.utt_id], []).append(p)
    entries = decisions_by_speaker(dict(sorted(speakers.items())), utt2spk, labels)
    return {"speakers": entries, **summary(entries, len(labels))}


def summary(speakers: list[Mapping[str, Any]], classes: int) -> dict[str, Any]:
    """WA and UA with 95% intervals; ``largest``, the share of the most frequent emotion."""
    trials = from_decisions([speakers], classes, STRICT)
    found, bounds = measure(trials), score_intervals(trials)
    scores: dict[str, Any] = {"n": len(trials.label), "num_speakers": trials.speakers}
    for name in ("wa", "ua"):
        scores[name] = found[name].item()
        scores[f"{name}_ci"] = None if bounds[name] is None else bounds[name][0].tolist()
    return scores | {"largest": float(np.bincount(trials.label).max() / len(trials.label))}


def _open_record(path: Path, experiment: Experiment) -> Record:
    """What is there of an experiment's record."""
    try:
        tests = json.loads(path.read_text(encoding="utf-8"))["tests"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        tests = {}
    run = experiment.run
    system = run.get("system") or Path(str(run["config"])).stem.removeprefix("train_")
    return {
        "tag": experiment.exp_dir.resolve().name,
        "system": system,
        "corpus": str(run["corpus"]),
        "protocol": str(run["protocol"]),
        "labels": experiment.labels,
        "folds": f"{len(_trained(experiment))} of {len(experiment.folds)}",
        "commit": git_commit(),
        "tests": tests,
    }


def _write(path: Path, record: Record) -> None:
    with atomic_write(path) as stream:
        json.dump(record, stream, indent=1, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
