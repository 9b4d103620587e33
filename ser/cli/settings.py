"""Check and complete the options of run.sh, once for all stages."""

import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ser.cluster.local import shown_gpus
from ser.data.official import OFFICIAL
from ser.errors import UserError
from ser.files import ROOT, SER, atomic_write

PROTOCOLS = ("strict", "paper", "session", *OFFICIAL, "crossed", "kfold", "prefix")
COUNTED = ("kfold", "crossed")  # protocols with a number in their name
SELECTIONS = ("protocol", "best-on-test")
PAPER_PROTOCOLS = ["paper", "strict"]


@dataclass
class Settings:
    """Completed options of run.sh. Paths are relative to the recipe or absolute."""

    corpus: str = ""
    stage: int = 0
    stop_stage: int = 0
    protocols: list[str] = field(default_factory=list)
    config: str = ""
    sweep: str = ""
    seed: str = ""  # blank separated; empty: the sweep's seeds
    folds: str = ""
    data: str = ""  # data/<corpus>
    dump: str = ""
    exp_root: str = ""
    results: str = ""
    ngpu: int = 0
    processes: int = 0  # of stages 1 and 3
    plan_only: str = "false"
    chain: str = ""  # file that lists the jobs of a detached run
    all_logs: list[str] = field(default_factory=list)  # log folders, one per protocol
    inputs: list[str] = field(default_factory=list)  # "token_type bpe_size feats_type" of stage 2
    experiments: list[str] = field(default_factory=list)  # exp/<corpus>/<tag> of each seed
    lists: list[str] = field(default_factory=list)  # a sweep's experiments, one list per protocol
    data_options: list[str] = field(default_factory=list)  # of stage 1
    train_options: list[str] = field(default_factory=list)  # of stage 4
    slurm: list[str] = field(default_factory=list)  # options for submitting stages
    plan: list[str] = field(default_factory=list)  # command that estimates the training time
    instead: list[str] = field(default_factory=list)  # command to run in place of the stages

    def as_shell(self) -> str:
        """Assignments for bash to evaluate."""
        lines = []
        for name, value in vars(self).items():
            words = value if isinstance(value, list) else [str(value)]
            quoted = " ".join(map(shlex.quote, words))
            lines.append(f"{name}=({quoted})" if isinstance(value, list) else f"{name}={quoted}")
        return "\n".join(lines)


def settle(options: SimpleNamespace) -> Settings:
    """Check the options of ``recipe`` and complete them.

    Raises:
        UserError: An invalid option; nothing has been written.
    """
    if options.paper:
        _for_the_paper(options)
    if options.plan:
        _refuse(options, ("detach", "status", "compare", "test_on"), "--plan")
        options.stop_stage = 3
    _numbers(options)
    _backend(options)
    protocol = _protocol(options)
    _names(options)
    settings = Settings(
        corpus=options.corpus,
        stage=options.stage,
        stop_stage=options.stop_stage,
        protocols=PAPER_PROTOCOLS if options.paper else [protocol],
        config=_config(options),
        sweep=_sweep(options),
        seed=options.seed,
        folds=options.folds,
        data=f"{_path(options.data_dir, 'data')}/{options.corpus}",
        dump=f"{_path(options.dump_dir, 'dump')}/{options.corpus}",
        exp_root=_path(options.exp_dir, "exp"),
        ngpu=options.ngpu,
        processes=options.nj or 2,
        plan_only=str(options.plan).lower(),
    )
    settings.results = _path(options.results, f"{settings.exp_root}/RESULTS.md")
    _experiments(settings, options)
    if options.plan:  # makes no experiment
        settings.all_logs = [f"{settings.dump}/plan/log"]
    _modes(settings, options)
    _stage_options(settings, options)
    if (options.plan or _trains(options)) and not settings.instead:
        _system(settings, options)
    if options.stage > 1 and (options.emotions or options.text):
        from ser.corpora.prepare import require_same_options

        text = Path(options.text) if options.text else None
        require_same_options(options.corpus, Path(settings.data).parent, options.emotions, text)
    return settings


def _for_the_paper(options: SimpleNamespace) -> None:
    """Set the options of --paper: a sweep in two protocols."""
    _refuse(options, ("sweep", "compare", "tag", "k"), "--paper")
    if (options.protocol, options.select) != ("strict", "protocol"):
        raise UserError(
            "--protocol and --select do not go with --paper, which runs the protocols paper and "
            "strict"
        )
    options.sweep = str(ROOT / "conf/sweeps/paper.yaml")


