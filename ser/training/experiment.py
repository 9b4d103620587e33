"""Access of stages 5 and 6 to an experiment directory, exp/<corpus>/<tag>.

Stage 4 writes ``run.yaml`` (the requested settings) to the experiment, and to every finished fold
``config.yaml``, the model files, ``run.json`` (which model file to use, epochs, seconds) and the
done-marker. Stage 5 adds ``predictions.tsv`` and ``.predictions.done``, which records what the
predictions were made from, so that a retrained fold is inferred again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ser.data.audit import training_list
from ser.data.labels import RATERS, Targets, label_path
from ser.data.tables import read_lines, read_table
from ser.errors import UserError, one_line
from ser.files import atomic_write
from ser.lang.units import token_tables
from ser.stage import MARKER, file_digest, read_marker, require_done

if TYPE_CHECKING:
    import torch

NETWORK, UNITS, PREDICTIONS = "config.yaml", "units.txt", "predictions.tsv"
HISTORY = "history.json"  # statistics of a fold's epochs
# Keys of ESPnet's config.yaml that define the model; the inventories of heads are elsewhere.
NETWORK_KEYS = (
    "emotions",
    "token_type",
    "feats_type",
    "aux_conf",
    "model_conf",
    "frontend",
    "frontend_conf",
    "encoder",
    "encoder_conf",
    "pooling",
    "pooling_conf",
)
# Subfolders of a fold for phases that may precede its training, see training/heads_first.py.
PHASES = UNTAGGED, HEADS = "untagged", "heads"
PREDICTIONS_MARKER = ".predictions.done"
LAYER_CACHE = "layers"  # folder in dump/<corpus>: cached outputs of frozen layers

SCORED = "scored"
NOT_INFERRED = "trained, not inferred"
NOT_FINISHED = "training not finished"
NOT_TRAINED = "not trained"
OTHER_SETTINGS = "trained with other settings"


@dataclass
class Experiment:
    """One system on one corpus under one protocol: its folds, labels and references."""

    exp_dir: Path
    dump_dir: Path
    run: dict[str, Any]  # run.yaml
    folds: list[str]  # every fold of the protocol, in its order
    labels: list[str]  # the corpus's emotions, in class order
    emotions: dict[str, str]  # utterance -> reference emotion

    @property
    def feats_type(self) -> str:
        """Input of the frontend, such as raw or fbank (``--feats-type``)."""
        return str(self.run.get("feats_type") or "raw")

    @property
    def token_type(self) -> str:
        """Units of the auxiliary CTC head."""
        return str(self.run.get("token_type") or "tagged_class")

    @property
    def label_tables(self) -> dict[str, Targets]:
        """Table of each auxiliary label or value head, by the head's name."""
        return {head: table for head, table in self._tables.items() if head != RATERS}

    @property
    def input_scp(self) -> Path:
        """The table of the model's input: waveforms, or features of ``feats_type``."""
        if self.feats_type == "raw":
            return self.dump_dir / "wav.scp"
        return self.dump_dir / self.feats_type / "feats.scp"

    @property
    def text(self) -> Path:
        """The table of reference units."""
        return self.dump_dir / token_tables(self.token_type)[0]

    @property
    def raters(self) -> Path:
        """The table of each rater's labels, which need not exist."""
        return label_path(self._tables.get(RATERS, Targets("utt2raters")).table, self.dump_dir)

    @property
    def _tables(self) -> dict[str, Targets]:
        return _label_tables((self.run.get("settings") or {}).get("data") or {})

    def fold_list(self, fold: str, name: str = "test") -> Path:
        """The file that lists a fold's utterances."""
        return self.dump_dir / "folds" / str(self.run["protocol"]) / fold / name

    def training_list(self, fold: str) -> Path:
        """The file that lists a fold's training utterances."""
        return training_list(self.fold_list(fold, ""), soft=RATERS in self._tables)

    def references(self, fold: str, split: str = "test") -> dict[str, str]:
        """The utterances of a fold's split and their reference emotions."""
        path = self.fold_list(fold, split)
        utterances = read_lines(path)
        unknown = [u for u in utterances if self.emotions.get(u) not in self.labels]
        if unknown or not utterances:
            what = f"no emotion known for {unknown[0]}" if unknown else "no utterances"
            raise UserError(f"{path}: {what}; run stage 3 again: ./run.sh --stage 3 --stop-stage 3")
        return {utt_id: self.emotions[utt_id] for utt_id in utterances}

    def made_from(self, fold: str) -> dict[str, Any]:
        """Everything that determines a fold's predictions: ``model_state`` and its input."""
        return {
            **model_state(self.exp_dir / fold),
            "input": file_digest(
                self.fold_list(fold),
                self.input_scp,
                self.dump_dir / "emotions",
                self.dump_dir / "utt2emo",
            ),
        }

    def state(self, fold: str) -> str:
        """Progress of a fold: one of the five states above."""
        fold_dir = self.exp_dir / fold
        trained_with = read_marker(fold_dir)
        if trained_with is None:
            return NOT_FINISHED if fold_dir.is_dir() else NOT_TRAINED
        if trained_with != self.run.get("settings"):
            return OTHER_SETTINGS  # other folds were retrained with --overwrite
        if not (fold_dir / PREDICTIONS).is_file():
            return NOT_INFERRED
        fresh = read_inferred(self.exp_dir / fold).get("made_from") == self.made_from(fold)
        return SCORED if fresh else NOT_INFERRED

    def units_head(self, fold: str) -> str | None:
        """The auxiliary head whose units the predictions hold; None if the model has none."""
        return read_inferred(self.exp_dir / fold).get("units_head")

    def temperature(self, fold: str) -> float | None:
        """Temperature that divides the fold's logits; None without validation speakers."""
        return read_temperature(self.exp_dir / fold)

    def mark_inferred(
        self,
        fold: str,
        made_from: dict[str, Any],
        head: str | None,
        temperature: float | None = None,
    ) -> None:
        """Record what the fold's predictions were made from; call it after writing them."""
        content = {"made_from": made_from, "units_head": head, "temperature": temperature}
        with atomic_write(self.exp_dir / fold / PREDICTIONS_MARKER) as stream:
            json.dump(content, stream, indent=1)
            stream.write("\n")

    def require_folds(self, folds: Sequence[str]) -> list[str]:
        """Return ``folds``, all if empty, in the protocol's order; UserError for an unknown one."""
        return choose_folds(folds, self.folds, f"the folds of protocol {self.run['protocol']}")


