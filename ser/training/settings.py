"""Settings of a training: from a YAML and options to ESPnet's arguments and run.yaml."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet2.tasks import abs_task
from espnet2.tasks.abs_task import optim_classes

from ser.config import (
    check_arguments,
    check_config,
    encoder_confs,
    load_config,
    read_layers,
    read_numbers,
)
from ser.data.folds import LEAKY
from ser.data.labels import label_path, read_raters
from ser.data.tables import read_lines, read_table
from ser.errors import UserError
from ser.lang.units import token_tables
from ser.models.build import check_network, network_class
from ser.models.heads import UNITS, VALUES, label_tables, read_heads
from ser.models.lora import check_lora
from ser.models.registry import check_folder
from ser.models.ssl import HFFrontend
from ser.provenance import git_commit, hardware
from ser.training.declared import refuse
from ser.training.experiment import data_state
from ser.training.heads_first import read_heads_first
from ser.training.linear_fit import check_fit
from ser.training.task import GRADIENT, SERTask

BEST_ON_TEST = "best-on-test"
# Options that do not affect the result.
NOT_SETTINGS = (
    "config",
    "ngpu",
    "stated",
    "paper",
    "sweep",
    "num_workers",
    "max_cache_size",
    "log_interval",
    "use_matplotlib",
    "use_tensorboard",
    "use_wandb",
    "wandb_project",
    "wandb_id",
    "wandb_entity",
    "wandb_name",
    "wandb_model_log_interval",
    "checkpoint_seconds",
    "keep_checkpoints",
    "layer_cache",
)
# Options that this stage sets itself, fold by fold.
OWN_OPTIONS = (
    "output_dir",
    "seed",
    "ngpu",
    "resume",
    "emotions",
    "units",
    "max_cache_fd",
    "class_counts",
    "unlabelled",
    "aux_labels",
    "has_valid",
    "run_label",
    "untagged",
    "warm_start",
)


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a run of stage 4, independent of system and seed."""

    protocol: str = "strict"
    ngpu: int = 0  # GPUs per training on each node
    num_nodes: int = 1
    max_epoch: int | None = None  # replaces max_epoch of the YAML
    ssl: str | None = None  # replaces frontend_conf.model of the YAML
    extra_args: Sequence[str] = ()  # ESPnet options
    select: str = "protocol"  # or BEST_ON_TEST
    overwrite: bool = False  # retrain if an experiment has other settings

    @property
    def processes(self) -> int:
        """Number of processes of one training, on all nodes."""
        return self.num_nodes * max(self.ngpu, 1)


@dataclass
class Run:
    """Contents of run.yaml: an experiment's options, and the settings that decide its result."""

    corpus: str
    protocol: str
    config: str
    bases: list[str]
    commit: str
    hardware: Any
    seed: int
    ssl: str | None
    max_epoch: int | None
    extra_args: list[str]
    token_type: str
    feats_type: str
    stated: dict[str, Any]
    sweep: dict[str, Any] | None
    settings: dict[str, Any]
    leaky: list[str] = field(default_factory=list)  # reasons why its scores are too good
    select: str | None = None