def _refuse(options: SimpleNamespace, names: Sequence[str], mode: str) -> None:
    """Raise UserError if an option of ``names`` is given beside ``mode``."""
    for name in names:
        if getattr(options, name):
            option = name.replace("_", "-")
            raise UserError(f"--{option} does not go with {mode}; leave one of them out")


def _numbers(options: SimpleNamespace) -> None:
    """Check stages and seeds."""
    options.stop_stage = options.stop_stage or (7 if options.stage == 7 else 6)
    if options.stage > options.stop_stage and not options.plan:
        raise UserError(f"--stage {options.stage} comes after --stop-stage {options.stop_stage}")
    if options.seed == "auto":
        options.seed = "" if options.sweep else "1"
        return
    from ser.training.sweep import read_seeds

    options.seed = " ".join(map(str, read_seeds(options.seed, "--seed")))


def _backend(options: SimpleNamespace) -> None:
    """Check the options that say where the jobs run."""
    if options.backend == "slurm":
        if shutil.which("sbatch") is None:
            raise UserError(
                "--backend slurm: found no program sbatch; run this where jobs are submitted "
                "(a cluster's login node), or on this machine alone: --backend local"
            )
        options.slurm_conf = _path(options.slurm_conf, "conf/slurm.conf")
        if not (ROOT / options.slurm_conf).is_file():
            raise UserError(f"--slurm-conf {options.slurm_conf}: no such file")
        return
    if options.backend != "local":
        raise UserError(f"--backend {options.backend}: expected local or slurm")
    if options.detach:
        raise UserError("--detach: needs --backend slurm")
    if options.num_nodes > 1:
        raise UserError(f"--num-nodes {options.num_nodes}: needs --backend slurm")
    if options.ngpu and not options.status:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        named = [n for n in (visible or "").split(",") if n.strip() and n.strip() != "-1"]
        count = len(shown_gpus() if visible is None else named)
        if options.ngpu > count:
            raise UserError(
                f"--ngpu {options.ngpu}: this machine shows {count} GPUs (nvidia-smi -L; "
                f"CUDA_VISIBLE_DEVICES={'unset' if visible is None else visible}); --ngpu 0 runs "
                "on the CPU. Where there is no nvidia-smi, CUDA_VISIBLE_DEVICES=0 names the first "
                "GPU"
            )


def _protocol(options: SimpleNamespace) -> str:
    """Check the protocol and return it with its number, such as kfold5."""
    protocol, k = options.protocol, options.k
    found = re.fullmatch(rf"({'|'.join(COUNTED)})(\d+)", protocol)
    if found and not k:  # as in run.yaml and RESULTS.md
        protocol, k = found.groups()
    if protocol not in PROTOCOLS:
        raise UserError(
            f"--protocol {protocol}: expected strict, paper, session, official, crossed or kfold "
            "(or official_shared, whose speakers are known, or the leaky prefix)"
        )
    if options.select not in SELECTIONS:
        raise UserError(f"--select {options.select}: expected protocol (or the leaky best-on-test)")
    if protocol not in COUNTED:
        if k:
            raise UserError(
                f"--k {k} is for --protocol kfold and crossed; leave it out with {protocol}"
            )
        return protocol
    if not k:
        raise UserError(f"--protocol {protocol} needs a number of folds or groups, e.g. --k 5")
    if not k.isdecimal() or int(k) < 2:
        raise UserError(f"--k {k}: expected a whole number from 2 on")
    return f"{protocol}{int(k)}"


def _names(options: SimpleNamespace) -> None:
    """Check the corpus, its location and transcripts, the tag and the folds."""
    egs = sorted(path.parent.name for path in ROOT.glob("egs/*/corpus.yaml"))
    if options.corpus not in egs:
        raise UserError(f"--corpus {options.corpus!r} is unknown; egs/ has: {' '.join(egs)}")
    if options.corpus_dir:
        if not Path(options.corpus_dir).exists():
            raise UserError(f"--corpus-dir {options.corpus_dir}: no such directory")
        options.corpus_dir = _path(options.corpus_dir)
    if options.text:
        if not Path(options.text).is_file():
            raise UserError(f"--text {options.text}: no such file")
        options.text = _path(options.text)
    if options.ssl and Path(options.ssl).is_dir():
        options.ssl = _path(options.ssl)
    tag = options.tag
    if "/" in tag or tag.startswith("-") or tag in (".", "..") or re.search(r"\s", tag):
        raise UserError(
            f"--tag {tag!r}: a tag is a name without blanks, not a path (see --exp-dir)"
        )
    options.folds = " ".join(options.folds.replace(",", " ").split())


