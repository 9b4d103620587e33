"""Stages of run.sh, run here or as Slurm jobs, either waited for or submitted as a chain."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ser.cluster.logged import Display, LoggedCommand, die_with_parent, run_logged, stdout
from ser.cluster.slurm import run_slurm
from ser.cluster.tasks import Signals, Tasks
from ser.errors import EXIT_RESUME, UserError
from ser.files import SER

BATCH_JOB = "SER_BATCH_JOB"  # set by run.sh if it is itself a Slurm job


@dataclass(frozen=True)
class Stage:
    """A stage of run.sh and its resources."""

    number: int
    name: str
    log: Path
    command: Sequence[str]
    last: bool = False  # of the run
    gpu: int = 0
    num_threads: int = 0

    @property
    def title(self) -> str:
        """``stage 1 (data)``"""
        return f"stage {self.number} ({self.name})"

    @property
    def trains(self) -> bool:
        """Whether the stage submits jobs itself and can stop and resume."""
        return self.name == "train"


def run_stage(stage: Stage, slurm_conf: Path | None = None) -> int:
    """Run a stage, report the outcome, and return its exit status.

    TERM, INT and HUP end it. USR1, "stop when you can", also ends stages other than training, since
    they are quick to repeat; the status is then 75, and a run that is a Slurm job requeues itself.

    Args:
        slurm_conf: Run it as a Slurm job with these settings of sbatch; None: on this machine.
    """
    die_with_parent()
    log, command, threads = stage.log, list(stage.command), stage.num_threads
    if slurm_conf is not None and not stage.trains:
        jobs = [*SER, "jobs", "--backend", "slurm"]
        jobs += [f"--slurm-conf={slurm_conf}", f"--gpu={stage.gpu}", f"--num-threads={threads}"]
        command = [*jobs, f"--name=stage{stage.number}", str(log), *command]
        log, threads = log.with_suffix(".slurm.log"), 0
    print(f"{stage.title}: started, log: {stage.log}", flush=True)
    began = time.monotonic()
    with Signals() as signals:
        display = Display(stdout(), live=True, watch=str(stage.log.with_suffix("")))
        running = LoggedCommand(log, command, display, threads)
        usr1 = signal.SIGUSR1 if stage.trains else signal.SIGTERM
        status = run_logged(running, signals, usr1)
        running.report(sys.stdout, sys.stderr)
        received = signals.last
    seconds = round(time.monotonic() - began)
    elapsed = f"{seconds // 60}:{seconds % 60:02d}"
    outcome = "FAILED"
    if received not in (None, signal.SIGUSR1):
        status, outcome = 128 + received, f"stopped by {received.name}"
    elif received == signal.SIGUSR1 and status == 128 + signal.SIGTERM:
        status = EXIT_RESUME
    if status == 0:
        print(f"{stage.title}: done in {elapsed}", flush=True)
    if status == EXIT_RESUME or (received == signal.SIGUSR1 and status == 0 and not stage.last):
        status = EXIT_RESUME
        _stop_for_now(stage, elapsed)
    elif status:
        log = stage.log if stage.log.exists() else log  # a job that Slurm has not accepted
        print(f"{stage.title}: {outcome} after {elapsed}; log: {log}", file=sys.stderr)
    return status


def submit_stage(stage: Stage, slurm_conf: Path, chain: Path) -> int:
    """Submit a stage to start after the previous one, the last job in ``chain``.

    If it is rejected, the previous stages are cancelled. Its job is added to ``chain``.
    """
    jobs = chain.read_text(encoding="utf-8").split() if chain.exists() else []
    id_file = stage.log.with_suffix(".job")
    try:
        if stage.trains:
            options = ["--detach", f"--id-file={id_file}", *(f"--after={job}" for job in jobs[-1:])]
            at = stage.command.index("--")  # what follows are options of ESPnet
            command = [*stage.command[:at], *options, *stage.command[at:]]
            status = subprocess.run(command, check=False).returncode
        else:
            tasks = Tasks(
                log=str(stage.log),
                command=stage.command,
                name=f"stage{stage.number}",
                gpu=stage.gpu,
                num_threads=stage.num_threads,
            )
            status = run_slurm(tasks, slurm_conf, "".join(jobs[-1:]), True, id_file)
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        status = 1
    if status:
        if jobs:
            subprocess.run(["scancel", *jobs], check=False)
        print(
            f"{stage.title}: not submitted, and the stages before it are withdrawn", file=sys.stderr
        )
        return status
    with open(chain, "a", encoding="utf-8") as stream:
        stream.write(id_file.read_text(encoding="utf-8"))
    return 0


def _stop_for_now(stage: Stage, elapsed: str) -> None:
    """Report how a stopped run can be resumed; requeue it if it is a Slurm job."""
    job = os.environ.get("SLURM_JOB_ID", "")
    by_itself = job and os.environ.get(BATCH_JOB) == job
    again = f"job {job} is requeued and goes on by itself" if by_itself else ""
    print(
        f"{stage.title}: stopped after {elapsed} by a signal; "
        + (again or "run the same command to resume"),
        flush=True,
    )
    if by_itself:
        subprocess.run(["scontrol", "requeue", job], check=False)
