"""ESPnet2 task: builds the objects of a training from its arguments."""

import ser.training.espnet_import  # noqa: F401, I001 (has to come first)

import argparse
import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.asr.encoder.rnn_encoder import RNNEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.samplers.abs_sampler import AbsSampler
from espnet2.tasks.abs_task import AbsTask, IteratorOptions, optim_classes
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.class_choices import ClassChoices
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.train.preprocessor import AbsPreprocessor
from espnet2.utils.get_default_kwargs import get_default_kwargs
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import int_or_none, str2bool, str_or_none

from ser.training.batches import JitteredSampler
from ser.data.audio import FULL_SCALE
from ser.data.labels import RATERS, read_raters
from ser.data.tables import read_table
from ser.errors import UserError
from ser.models.heads import IGNORE_ID, UNITS, read_heads
from ser.models.base import AbsEncoder, AbsFrontend
from ser.models.build import build_model
from ser.models.pooling import AbsPooling
from ser.models.registry import find_classes
from ser.models.model import SERModel
from ser.training.optim import parameter_groups
from ser.training.trainer import SERTrainer
from ser.lang.units import read_units, read_untagged, tag_stripper

GRADIENT, LOGISTIC_REGRESSION, LINEAR_SVM = "gradient", "logistic_regression", "linear_svm"
FITS = (GRADIENT, LOGISTIC_REGRESSION, LINEAR_SVM)

AbsESPnetModel.register(SERModel)  # same interface, but prediction needs no ESPnet
AbsSampler.register(JitteredSampler)
AbsEncoder.register(RNNEncoder)
AbsEncoder.register(TransformerEncoder)

frontend_choices = ClassChoices(
    "frontend", find_classes(AbsFrontend, "Frontend"), type_check=AbsFrontend, default="hf"
)
encoder_choices = ClassChoices(
    "encoder",
    find_classes(AbsEncoder, "Encoder") | {"rnn": RNNEncoder, "transformer": TransformerEncoder},
    type_check=AbsEncoder,
    default="identity",
)
pooling_choices = ClassChoices(
    "pooling", find_classes(AbsPooling, "Pooling"), type_check=AbsPooling, default="mean"
)


# Options that SERTask adds to ESPnet's command line.
_MAPPING = {"action": NestedDictAction, "default": {}}
_OPTIONS: dict[str, dict[str, Any]] = {
    "emotions": {"type": str_or_none, "help": "The classes in index order, blank separated"},
    "units": {"type": str_or_none, "help": "units.txt of the CTC head: <unit> <id> per line"},
    "token_type": {
        "type": str,
        "default": "tagged_class",
        "help": "What the CTC head spells: tagged_class (the paper's emotion-tagged phoneme "
        "classes), class, tagged_phone, phone, char or bpe",
    },
    "untagged": {
        "type": str2bool,
        "default": False,
        "help": "Train the CTC head on its units without their tags; set by stage 4",
    },
    "bpe_size": {
        "type": int_or_none,
        "help": "With token_type bpe, the number of sentencepiece pieces (read by stage 2)",
    },
    "feats_type": {
        "type": str,
        "default": "raw",
        "help": "What the frontend reads: raw waveforms, spectrogram, fbank or mfcc features, or "
        "egemaps or compare functionals of the utterance",
    },
    "fit": {
        "type": str,
        "default": GRADIENT,
        "choices": FITS,
        "help": "How stage 4 learns: gradient, ESPnet's training; logistic_regression or "
        "linear_svm, scikit-learn's on the pooled vectors of a frozen network",
    },
    "fit_conf": {**_MAPPING, "help": "Options of logistic_regression and linear_svm"},
    "aux_conf": {
        **_MAPPING,
        "help": "Auxiliary heads by name, e.g. pr.weight=0.01 (see ser/models/heads.py)",
    },
    "aux_labels": {
        **_MAPPING,
        "help": "Table and classes of each auxiliary head of labels, or mean and standard "
        "deviation of values; set by stage 4",
    },
    "soft_targets": {
        "type": str_or_none,
        "help": "Train the emotion head on what each rater said: raters reads utt2raters of "
        "dump/<corpus>; or the path of such a table",
    },
    "lr_conf": {
        **_MAPPING,
        "help": "Factors on the learning rate: heads, fusion, layer_decay (see training/optim.py)",
    },
    "heads_first_conf": {
        **_MAPPING,
        "help": "Train heads and layer weights on the frozen encoder first: untagged_epoch, "
        "max_epoch, lr, batch_size (see ser/training/heads_first.py)",
    },
    "length_jitter": {
        "type": float,
        "default": 0.0,
        "help": "With batch_type sorted, cut the training's batches anew in every epoch, from "
        "lengths disturbed by this share (see ser/training/batches.py)",
    },
    "label_share": {
        "type": float,
        "default": 1.0,
        "help": "Share of the training speakers, drawn by the seed, whose emotions are told; the "
        "utterances of the others serve encoder: ladder without labels",
    },
    "unlabelled": {
        "type": str_or_none,
        "help": "Training utterances without label, blank separated; set by stage 4",
    },
    "class_counts": {
        "type": str_or_none,
        "help": "Training utterances of each class, blank separated; set by stage 4",
    },
    "model_conf": {
        "action": NestedDictAction,
        "default": {k: v for k, v in get_default_kwargs(SERModel).items() if k != "class_counts"},
        "help": "amp_dtype: float32 or bfloat16; class_weighting: none, balanced or "
        "effective_number; label_smoothing, dropout and beta: 0.0 to below 1; emotion_weight and "
        "focal_gamma: 0 or more",
    },
    "stated": {
        **_MAPPING,
        "help": "What the publication states for this system; shown beside our own numbers",
    },
    "paper": {
        **_MAPPING,
        "help": "Whose system it is (year, by) and a note on how its numbers were found; shown in "
        "the results",
    },
    "sweep": {
        **_MAPPING,
        "help": "Which point of which sweep this is (see training/sweep.py); shown in the results",
    },
}


