"""Test trained models out of domain: on other corpora, and on degraded recordings.

**Other corpora.** Each fold's model classifies the other corpus's utterances whose emotion both
corpora have; probabilities are averaged over the folds, restricted to the shared emotions and
renormalised. Nothing is trained. WA and UA are means over the test speakers, as in
leave-one-speaker-out, with the same intervals.

**Degraded recordings.** The experiment's own test sets, each fold's model on its held-out speaker,
under the conditions of ser/scoring/degrade.py. ``clean`` is the unmodified recording.

Probabilities are at each fold's temperature, if it has one. Results are added one by one to
crosscorpus.json and robustness.json of the experiment; those made by the current models from the
current data are kept.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser.console import progress
from ser.data.audio import FULL_SCALE, SAMPLE_RATE
from ser.data.tables import UNDECIDED, read_lines, read_table, read_undecided
from ser.errors import UserError
from ser.files import atomic_write, locked
from ser.models.inputs import load_input, make_batches, pad, to_input
from ser.provenance import git_commit
from ser.scoring.degrade import CLEAN, CONDITIONS, Degrader, spelled
from ser.scoring.infer import BuildModel, FoldModels, model_config, open_device
from ser.scoring.predictions import Prediction, write_predictions
from ser.scoring.records import CROSSCORPUS, ROBUSTNESS, read_scores
from ser.scoring.score import decisions_by_speaker
from ser.scoring.uncertainty import from_decisions, measure, score_intervals
from ser.stage import file_digest
from ser.training.experiment import Experiment, model_state, open_experiment, read_run

if TYPE_CHECKING:
    import torch

BATCH_SECONDS = 60.0  # padding included
STRICT = "strict"  # scores are averaged over speakers
Record = dict[str, Any]  # tag, system, corpus, labels, commit; tests by name


def own_dump(exp_dir: Path | str, dump_root: Path | None = None) -> Path:
    """dump/<corpus> of the corpus in run.yaml; ``dump_root`` is next to exp/ by default.

    Raises:
        UserError: no run.yaml, or no such folder.
    """
    root = dump_root or Path(exp_dir).resolve().parent.parent.parent / "dump"
    dump = root / str(read_run(Path(exp_dir))["corpus"])
    if not dump.is_dir():
        raise UserError(
            f"{dump}: no such folder, but {exp_dir} was trained on {dump.name}; give the folder "
            f"that has {dump.name} with --dump-root, or make it with ./run.sh --stop-stage 3"
        )
    return dump


def crosscorpus(
    exp_dir: Path | str,
    dump_dirs: Iterable[Path | str],
    ngpu: int = 0,
    build_model: BuildModel | None = None,
    dump_root: Path | None = None,
) -> Record:
    """Test an experiment on the corpora in ``dump_dirs``; its own scores are copied.

    Returns:
        The contents of crosscorpus.json: ``tests`` by corpus name.

    Raises:
        UserError: not scored, no such dump, or fewer than two shared emotions.
    """
    experiment, scores, record = _open(exp_dir, CROSSCORPUS, dump_root)
    path, folds = experiment.exp_dir / CROSSCORPUS, scores["folds"]["scored"]
    keys = ("labels", "speakers", "wa", "ua", "wa_ci", "ua_ci")
    record["tests"][record["corpus"]] = {k: {**scores, **scores["summary"]}[k] for k in keys}
    others = [Path(d) for d in dump_dirs if Path(d).name != record["corpus"]]
    config = model_config(experiment.exp_dir / folds[0] / "config.yaml")
    for dump_dir, labels in [(d, _shared(experiment, d)) for d in others]:
        made_from = _made_from(experiment, folds, dump_dir)
        if not _is_there(record, dump_dir.name, made_from):
            models = FoldModels(build_model, open_device(ngpu), config.get("fit") == "gradient")
            rows = _classify(experiment, folds, dump_dir, labels, models)
            write_predictions(path.with_suffix(f".{dump_dir.name}.tsv"), labels, rows)
            _add(record, path, dump_dir.name, made_from, labels, rows, dump_dir)
    _write(path, record)
    return record


def robustness(
    exp_dir: Path | str,
    conditions: Sequence[str] = (),
    ngpu: int = 0,
    build_model: BuildModel | None = None,
    dump_root: Path | None = None,
) -> Record:
    """Test an experiment's folds on their own test sets under ``conditions``; all if empty.

    Returns:
        The contents of robustness.json: ``tests`` by condition, including ``clean``.

    Raises:
        UserError: no scored fold, or an invalid condition.
    """
    wanted = dict.fromkeys((CLEAN, *map(spelled, conditions or CONDITIONS)))
    experiment, scores, record = _open(exp_dir, ROBUSTNESS, dump_root)
    path, folds = experiment.exp_dir / ROBUSTNESS, scores["folds"]["scored"]
    wavs, utt2spk = (read_table(experiment.dump_dir / name) for name in ("wav.scp", "utt2spk"))
    degrade = Degrader(utt2spk, lambda utt: load_input(wavs[utt]).astype(np.float64))
    models = FoldModels(build_model, open_device(ngpu), keep=False)
    made_from = _made_from(experiment, folds, experiment.dump_dir)
    for condition in wanted:
        if _is_there(record, condition, made_from):
            continue
        rows: list[Prediction] = []
        for fold in folds:
            model, names = models.load(*_files(experiment, fold)), experiment.references(fold)
            samples = read_table(experiment.fold_list(fold, "test.shape"))
            lengths = {utt: int(samples[utt]) for utt in names}
            where = f"robustness: {condition}, fold {fold}"
            change = functools.partial(degrade, condition)
            vectors = pooled(model, wavs, lengths, experiment.feats_type, where, change)
            probs = _probabilities(model, vectors, experiment.temperature(fold))
            rows += _decide(names, probs, experiment.labels, experiment.labels)
        _add(record, path, condition, made_from, experiment.labels, rows, experiment.dump_dir)
    return record


def _classify(
    experiment: Experiment,
    folds: Sequence[str],
    dump_dir: Path,
    labels: Sequence[str],
    models: FoldModels,
) -> list[Prediction]:
    """Average the folds' models over the utterances of a corpus with one of ``labels``.

    Folds that differ only in the emotion head (S0, S14) encode an utterance once.
    """
    import torch

    from ser.models.layer_cache import fingerprint

    undecided = read_undecided(dump_dir)
    found = read_table(dump_dir / "utt2emo").items()
    names = {u: e for u, e in found if e in labels and u not in undecided}
    samples, wavs = (read_table(dump_dir / name) for name in ("utt2num_samples", "wav.scp"))
    lengths = {utt: int(samples[utt]) for utt in names}
    known, vectors, total = None, None, 0.0
    for fold in folds:
        model = models.load(*_files(experiment, fold))
        parts = torch.nn.ModuleList([model.frontend, model.encoder, model.pooling])
        if known != (known := fingerprint(parts)):
            where = f"crosscorpus: {experiment.exp_dir.name} on {dump_dir.name}, fold {fold}"
            vectors = pooled(model, wavs, lengths, experiment.feats_type, where)
        total = total + _probabilities(model, vectors, experiment.temperature(fold))
    return _decide(names, total / len(folds), experiment.labels, labels)


def pooled(
    model: Any,
    wavs: Mapping[str, str],
    lengths: Mapping[str, int],
    feats_type: str,
    where: str,
    change: Callable[[str, np.ndarray], np.ndarray] | None = None,
) -> torch.Tensor:
    """Pooled vectors of the utterances in ``lengths``, (N, P) on the CPU."""
    import torch

    def load(utt: str) -> np.ndarray:
        speech = load_input(wavs[utt]).astype(np.float64)
        speech = np.rint((change(utt, speech) if change else speech) * FULL_SCALE)
        return to_input(speech.clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16), feats_type)

    device, vectors = model.emotion_head.weight.device, {}
    for batch in make_batches(lengths, BATCH_SECONDS * SAMPLE_RATE):
        speech, counts = pad([load(utt) for utt in batch])
        with torch.inference_mode():
            vectors |= zip(batch, model.encode(speech.to(device), counts).pooled.cpu(), strict=True)
        progress(f"{where}: {len(vectors)} of {len(lengths)} utterances")
    return torch.stack([vectors[utt] for utt in lengths])


def _probabilities(model: Any, vectors: torch.Tensor, temperature: float | None) -> np.ndarray:
    """Posteriors of pooled vectors: (N, P) -> (N, C)."""
    import torch

    with torch.inference_mode():
        logits = model.emotion_head(vectors.to(model.emotion_head.weight.device)).double()
        return (logits / (temperature or 1)).softmax(dim=-1).cpu().numpy()


def _decide(
    names: Mapping[str, str], probs: np.ndarray, emotions: Sequence[str], labels: Sequence[str]
) -> list[Prediction]:
    """Convert (N, C) probabilities of ``emotions`` to predictions among ``labels``."""
    probs = probs[:, [emotions.index(label) for label in labels]] + 1e-30
    probs = probs / probs.sum(axis=1, keepdims=True)
    return [
        Prediction(utt, ref, labels[int(row.argmax())], tuple(row.tolist()))
        for (utt, ref), row in zip(names.items(), probs, strict=True)
    ]


def _shared(experiment: Experiment, dump_dir: Path) -> list[str]:
    """Emotions that the experiment and a corpus share, in class order."""
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
            f"{shared[0] if shared else 'none'}; two are needed: give them the same names "
            "(label_map in corpus.yaml)"
        )
    return shared


def _files(experiment: Experiment, fold: str) -> tuple[Path, Path]:
    directory = experiment.exp_dir / fold
    return directory / "config.yaml", directory / experiment.made_from(fold)["model"]


def _open(
    exp_dir: Path | str, name: str, dump_root: Path | None
) -> tuple[Experiment, dict[str, Any], Record]:
    """Open an experiment, its scores, and its record so far."""
    experiment = open_experiment(exp_dir, own_dump(exp_dir, dump_root))
    scores = read_scores(experiment.exp_dir / "scores.json")
    tests = _tests(experiment.exp_dir / name)
    about = {key: scores[key] for key in ("tag", "system", "corpus", "labels")}
    if sweep := scores["sweep"]:
        about["system"] = f"{sweep['name']} {sweep['point']}"
    return experiment, scores, {**about, "commit": git_commit(), "tests": tests}


def _made_from(experiment: Experiment, folds: Sequence[str], dump_dir: Path) -> dict[str, Any]:
    tables = ["utt2emo", "utt2spk", "utt2hash", *([UNDECIDED] if read_undecided(dump_dir) else [])]
    data = file_digest(*(dump_dir / table for table in tables))
    return {"data": data, "models": {f: model_state(experiment.exp_dir / f) for f in folds}}


def _is_there(record: Record, name: str, made_from: Mapping[str, Any]) -> bool:
    return record["tests"].get(name, {}).get("made_from") == made_from


def _add(
    record: Record,
    path: Path,
    name: str,
    made_from: Mapping[str, Any],
    labels: Sequence[str],
    rows: Sequence[Prediction],
    dump_dir: Path,
) -> None:
    """Add a test to a record and its file: all decisions by speaker, WA and UA."""
    utt2spk, speakers = read_table(dump_dir / "utt2spk"), {}
    for row in sorted(rows, key=lambda row: utt2spk[row.utt_id]):
        speakers.setdefault(utt2spk[row.utt_id], []).append(row)
    entries = decisions_by_speaker(speakers, utt2spk, labels)
    trials = from_decisions([entries], len(labels), STRICT)
    found, bounds = measure(trials), score_intervals(trials)
    test = {"labels": list(labels), "speakers": entries, "made_from": made_from}
    for score in ("wa", "ua"):
        interval = None if bounds[score] is None else bounds[score][0].tolist()
        test |= {score: found[score].item(), f"{score}_ci": interval}
    record["tests"][name] = test
    _write(path, record)


def _tests(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["tests"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _write(path: Path, record: Record) -> None:
    """Write a record, with the tests that other processes have added to its file meanwhile."""
    with locked(path.parent, ""), atomic_write(path) as stream:
        record["tests"] = _tests(path) | record["tests"]
        json.dump(record, stream, indent=1, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
