"""``ser jobs``, and the commands called by run.sh and Slurm scripts: ``stage`` and ``task``."""

from pathlib import Path
from typing import Annotated

import typer

from ser.cli.options import Backend
from ser.errors import UserError

Command = Annotated[list[str], typer.Argument(metavar="COMMAND [ARG]...", help="what to run")]
Gpu = Annotated[int, typer.Option(help="GPUs of a task, on each of its nodes")]
Threads = Annotated[
    int, typer.Option(help="of a task; 0: cores divided here, on Slurm what it gives")
]
Name = Annotated[str, typer.Option(help="of the tasks, in messages; default: that of LOG")]
Show = Annotated[
    str, typer.Option(help="which lines of stdout are passed on, a regular expression")
]
SlurmConf = Annotated[
    Path | None, typer.Option(help="settings of sbatch; default: conf/slurm.conf")
]


def jobs(
    arguments: Annotated[
        list[str], typer.Argument(metavar="[JOB=1:N] LOG COMMAND [ARG]...", help="what to run")
    ],
    backend: Backend = "local",
    gpu: Gpu = 0,
    devices: Annotated[int, typer.Option(help="GPUs that tasks share here; 0: all")] = 0,
    num_threads: Threads = 0,
    num_nodes: Annotated[int, typer.Option(help="nodes of a task (slurm)")] = 1,
    nj: Annotated[int, typer.Option(help="tasks at a time; 0: all")] = 0,
    name: Name = "",
    show: Show = "",
    hold: Annotated[list[Path], typer.Option(help="directory to lock meanwhile")] = [],  # noqa: B006
    slurm_conf: SlurmConf = None,
    detach: Annotated[bool, typer.Option("--detach", help="submit and return (slurm)")] = False,
    after: Annotated[
        str, typer.Option(help="ID[:ID...]: begin when these jobs are done (slurm)")
    ] = "",
    id_file: Annotated[
        Path | None, typer.Option(help="is written, with the number of the job (slurm)")
    ] = None,
) -> None:
    """Run COMMAND, or one for each number of JOB=1:N, here or on Slurm, and wait (cmd.sh).

    JOB stands for a task's number in LOG and the ARGs. One task's failure does not stop the
    others; the exit status is that of the first failed task.
    """
    from ser.cluster.local import run_local
    from ser.cluster.tasks import parse_tasks

    tasks = parse_tasks(
        arguments,
        name=name,
        gpu=gpu,
        devices=devices,
        num_threads=num_threads,
        num_nodes=num_nodes,
        nj=nj,
        show=show,
        hold=hold,
    )
    if backend == "slurm":
        from ser.cluster.slurm import run_slurm

        raise typer.Exit(run_slurm(tasks, slurm_conf, after, detach, id_file))
    if backend != "local":
        raise UserError(f"--backend {backend}: expected local or slurm")
    if detach or after or id_file:
        raise UserError("--detach, --after, --id-file: they need --backend slurm")
    raise typer.Exit(run_local(tasks))


def stage(
    number: Annotated[int, typer.Argument()],
    name: Annotated[str, typer.Argument()],
    log: Annotated[Path, typer.Argument()],
    command: Command,
    gpu: Gpu = 0,
    num_threads: Threads = 0,
    last: Annotated[bool, typer.Option("--last")] = False,
    slurm_conf: SlurmConf = None,
    chain: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Run a stage of run.sh: say when it begins and ends, or submit it after those in a chain."""
    from ser.cluster.stages import Stage, run_stage, submit_stage

    it = Stage(number, name, log, command, last, gpu, num_threads)
    if chain is not None:
        raise typer.Exit(submit_stage(it, slurm_conf, chain))
    raise typer.Exit(run_stage(it, slurm_conf))


def task(
    directory: Annotated[Path, typer.Argument()],
    log: Annotated[str, typer.Argument()],
    command: Command,
    num_threads: Threads = 0,
    show: Show = "",
) -> None:
    """Run one task of a Slurm job on its node, as the job's script asks."""
    from ser.cluster.node import run_task

    raise typer.Exit(run_task(directory, log, command, num_threads, show))