class SERPreprocessor(AbsPreprocessor):
    """Scale samples, and turn labels and units into indices.

    Args:
        train: ESPnet's flag for the training set (nothing here is random).
        emotions: The classes in index order.
        unit_id: The index of each CTC unit, None when no head needs them.
        waveform: True when ``speech`` holds int16 sample values, which become [-1, 1).
        targets: For each batch entry, the values of utterances that have any, and the default of
            the others, whose dtype is used. ESPnet's own tables may not have gaps.
        unlabelled: Utterances whose emotion is withheld.
    """

    def __init__(
        self,
        train: bool,
        emotions: list[str],
        unit_id: Mapping[str, int] | None,
        waveform: bool,
        targets: Mapping[str, tuple[Mapping[str, Sequence[float]], np.ndarray]] | None = None,
        unlabelled: Collection[str] = (),
    ):
        super().__init__(train)
        self.targets, self.unlabelled = targets or {}, unlabelled
        self.emotion_id = {name: i for i, name in enumerate(emotions)}
        self.unit_id = unit_id
        self.waveform = waveform

    def __call__(self, uid: str, data: dict) -> dict[str, np.ndarray]:
        if self.waveform and "speech" in data:
            data["speech"] = data["speech"] / np.float32(FULL_SCALE)
        if "emotion" in data:
            known = uid not in self.unlabelled
            emotion = self.emotion_id[data["emotion"]] if known else IGNORE_ID
            data["emotion"] = np.array([emotion], dtype=np.int64)
        for entry, (known, unknown) in self.targets.items():
            data[entry] = np.asarray(known.get(uid, unknown), dtype=unknown.dtype)
        if "text" in data:
            if self.unit_id is None:
                del data["text"]
            else:
                ids = [self.unit_id[unit] for unit in data["text"].split()]
                data["text"] = np.array(ids, dtype=np.int64)
        return data


