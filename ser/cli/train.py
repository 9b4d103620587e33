"""``ser train``: stage 4, as jobs or in this process; ``ser plan``: what it will take."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import typer

from ser.cli.options import (
    Backend,
    DataDir,
    DumpDir,
    EspnetOptions,
    ExpDirs,
    Experiments,
    Folds,
    Protocol,
)
from ser.errors import UserError
from ser.files import SER

Trainings = list[tuple[Path, int, Path]]  # folder, seed and YAML of each experiment
Seed = Annotated[str, typer.Option(help='of weights and batches; several: "1 2 3"')]
Config = Annotated[Path | None, typer.Option(help="the system's YAML")]
Select = Annotated[
    Literal["protocol", "best-on-test"],
    typer.Option(help="epoch that is tested: that of the protocol, or best-on-test (LEAKY)"),
]
Ngpu = Annotated[
    int,
    typer.Option(
        min=0,
        help="GPUs, each trains one fold at a time; Slurm: of one fold on each of its nodes; "
        "0: the CPU",
    ),
]
FoldsPerGpu = Annotated[
    int, typer.Option(min=1, help="folds that share each GPU of this machine at a time")
]
Nj = Annotated[
    int,
    typer.Option(
        min=0,
        help="folds trained at a time; 0: 2 on this machine, which divide its cores among them "
        "(GPUs decide instead if there are any), and no limit on Slurm",
    ),
]
MaxEpoch = Annotated[
    int, typer.Option(min=0, help="replaces max_epoch of the YAML; 0: that of the YAML")
]
Ssl = Annotated[
    str, typer.Option(help="hub id or folder of the encoder; replaces frontend_conf.model")
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="train anew if settings or data have changed"),
]
SlurmConf = Annotated[Path | None, typer.Option(help="Slurm: partition, time and so on")]
NumNodes = Annotated[int, typer.Option(min=1, help="Slurm: nodes of one fold")]
Detach = Annotated[bool, typer.Option("--detach", help="Slurm: submit and return")]
After = Annotated[str, typer.Option(help="Slurm: begin when this job is done")]
IdFile = Annotated[Path | None, typer.Option(help="Slurm: is written, with the number of the job")]
Share = Annotated[
    str,
    typer.Option(help="K/N: train every N-th fold from the K-th on, in this process", hidden=True),
]
CheckOnly = Annotated[
    bool,
    typer.Option("--check-only", help="check and note the settings, train nothing", hidden=True),
]


def train(
    data_dir: DataDir,
    dump_dir: DumpDir,
    exp_dir: ExpDirs = [],  # noqa: B006 (typer copies it)
    seed: Seed = "1",
    config: Config = None,
    experiments: Experiments = None,
    protocol: Protocol = "strict",
    select: Select = "protocol",
    folds: Folds = "",
    ngpu: Ngpu = 0,
    folds_per_gpu: FoldsPerGpu = 1,
    nj: Nj = 0,
    max_epoch: MaxEpoch = 0,
    ssl: Ssl = "",
    overwrite: Overwrite = False,
    backend: Backend = "local",
    slurm_conf: SlurmConf = None,
    num_nodes: NumNodes = 1,
    detach: Detach = False,
    after: After = "",
    id_file: IdFile = None,
    share: Share = "",
    check_only: CheckOnly = False,
    espnet_options: EspnetOptions = None,
) -> None:
    """Stage 4: train the folds of an experiment, or of one for each seed.

    Finished folds are kept and interrupted ones resumed.
    """
    given = SimpleNamespace(**locals())
    given.folds, given.espnet_options = folds.replace(",", " ").split(), espnet_options or []
    trainings = trainings_of(experiments, exp_dir, seed, config)
    if share or check_only:
        _train_here(trainings, given)
    else:
        raise typer.Exit(_launch(trainings, given))


def _train_here(trainings: Trainings, given: SimpleNamespace) -> None:
    from ser.cluster import preemption

    with preemption.listening():
        from ser.training.folds import Training, train_folds  # takes seconds to import

        train_folds(
            [Training(directory, config, seed) for directory, seed, config in trainings],
            data_dir=given.data_dir,
            dump_dir=given.dump_dir,
            protocol=given.protocol,
            folds=given.folds,
            ngpu=given.ngpu,
            num_nodes=given.num_nodes,
            max_epoch=given.max_epoch or None,
            ssl=given.ssl or None,
            extra_args=given.espnet_options,
            overwrite=given.overwrite,
            share=_share(given.share or "1/1"),
            select=given.select,
            check_only=given.check_only,
        )


def _launch(trainings: Trainings, given: SimpleNamespace) -> int:
    """Run the checks that need no model, start the jobs, and return the exit status."""
    from ser.training.declared import check_system
    from ser.training.launch import Jobs, launch

    due = None if given.after else given.dump_dir / "folds" / given.protocol
    for file in {file: None for _, _, file in trainings}:
        check_system(file, given.espnet_options, given.ssl, due, given.folds)
    directories = [directory for directory, _, _ in trainings]
    jobs = Jobs(
        backend=given.backend,
        ngpu=given.ngpu,
        folds_per_gpu=given.folds_per_gpu,
        nj=given.nj,
        num_nodes=given.num_nodes,
        slurm_conf=given.slurm_conf,
        detach=given.detach,
        after=given.after,
        id_file=given.id_file,
    )
    return launch(
        _worker(directories, given),
        jobs,
        directories,
        given.dump_dir,
        given.protocol,
        given.folds,
        given.espnet_options,
    )


def _worker(directories: list[Path], given: SimpleNamespace) -> list[str]:
    """Command of one worker, without its share and the ESPnet options."""
    worker = [*SER, "train", f"--data-dir={given.data_dir}", f"--dump-dir={given.dump_dir}"]
    if given.experiments is not None:
        worker.append(f"--experiments={given.experiments}")
    else:
        worker += [f"--exp-dir={directory}" for directory in directories]
        worker += [f"--seed={given.seed}", f"--config={given.config}"]
    worker += [f"--protocol={given.protocol}", f"--select={given.select}"]
    worker += [f"--folds={' '.join(given.folds)}"]
    worker += [f"--max-epoch={given.max_epoch}", f"--ssl={given.ssl}"]
    return [*worker, "--overwrite"] if given.overwrite else worker


def plan(
    data_dir: DataDir,
    dump_dir: DumpDir,
    protocol: Annotated[list[str], typer.Option(help="one for each list of experiments")],
    exp_dir: ExpDirs = [],  # noqa: B006 (typer copies it)
    seed: Seed = "1",
    config: Config = None,
    experiments: Annotated[list[Path], typer.Option(help="lists of a sweep")] = [],  # noqa: B006
    folds: Folds = "",
    ngpu: Ngpu = 0,
    folds_per_gpu: FoldsPerGpu = 1,
    nj: Nj = 0,
    max_epoch: MaxEpoch = 0,
    ssl: Ssl = "",
    backend: Annotated[str, typer.Option(help="with slurm nothing is timed here")] = "local",
    espnet_options: EspnetOptions = None,
) -> None:
    """Estimate what a run of run.sh will take, stage by stage: time, disk and memory."""
    from ser.training.devices import require_gpu
    from ser.training.estimate import describe_plan, make_plan
    from ser.training.folds import Training
    from ser.training.launch import LOCAL_PROCESSES

    lists = experiments or [None]
    trainings = {
        name: [
            Training(directory, file, number)
            for directory, number, file in trainings_of(chosen, exp_dir, seed, config)
        ]
        for name, chosen in zip(protocol, lists, strict=True)
    }
    local = backend == "local"
    if local:
        require_gpu(ngpu)
    found = make_plan(
        trainings,
        data_dir,
        dump_dir,
        at_once=(ngpu * folds_per_gpu or nj or LOCAL_PROCESSES) if local else 1,
        timed_here=local,
        folds=folds.split(),
        ngpu=min(ngpu, 1),
        max_epoch=max_epoch or None,
        ssl=ssl or None,
        extra_args=espnet_options or [],
    )
    print(describe_plan(found))


def trainings_of(
    experiments: Path | None, exp_dirs: list[Path], seeds: str, config: Path | None
) -> Trainings:
    """The folder, seed and YAML of each experiment."""
    if experiments is not None:
        from ser.training.launch import read_experiments

        return read_experiments(experiments)
    if not exp_dirs or config is None:
        raise UserError("--exp-dir and --config, or --experiments: not given")
    numbers = [int(seed) for seed in seeds.replace(",", " ").split() if seed.isdecimal()]
    if len(exp_dirs) == 1 and len(numbers) > 1:
        (one,) = exp_dirs
        exp_dirs = [one.with_name(f"{one.name}_seed{number}") for number in numbers]
    if len(exp_dirs) != len(numbers):
        raise UserError(
            f"--seed {seeds!r}: {len(exp_dirs)} --exp-dir, which need a whole number each"
        )
    return [(directory, seed, config) for directory, seed in zip(exp_dirs, numbers, strict=True)]


def _share(text: str) -> tuple[int, int]:
    """Parse a share: ``3/10`` -> (3, 10)."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--share {text!r}: expected K/N with K from 1 to N, e.g. 3/10")
    return int(found[1]), int(found[2])


def chosen_experiments(exp_dirs: list[Path], experiments: Path | None) -> list[Path]:
    """Folders of the experiments, given one by one or by a sweep's list."""
    if experiments is not None:
        from ser.training.launch import read_experiments

        return [directory for directory, _, _ in read_experiments(experiments)]
    if not exp_dirs:
        raise UserError("--exp-dir or --experiments: not given")
    return exp_dirs
