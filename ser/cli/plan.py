"""``ser plan``: estimate the cost of a run of run.sh."""

from pathlib import Path
from typing import Annotated

import typer

from ser.cli.options import DataDir, DumpDir, EspnetOptions, ExpDirs
from ser.cli.train import trainings_of


def plan(
    data_dir: DataDir,
    dump_dir: DumpDir,
    protocol: Annotated[list[str], typer.Option(help="one for each list of experiments")],
    exp_dir: ExpDirs = [],  # noqa: B006 (typer copies it)
    seed: Annotated[str, typer.Option(help="blank separated")] = "1",
    config: Annotated[Path | None, typer.Option(help="the system's YAML")] = None,
    experiments: Annotated[list[Path], typer.Option(help="lists of a sweep")] = [],  # noqa: B006
    folds: Annotated[str, typer.Option(help="blank separated names; default: all")] = "",
    ngpu: Annotated[int, typer.Option()] = 0,
    folds_per_gpu: Annotated[int, typer.Option()] = 1,
    nj: Annotated[int, typer.Option(help="trainings side by side on the CPU; 0: 2")] = 0,
    max_epoch: Annotated[int, typer.Option(help="replaces max_epoch of the YAML")] = 0,
    ssl: Annotated[str, typer.Option(help="replaces frontend_conf.model")] = "",
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