def resolve(config: Path, options: TrainingOptions, seed: int = 1) -> argparse.Namespace:
    """Build the task's arguments from the YAML and the options.

    Raises:
        UserError: they are invalid for the task, contradictory, or need what is not installed.
    """
    parser = SERTask.get_parser()
    parser.error = refuse
    content = load_config(config)
    check_config(config, content, parser)
    for key in OWN_OPTIONS:
        if key in content:
            raise UserError(f"{config}: {key} is set by run.sh for each fold; remove the line")
    parser.set_defaults(**content)
    command = ["--seed", str(seed), "--ngpu", str(options.ngpu), *options.extra_args]
    if options.max_epoch is not None:
        command += ["--max_epoch", str(options.max_epoch)]
    if options.ssl:
        command += ["--frontend_conf", f"model={json.dumps(options.ssl)}"]
        command += ["--frontend_conf", "init=pretrained"]
    args = parser.parse_args(command)
    args.config = str(config)
    for key, value in vars(args).items():
        if isinstance(value, dict) and key != "sweep":  # which has names
            setattr(args, key, read_numbers(value))
    if options.ssl and content.get("frontend_conf", {}).get("init") == "random":
        for key in ("model_type", "config"):  # of the untrained encoder that --ssl replaces
            args.frontend_conf.pop(key, None)
    _check_parts(args, f"{config} with the options after --" if options.extra_args else str(config))
    _check_batches(args, options)
    if "best_model_criterion" in content:
        _check_criterion(config, content["best_model_criterion"][0], args.aux_conf)
    return args


def _check_parts(args: argparse.Namespace, where: str) -> None:
    """Reject options that the chosen classes do not accept, and what is not installed."""
    try:
        for conf in encoder_confs(args.frontend, args.frontend_conf):
            check_arguments("frontend_conf", HFFrontend, conf)
            check_lora(conf)
            if isinstance(conf.get("model"), str):
                check_folder(conf["model"])  # once, not fold by fold
        for choices in SERTask.class_choices_list:
            cls = choices.get_class(getattr(args, choices.name))
            check_arguments(f"{choices.name}_conf", cls, getattr(args, f"{choices.name}_conf"))
        check_network(args)
        read_heads(args.aux_conf)
        read_heads_first(args)
        check_fit(args)
        check_arguments("optim_conf", optim_classes[args.optim], args.optim_conf)
    except UserError as err:
        raise UserError(f"{where}: {err}") from None
    if args.use_wandb and abs_task.wandb is None:
        raise UserError(
            "--use_wandb true: Weights & Biases (wandb) is not installed here; pip install -r "
            "requirements-apps.txt, or leave the option out: TensorBoard logs all the same"
        )


def _check_batches(args: argparse.Namespace, options: TrainingOptions) -> None:
    """Reject impossible batches, and batches that the processes cannot divide."""
    if args.batch_size < 1:
        raise UserError(f"{args.config}: batch_size: found {args.batch_size}; expected 1 or more")
    if args.length_jitter < 0 or (args.length_jitter and args.batch_type != "sorted"):
        raise UserError(
            f"{args.config}: length_jitter: found {args.length_jitter} with batch_type "
            f"{args.batch_type}; it is a share from 0.0 on, and needs batch_type: sorted"
        )
    semi_supervised = hasattr(network_class("encoder", args.encoder), "semi_supervised")
    if not 0 < args.label_share <= 1 or semi_supervised != (args.label_share < 1):
        raise UserError(
            f"{args.config}: label_share: found {args.label_share} with encoder {args.encoder}; "
            "ladder needs utterances without labels, a share above 0 and below 1, and other "
            "encoders 1.0"
        )
    asked = f"--num-nodes {options.num_nodes} --ngpu {options.ngpu}"
    if args.batch_size < options.processes:  # processes divide every batch
        raise UserError(
            f"{args.config}: batch_size: found {args.batch_size} for {options.processes} processes "
            f"({asked}), each of which takes a part of every batch; give {options.processes} or "
            f"more and fewer batches to a step, such as -- --batch_size {2 * options.processes} "
            "--accum_grad 1"
        )
    if options.processes > 1 and args.fit != GRADIENT:
        raise UserError(
            f"{asked}: fit: {args.fit} of {args.config} takes one process, which needs seconds; "
            "use one node and no more than one GPU"
        )