def _config(options: SimpleNamespace) -> str:
    """The system's YAML, by default S1, or S4 for corpora without transcripts."""
    if not options.config:
        own = ROOT / "conf" / f"{options.corpus}_s1.yaml"
        if options.corpus == "casia":
            own = ROOT / "conf/train_s4_cgru_attention.yaml"
        return _path(str(own if own.is_file() else ROOT / "conf/train_s1_mtl_phoneme.yaml"))
    return _existing("--config", options.config, "conf/*.yaml")


def _sweep(options: SimpleNamespace) -> str:
    if not options.sweep:
        return ""
    if options.tag:
        raise UserError("--tag does not go with --sweep, whose points have tags of their own")
    if options.select != "protocol":
        raise UserError("--select does not go with --sweep")
    return _existing("--sweep", options.sweep, "conf/sweeps/*.yaml")


def _existing(option: str, name: str, pattern: str) -> str:
    """Find a file of the user or of the recipe."""
    path = Path(name) if Path(name).is_file() else ROOT / name
    if not path.is_file():
        known = " ".join(str(file.relative_to(ROOT)) for file in sorted(ROOT.glob(pattern)))
        raise UserError(f"{option} {name}: no such file; there are: {known}")
    return _path(str(path))


def _experiments(settings: Settings, options: SimpleNamespace) -> None:
    """Determine the experiments to run, and the inputs that stages 2 and 3 make for them."""
    from ser.config import load_config

    root, seeds = Path(settings.exp_root) / options.corpus, settings.seed.split()
    config = load_config(ROOT / settings.config)
    if not settings.sweep:
        (protocol,) = settings.protocols
        tag = options.tag
        if not tag:
            tag = f"{Path(settings.config).stem.removeprefix('train_')}_{protocol}"
            tag += "" if options.select == "protocol" else f"_{options.select}"
            tag += f"_seed{seeds[0]}" if len(seeds) == 1 else ""
        tags = [tag] if len(seeds) == 1 else [f"{tag}_seed{seed}" for seed in seeds]
        settings.experiments = [str(root / tag) for tag in tags]
        settings.inputs = [" ".join(inputs_of(config))]
        settings.all_logs = [f"{settings.experiments[0]}/log"]
        return
    from ser.training.sweep import list_experiments, load_sweep

    sweep = load_sweep(ROOT / settings.sweep, ROOT / settings.config)
    for protocol in settings.protocols:
        rows = list_experiments(
            sweep, protocol, [int(s) for s in seeds] or sweep.seeds, root / f"{sweep.name}_points"
        )
        file = root / f"{sweep.name}_{protocol}.tsv"
        with atomic_write(file) as stream:
            stream.writelines("\t".join(row) + "\n" for row in rows)
        settings.lists.append(str(file))
        settings.experiments += [str(root / row[0]) for row in rows]
        settings.inputs += [" ".join(row[3:]) for row in rows]
        first = rows[0][0] if options.stage <= 4 or not options.paper else sweep.name
        if options.stage > 4 and not options.paper:  # the log makes no experiment
            first = next((row[0] for row in rows if (ROOT / root / row[0]).is_dir()), first)
        settings.all_logs.append(f"{root / first}/log")
    settings.inputs = list(dict.fromkeys(settings.inputs))


def inputs_of(config: Mapping[str, Any]) -> tuple[str, str, str]:
    """Inputs of a system from stages 2 and 3: token_type, bpe_size and feats_type."""
    defaults = {"token_type": "tagged_class", "bpe_size": 500, "feats_type": "raw"}
    return tuple(str(config.get(key, default)) for key, default in defaults.items())


