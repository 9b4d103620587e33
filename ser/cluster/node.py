"""Run one task of a Slurm job on its node; called by the job's script."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from ser.cluster.locks import slurm_job
from ser.cluster.logged import Display, LoggedCommand, run_logged
from ser.cluster.tasks import Signals
from ser.errors import EXIT_RESUME
from ser.files import atomic_write

REQUEUE_ATTEMPTS, REQUEUE_SECONDS = 10, 5
KILLED, WARNED_TOO_EARLY = 128 + signal.SIGKILL, 128 + signal.SIGUSR1


def run_task(
    directory: Path, log: str, command: Sequence[str], threads: int = 0, show: str = ""
) -> int:
    """Run ``command`` with a log, record its result, and requeue it if it was stopped.

    ``directory``/<job>.json records state (running, ended or requeued), exit status, host, process
    and time; <job>.out and .err hold output for the user. USR1 (the time limit is near) is passed
    to the command, which saves its work and exits with 75; the job is then requeued. A command that
    was killed is run again once. TERM (scancel, preemption) ends the command; whether the job is
    restarted is up to Slurm.
    """
    record = directory / f"{slurm_job()}.json"
    kills = _kills(record)
    _write(record, "running", 0, kills or 0)
    with (
        open(record.with_suffix(".out"), "a", encoding="utf-8") as out,
        open(record.with_suffix(".err"), "a", encoding="utf-8") as err,
        Signals() as signals,
    ):
        display = Display(out, show)
        threads = threads or int(os.environ.get("SLURM_CPUS_ON_NODE", 0))
        running = LoggedCommand(log, command, display, threads, append=kills is not None)
        status = run_logged(running, signals)
        running.report(out, err)
        received = list(signals.received)
        again, kills = _run_again(status, received, kills or 0)
        if again:
            _write(record, "requeued", status, kills)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent by Slurm to end the current run
            if _requeue():
                return status
        _write(record, "ended", status, kills)
        return status


def _run_again(status: int, received: Sequence[int], kills: int) -> tuple[bool, int]:
    """Whether to requeue a task that ended like this, and its number of kills in a row."""
    warned = signal.SIGUSR1 in received
    if signal.SIGTERM in received:
        return False, kills
    if status == EXIT_RESUME or (warned and status in (KILLED, 128 + signal.SIGTERM)):
        return True, 0  # in multi-node training, the first node to stop ends the others
    if status in (KILLED, WARNED_TOO_EARLY):  # often out of memory; or before it could listen
        return kills == 0, kills + 1
    return False, kills


def _kills(record: Path) -> int | None:
    """Number of kills recorded by the previous run; None if this is the first."""
    try:
        return int(json.loads(record.read_text(encoding="utf-8"))["kills"])
    except (OSError, ValueError, KeyError):
        return None


def _write(record: Path, state: str, status: int, kills: int) -> None:
    content = {
        "state": state,
        "status": status,
        "kills": kills,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    with contextlib.suppress(OSError), atomic_write(record) as stream:
        json.dump(content, stream)  # without it, Slurm's own record is used


def _requeue() -> bool:
    for attempt in range(REQUEUE_ATTEMPTS):
        if subprocess.run(["scontrol", "requeue", slurm_job()], check=False).returncode == 0:
            return True
        if attempt < REQUEUE_ATTEMPTS - 1:
            time.sleep(REQUEUE_SECONDS)  # the controller may be away for a moment
    return False