def choose_folds(folds: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """Return those of ``known`` that are among ``folds``, or all; UserError for an unknown one."""
    unknown = [fold for fold in folds if fold not in known]
    if unknown:
        raise UserError(
            f"--folds: {' '.join(unknown)}: not among {what}; choose from: {' '.join(known)}"
        )
    return [fold for fold in known if not folds or fold in folds]


def data_state(
    dump_dir: Path, protocol: str, token_type: str, labels: Mapping[str, Targets] | None = None
) -> dict[str, Any]:
    """Digests of a training's data, stored in its settings to detect later changes.

    ``labels`` is the table of each auxiliary label or value head, by the head's name.
    """
    names = ("emotions", "utt2emo", "utt2num_samples", *token_tables(token_type))
    state = {
        "tables": file_digest(*(dump_dir / name for name in names)),
        "protocol": protocol,
        "folds": require_done(dump_dir / "folds" / protocol, 3, "the folds"),
    }
    if labels:
        state["labels"] = {
            head: {"table": table, "sha256": _digest(label_path(table, dump_dir))}
            | ({} if limits is None else {"limits": list(limits)})
            for head, (table, limits) in labels.items()
        }
    return state


def _digest(path: Path) -> str:
    return file_digest(path) if path.is_file() else "no such file"


def _label_tables(data: Mapping[str, Any]) -> dict[str, Targets]:
    heads = (data.get("labels") or {}).items()
    return {head: Targets(known["table"], known.get("limits")) for head, known in heads}


def open_experiment(exp_dir: Path | str, dump_dir: Path | str) -> Experiment:
    """Open the experiment in ``exp_dir`` on the corpus in ``dump_dir``.

    Raises:
        UserError: no run.yaml from stage 4, no folds of its protocol from stage 3, or the data
            have changed since training.
    """
    exp_dir, dump_dir = Path(exp_dir), Path(dump_dir)
    run = read_run(exp_dir)
    folds = dump_dir / "folds" / str(run["protocol"]) / "folds"
    for path in (folds, dump_dir / "emotions", dump_dir / "utt2emo"):
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; make it first: ./run.sh --stage 3 --stop-stage 3 "
                f"--protocol {run['protocol']}"
            )
    trained_on = (run.get("settings") or {}).get("data")
    token_type = str(run.get("token_type") or "tagged_class")
    if trained_on:
        labels = _label_tables(trained_on)
        if trained_on != data_state(dump_dir, str(run["protocol"]), token_type, labels):
            raise UserError(
                f"{exp_dir}: trained on other data than {dump_dir} holds now (another corpus, "
                "other --emotions, other units, another table of an auxiliary head); make those "
                "data again with stages 1 to 3, or train on the new ones: ./run.sh --stage 4 with "
                "another --tag or --overwrite true"
            )
    return Experiment(
        exp_dir=exp_dir,
        dump_dir=dump_dir,
        run=run,
        folds=read_lines(folds),
        labels=read_lines(dump_dir / "emotions"),
        emotions=read_table(dump_dir / "utt2emo"),
    )


