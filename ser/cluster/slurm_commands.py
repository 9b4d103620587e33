"""Slurm commands, retried while the controller does not answer, with signal handling."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence

from ser.cluster.tasks import Signals
from ser.errors import EXIT_RESUME, UserError

POLL = "SER_SLURM_POLL"  # seconds between polls of the queue
POLL_SECONDS = 2.0, 15.0  # at first and later, or both from the environment
COMMAND_SECONDS = 90.0  # timeout of a Slurm command
SILENT = ("Unable to contact", "Socket timed out", "Connection refused", "Zero Bytes were")


class Interrupted(Exception):
    """A signal arrived before there was a job."""

    def __init__(self, number: signal.Signals):
        super().__init__(number.name)
        self.signal = number


def ask(
    command: Sequence[str],
    purpose: str,
    signals: Signals,
    late: Callable[[], subprocess.CompletedProcess | None] = lambda: None,
) -> subprocess.CompletedProcess:
    """Run a Slurm command; while the controller does not answer, say so once and retry.

    Args:
        late: Looks, before a retry, for what the command has done although its answer got lost.

    Raises:
        Interrupted: one of ``signals`` arrived, and the command did not succeed.
    """
    said = False
    while True:
        done = (late() if said else None) or call(command)
        silent = is_silent(done)
        if silent and not said:
            print(f"waiting for Slurm's controller to {purpose}: {words(done.stderr)}", flush=True)
        if silent:
            signals.wait(polls()[0])
        if done.returncode != 0 and signals.last:  # the signal may also have ended the command
            raise Interrupted(signals.last)
        if not silent:
            if said:
                print("Slurm's controller answers again", flush=True)
            return done
        said = True


def call(command: Sequence[str]) -> subprocess.CompletedProcess:
    # Within a job, its own variables would be inherited by the new one.
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k in kept}
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "Socket timed out")


def is_silent(done: subprocess.CompletedProcess) -> bool:
    return done.returncode != 0 and any(words in done.stderr for words in SILENT)


def polls() -> tuple[float, float]:
    """Seconds between polls of the queue: at first, and later."""
    fixed = os.environ.get(POLL)
    try:
        return (float(fixed), float(fixed)) if fixed else POLL_SECONDS
    except ValueError:
        raise UserError(f"{POLL}={fixed}: expected a number of seconds") from None


def words(complaint: str) -> str:
    """Slurm's message as one line."""
    return "; ".join(line.strip() for line in complaint.splitlines() if line.strip())


def accounted(job: str) -> dict[str, str]:
    """Slurm's accounting data of a job; empty without accounting."""
    if shutil.which("sacct") is None:
        return {}
    form = "--format=State,ExitCode,NodeList,Timelimit"
    done = call(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", form])
    fields = done.stdout.splitlines()[0].split("|") if done.stdout.strip() else []
    if len(fields) != 4:
        return {}
    state = (fields[0].split() or [""])[0]  # "CANCELLED by 1000"
    return dict(JobState=state, ExitCode=fields[1], NodeList=fields[2], TimeLimit=fields[3])


def status_of(number: signal.Signals) -> int:
    """Exit status of a run ended by this signal."""
    return EXIT_RESUME if number == signal.SIGUSR1 else 128 + number