def _modes(settings: Settings, options: SimpleNamespace) -> None:
    """Set up modes that run in place of the stages, and --plan."""
    dump = ["--dump-dir", settings.dump]
    if options.plan or (options.paper and _trains(options) and not options.detach):
        settings.plan = _plan(settings, options)
    if options.paper and options.status:
        root = ["--exp-root", settings.exp_root, "--corpus", options.corpus, *dump]
        root += ["--seed", settings.seed]
        sweep = ["--sweep", settings.sweep, "--config", settings.config]
        settings.instead = [*SER, "paper", *sweep, *root]
    elif options.status:
        chosen = [f"--exp-dir={directory}" for directory in settings.experiments]
        settings.instead = [*SER, "status", *dump, "--protocol", settings.protocols[0], *chosen]
    elif options.compare:
        root = Path(settings.exp_root) / options.corpus
        compared = [f"--exp-dir={root / tag}" for tag in options.compare]
        settings.instead = [*SER, "compare", *dump, *compared]
    elif options.test_on:
        others = [f"--on={Path(settings.dump).parent / name}" for name in options.test_on]
        others.append(f"--dump-root={Path(settings.dump).parent}")
        settings.instead = [*SER, "crosscorpus", *settings.experiments, *others]
    elif options.stage > 4 and not options.paper and not options.plan:
        # otherwise the log of the command started here would create the folder
        absent = [name for name in settings.experiments if not (ROOT / name).is_dir()]
        if len(absent) > (len(settings.experiments) - 1 if settings.sweep else 0):
            raise UserError(
                f"--stage {options.stage}: there is no experiment {absent[0]}; train it first, "
                "or correct what names it: --tag, --config, --protocol, --seed"
            )


def _trains(options: SimpleNamespace) -> bool:
    return options.stage <= 4 <= options.stop_stage


def _plan(settings: Settings, options: SimpleNamespace) -> list[str]:
    """Command that estimates how long the stages will take."""
    command = [*SER, "plan", f"--data-dir={settings.data}", f"--dump-dir={settings.dump}"]
    command += [f"--protocol={protocol}" for protocol in settings.protocols]
    command += [f"--experiments={file}" for file in settings.lists]
    if not settings.sweep:
        command += [f"--exp-dir={directory}" for directory in settings.experiments]
    command += [f"--backend={options.backend}", *_of_training(settings, options)]
    return [*command, "--", *(options.espnet_options or [])]


def _of_training(settings: Settings, options: SimpleNamespace) -> list[str]:
    """Options that ``ser plan`` and ``ser train`` share."""
    shared = [] if settings.sweep else [f"--config={settings.config}", f"--seed={settings.seed}"]
    shared += [f"--folds={settings.folds}", f"--ngpu={options.ngpu}", f"--nj={options.nj}"]
    shared += [f"--folds-per-gpu={options.folds_per_gpu}", f"--max-epoch={options.max_epoch}"]
    return [*shared, f"--ssl={options.ssl}"]


def _system(settings: Settings, options: SimpleNamespace) -> None:
    """Run the checks that need no network before anything starts."""
    from ser.training.declared import check_system

    due = None
    if options.stage == 4 and not options.paper:
        due = ROOT / settings.dump / "folds" / settings.protocols[0]
    espnet, folds = options.espnet_options or [], settings.folds.split()
    check_system(ROOT / settings.config, espnet, options.ssl, due, folds)


def _stage_options(settings: Settings, options: SimpleNamespace) -> None:
    """Set the options of individual stages."""
    settings.data_options = [f"--corpus={options.corpus}", f"--nj={settings.processes}"]
    for name in ("corpus_dir", "text", "emotions"):
        if value := getattr(options, name):
            settings.data_options.append(f"--{name.replace('_', '-')}={value}")
    for name in ("allow_partial", "undecided"):
        if getattr(options, name):
            settings.data_options.append(f"--{name.replace('_', '-')}")
    train = [*_of_training(settings, options), f"--select={options.select}"]
    train += ["--overwrite"] if options.overwrite else []
    if options.backend == "slurm":
        train += ["--backend=slurm", f"--slurm-conf={options.slurm_conf}"]
        train += [f"--num-nodes={options.num_nodes}"]
        settings.slurm = [f"--slurm-conf={options.slurm_conf}"]
    if options.detach:
        settings.chain = f"{settings.all_logs[0]}/chain"
        settings.slurm.append(f"--chain={settings.chain}")
    settings.train_options = [*train, "--", *(options.espnet_options or [])]


def _path(name: str, default: str = "") -> str:
    """Convert a user's path: absolute, or relative to the recipe if inside it."""
    if not name:
        return default
    path = os.path.normpath(Path(name).absolute())
    return os.path.relpath(path, ROOT) if Path(path).is_relative_to(ROOT) else path