def _check_criterion(config: Path, criterion: Any, aux_conf: dict[str, Any]) -> None:
    """Reject an invalid model selection criterion, which would only fail after the last epoch."""
    keys = ["loss", "loss_er", "WA", "UA", *(f"loss_{head}" for head in aux_conf)]
    keys += [f"ccc_{n}" for n, h in read_heads(aux_conf).items() if h.cls.targets == VALUES]
    expected = [("train", "valid"), keys, ("min", "max")]
    fits = isinstance(criterion, list) and len(criterion) == len(expected)
    if not fits or any(c not in known for c, known in zip(criterion, expected, strict=True)):
        raise UserError(
            f"{config}: best_model_criterion: found {criterion}; expected train or valid, one of "
            f"{', '.join(keys)}, and min or max"
        )


def describe(args: argparse.Namespace, dump_dir: Path, options: TrainingOptions) -> Run:
    """Build the contents of run.yaml for a training with ``args`` from ``resolve``.

    Raises:
        UserError: a table of ``dump_dir`` is missing, or has no transcripts for a unit head.
    """
    defaults = SERTask.get_parser().parse_args([])
    settings = {
        key: value
        for key, value in vars(args).items()
        if value != getattr(defaults, key) and key not in NOT_SETTINGS
    }
    settings["seed"] = args.seed
    if options.processes > 1:  # the split of a batch affects sums and dropout
        settings["processes"] = options.processes
    settings = plain(settings)
    _check_tables(args, dump_dir)
    tables = label_tables(args.aux_conf, args.soft_targets)
    settings["data"] = data_state(dump_dir, options.protocol, args.token_type, tables)
    leaky = LEAKY.get(options.protocol)
    run = Run(
        corpus=dump_dir.name,
        protocol=options.protocol,
        config=args.config,
        bases=[str(file) for file, _ in read_layers(args.config)[1:]],
        commit=git_commit(),
        hardware=hardware(args.ngpu),
        seed=args.seed,
        ssl=options.ssl,
        max_epoch=options.max_epoch,
        extra_args=list(options.extra_args),
        token_type=args.token_type,
        feats_type=args.feats_type,
        stated=args.stated,
        sweep=args.sweep or None,
        settings=settings,
        leaky=[f"--protocol {options.protocol}: {leaky}"] if leaky else [],
    )
    if options.select == BEST_ON_TEST:
        run.leaky.append(f"--select {BEST_ON_TEST}: the epoch was chosen by the test utterances")
        run.select = settings["select"] = BEST_ON_TEST
    return run


def _check_tables(args: argparse.Namespace, dump_dir: Path) -> None:
    """Reject a corpus without the tables that this system reads."""
    tables = ["emotions", "utt2emo", "utt2num_samples", *token_tables(args.token_type)]
    inputs = [] if args.feats_type == "raw" else [f"{args.feats_type}/feats.scp"]
    for name in tables + inputs:
        if not (dump_dir / name).is_file():
            raise UserError(
                f"{dump_dir / name}: no such file, but {args.config} has token_type "
                f"{args.token_type} and feats_type {args.feats_type}; make it first: "
                "./run.sh --stage 2 --stop-stage 3 with this --config"
            )
    _check_transcripts(args, dump_dir)
    for targets in label_tables({}, args.soft_targets).values():
        read_raters(label_path(targets.table, dump_dir), read_lines(dump_dir / "emotions"))


def _check_transcripts(args: argparse.Namespace, dump_dir: Path) -> None:
    """Reject a unit head on a corpus without transcripts: it would silently learn nothing."""
    text = dump_dir / token_tables(args.token_type)[0]
    for name, head in read_heads(args.aux_conf).items():
        if head.cls.targets == UNITS and not any(read_table(text, allow_empty=True).values()):
            raise UserError(
                f"aux_conf.{name}: a head of type {args.aux_conf[name]['type']} learns from "
                f"transcripts, but {text} holds none; give the transcripts of {dump_dir.name} "
                "with --text FILE and run stages 1 to 3 again, or choose a --config without "
                "such a head"
            )


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Convert ``settings`` to JSON types, e.g. tuples to lists."""
    return json.loads(json.dumps(settings))