def read_fold_run(fold_dir: Path) -> dict[str, Any]:
    """Read run.json of a finished fold.

    Raises:
        UserError: run.json is absent, is not JSON or does not name an existing model file, or
            there is no config.yaml.
    """
    path = fold_dir / "run.json"
    cure = f"train this fold again: ./run.sh --stage 4 --stop-stage 4 --folds {fold_dir.name}"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as err:
        raise UserError(f"{path}: {err.__class__.__name__}: {err}; {cure}") from None
    model = run.get("inference_model")
    if not model or not (fold_dir / model).is_file():
        raise UserError(f"{path}: inference_model {model!r} is not a file there; {cure}")
    if not (fold_dir / NETWORK).is_file():
        raise UserError(f"{fold_dir / NETWORK}: no such file; {cure}")
    return run


def read_inferred(fold_dir: Path) -> dict[str, Any]:
    """Read what ``mark_inferred`` wrote for a fold; empty if unreadable."""
    try:
        return json.loads((fold_dir / PREDICTIONS_MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def read_temperature(fold_dir: Path) -> float | None:
    """Temperature of a fold's current model, if stage 5 has fitted one."""
    return read_inferred(fold_dir).get("temperature") if is_inferred(fold_dir) else None


def is_inferred(fold_dir: Path) -> bool:
    """Whether a fold's current model is the one that stage 5 has tested."""
    tested = read_inferred(fold_dir).get("made_from") or {}
    return all(tested.get(key) == value for key, value in model_state(fold_dir).items())


def history_so_far(directory: Path) -> list[dict[str, Any]]:
    """Epochs in the history of a fold or of one of its phases; empty if it cannot be read yet."""
    try:
        return json.loads((directory / HISTORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []


def model_state(fold_dir: Path) -> dict[str, Any]:
    """Identify the model that stage 5 tests a fold with, to detect retraining.

    The digest is the one recorded by stage 4, since hashing ten checkpoints of 400 MB would take
    longer than inference on a GPU. File times are not included: copies are as good.
    """
    run = read_fold_run(fold_dir)
    return {
        "model": run["inference_model"],
        "model_size": fold_model_file(fold_dir).stat().st_size,
        "model_sha256": run.get("model_sha256"),
        "config": file_digest(fold_dir / "config.yaml"),
    }


def read_run(exp_dir: Path) -> dict[str, Any]:
    """Read run.yaml of ``exp_dir``; UserError if it is absent or incomplete."""
    cure = "train first: ./run.sh --stage 4 --stop-stage 4 with the same options"
    return _read_yaml(exp_dir / "run.yaml", ("corpus", "protocol", "config", "seed"), cure)


def _read_yaml(path: Path, keys: Sequence[str], cure: str) -> dict[str, Any]:
    """Read a YAML file that has all of ``keys``; UserError, which ends in ``cure``, if not."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {cure}") from None
    except (OSError, ValueError, yaml.YAMLError) as err:
        what = f"{type(err).__name__}: {one_line(err)}"
        raise UserError(f"{path}: cannot be read ({what}); {cure}") from None
    lacking = [key for key in keys if not isinstance(content, dict) or key not in content]
    if lacking:
        raise UserError(f"{path}: {', '.join(lacking)} not found in it; {cure}")
    return content


def finished_folds(exp_dir: Path) -> list[str]:
    """Folds of an experiment that are trained with the settings of its run.yaml, in C order."""
    settings = read_run(exp_dir).get("settings")
    directories = sorted(path.parent for path in exp_dir.glob(f"*/{MARKER}"))
    return [path.name for path in directories if read_marker(path) == settings]


def read_fold_config(fold_dir: Path) -> dict[str, Any]:
    """Read config.yaml of a trained fold; UserError if it cannot be read."""
    path = fold_dir / NETWORK
    cure = f"remove {fold_dir} and train the fold again with --stage 4"
    return _read_yaml(path, NETWORK_KEYS, cure)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the state dict in a fold's model file; UserError if it cannot be read."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as err:  # damaged bytes make the unpickler fail in any way
        raise UserError(
            f"{path}: not a readable model file ({err.__class__.__name__}: damaged, or with more "
            f"than tensors); remove {path.parent} and train the fold again with --stage 4"
        ) from err


def fold_model_file(fold_dir: Path) -> Path:
    """The model file that stage 5 tests a fold with."""
    return fold_dir / read_fold_run(fold_dir)["inference_model"]


def find_units(exp_dir: Path, config: Mapping[str, Any]) -> Path:
    """Find units.txt of an experiment, whose path is relative to the recipe, or raise UserError."""
    path = Path(str(config.get("units") or UNITS))
    found = find_file(exp_dir, path)
    if found is not None:
        return found
    raise UserError(
        f"{path}: no such file, which names the units of {exp_dir}; make it again: ./run.sh "
        "--stage 2 --stop-stage 3 with the options of this experiment"
    )


def find_file(exp_dir: Path, path: Path) -> Path | None:
    """Find the file at ``path`` in the recipe that contains ``exp_dir``; None if missing."""
    candidates = [path, *(parent / path for parent in exp_dir.resolve().parents)]
    return next((candidate for candidate in candidates if candidate.is_file()), None)