class SERTask(AbsTask):
    """Multi-task speech emotion recognition."""

    num_optimizers = 1
    class_choices_list = [frontend_choices, encoder_choices, pooling_choices]
    trainer = SERTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group(description="Task related")
        parser.get_default("required").append("emotions")
        for name, options in _OPTIONS.items():
            group.add_argument(f"--{name}", **copy.deepcopy(options))  # with its own mappings
        for choices in cls.class_choices_list:
            choices.add_arguments(group)

    @classmethod
    def build_collate_fn(
        cls, args: argparse.Namespace, train: bool
    ) -> Callable[
        [Collection[tuple[str, dict[str, np.ndarray]]]], tuple[list[str], dict[str, torch.Tensor]]
    ]:
        heads = read_heads(args.aux_conf).values()
        labels = [head.entry for head in heads if head.table]
        return CommonCollateFn(
            float_pad_value=0.0, int_pad_value=IGNORE_ID, not_sequence=("emotion", RATERS, *labels)
        )

    @classmethod
    def build_preprocess_fn(
        cls, args: argparse.Namespace, train: bool
    ) -> Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
        heads = read_heads(args.aux_conf)
        with_units = args.units and any(head.cls.targets == UNITS for head in heads.values())
        targets = {}
        for name, known in args.aux_labels.items():
            index = {value: i for i, value in enumerate(known["values"])}
            table = read_table(known["table"])
            found = {utt: [index[word]] for utt, word in table.items() if word in index}
            unknown = np.array([IGNORE_ID])
            if heads[name].table.limits is not None:
                found = {utt: [float(number)] for utt, number in table.items()}
                unknown = np.array([np.nan], dtype=np.float32)
            targets[heads[name].entry] = found, unknown
        unlabelled = set(args.unlabelled.split()) if train and args.unlabelled else ()
        if train and args.soft_targets:
            shares = read_raters(Path(args.soft_targets), args.emotions.split()).items()
            found = {utt: share for utt, share in shares if utt not in unlabelled}
            targets[RATERS] = found, np.zeros(len(args.emotions.split()), dtype=np.float32)
        return SERPreprocessor(
            train,
            args.emotions.split(),
            unit_inventory(args)[1] if with_units else None,
            args.feats_type == "raw",
            targets,
            unlabelled,
        )

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        return ("speech",) if inference else ("speech", "emotion")

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        return ("text",)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> SERModel:
        """Build the model; UserError as for ``ser.models.build.build_model``."""
        with_units = any(h.cls.targets == UNITS for h in read_heads(args.aux_conf).values())
        return build_model(
            args,
            unit_inventory(args)[0] if with_units else None,
            {name: known["values"] for name, known in args.aux_labels.items()},
            [int(n) for n in args.class_counts.split()] if args.class_counts else None,
        )

    @classmethod
    def build_sequence_iter_factory(
        cls, args: argparse.Namespace, iter_options: IteratorOptions, mode: str
    ) -> AbsIterFactory:
        """As in ESPnet, with batches that change in every epoch if ``length_jitter`` is set."""
        factory = super().build_sequence_iter_factory(args, iter_options, mode)
        if iter_options.train and args.length_jitter:
            (shape_file,) = iter_options.shape_files
            shapes = read_table(shape_file)
            lengths = {utt: int(shape.split(",")[0]) for utt, shape in shapes.items()}
            shard = (0, 1)
            if iter_options.distributed:
                shard = torch.distributed.get_rank(), torch.distributed.get_world_size()
                # over the epochs a process needs all utterances, not only those of its first
                factory.dataset = cls.build_dataset(args, iter_options, set(lengths))
            factory.sampler = JitteredSampler(
                lengths, iter_options.batch_size, args.length_jitter, shard
            )
        return factory

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> list[torch.optim.Optimizer]:
        if not args.lr_conf:
            return super().build_optimizers(args, model)
        if "lr" not in args.optim_conf:
            raise UserError("lr_conf: optim_conf.lr is missing, which its factors refer to")
        groups = parameter_groups(model, args.optim_conf["lr"], args.lr_conf)
        return [optim_classes[args.optim](groups, **args.optim_conf)]


def unit_inventory(args: argparse.Namespace) -> tuple[list[str], dict[str, int]]:
    """Outputs of a CTC head, and the index of each transcript unit among them."""
    units = read_units(args.units)
    if args.untagged:
        return read_untagged(units, tag_stripper(args.token_type))
    return units, {unit: i for i, unit in enumerate(units)}
