"""Locks on experiments, which name their holder and do not outlive it.

A lock is a file. While it is held, the kernel keeps a flock on it for the holder's process and
releases it when that process dies, for any reason and on any node; the file's content names the
holder for users. Jobs that outlive the process that submitted them (a detached chain) are recorded
there too: the lock is held as long as Slurm has one of them in its queue.
"""

import fcntl
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ser.errors import UserError

SQUEUE_SECONDS = 30  # timeout for an answer of the controller
UNKNOWN = "Invalid job id"  # squeue about a job that has left the queue
ATTEMPTS, ATTEMPT_SECONDS = 5, 0.05  # to take a flock


@dataclass(frozen=True)
class Holder:
    """A process, and the Slurm jobs that hold the lock even without it.

    ``job`` is the Slurm job (``12`` or ``12_3``) that the process itself runs in, if any, and
    ``restarts`` the number of times Slurm has requeued it.
    """

    host: str
    pid: int
    since: str  # local time, ISO 8601
    job: str = ""
    restarts: int = 0
    slurm_jobs: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        jobs = f", Slurm jobs {' '.join(self.slurm_jobs)}" if self.slurm_jobs else ""
        return f"host {self.host}, pid {self.pid}{job}{jobs}, since {self.since}"


def this_process() -> Holder:
    """The holder entry of this process."""
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=time.strftime("%Y-%m-%dT%H:%M:%S"),
        job=slurm_job(),
        restarts=int(os.environ.get("SLURM_RESTART_COUNT", 0)),
    )


def slurm_job() -> str:
    """The Slurm job of this process as squeue names it, ``12`` or ``12_3``; "" outside one."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '?')}"
    return os.environ.get("SLURM_JOB_ID", "")


@contextmanager
def held(path: Path | str, what: str) -> Iterator[None]:
    """Hold the lock ``path`` while the block runs.

    A lock whose holder has died is taken over. A requeued Slurm job waits for its previous run,
    which may still be ending. On a file system without locks, the content alone decides: a process
    on this host is looked up by its pid, a Slurm job by squeue, any other is assumed to be alive.

    Raises:
        UserError: another process holds it; names it and what to do.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        mine = this_process()
        if not _flock(descriptor, path):
            theirs = read(path)
            if theirs is None or theirs.job != mine.job or theirs.restarts >= mine.restarts:
                raise _taken(what, path, theirs)
            _flock(descriptor, path, wait=True)
        living = _living(read(path), locked=False)
        if living is not None:
            raise _taken(what, path, living)
        _write(descriptor, mine)
        yield
        # Jobs recorded meanwhile keep the lock; otherwise it is free.
        present = read(path)
        if present is None or not present.slurm_jobs:
            os.truncate(descriptor, 0)
    finally:
        os.close(descriptor)


def note_jobs(path: Path | str, jobs: Sequence[str]) -> None:
    """Add Slurm ``jobs`` to the holder of ``path``; call it while holding the lock.

    They hold it until the last of them leaves Slurm's queue, with or without this process.
    """
    path = Path(path)
    present = read(path)
    noted = present.slurm_jobs if present else []
    noted = [*noted, *(job for job in jobs if job not in noted)]
    _rewrite(path, noted)


def forget_jobs(path: Path | str) -> None:
    """Undo ``note_jobs`` after all of the jobs have ended."""
    _rewrite(Path(path), [])


def holder(path: Path | str) -> Holder | None:
    """Return the current holder of the lock ``path``, or None, without taking it or waiting."""
    path = Path(path)
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        locked = not _flock(descriptor, path)
    finally:
        os.close(descriptor)  # also releases a flock taken by the test
    return _living(read(path), locked)


def read(path: Path | str) -> Holder | None:
    """Read the holder that the lock file names, running or not; None if it names none."""
    try:
        return Holder(**json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def queued(jobs: Sequence[str]) -> list[str]:
    """Return those of ``jobs`` that are pending or running in Slurm.

    Without an answer (no Slurm here, controller down) all of them are assumed to be: training
    twice into one directory is worse than waiting.
    """
    # one by one: a single unknown id makes squeue reject the whole list
    return [job for job in jobs if squeue(job, SQUEUE_SECONDS) != []]


def squeue(job: str, seconds: float) -> list[str] | None:
    """Lines ``12_3|PENDING|Resources`` of a job; None if Slurm does not answer in time."""
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r", f"--jobs={job}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0 and UNKNOWN not in done.stderr:
        return None
    return done.stdout.splitlines()


def _living(named: Holder | None, locked: bool) -> Holder | None:
    """Return ``named`` if it holds the lock: ``locked``, or through Slurm jobs."""
    if locked:
        return named or Holder(host="unknown", pid=0, since="unknown")
    if named is None:
        return None
    jobs = queued(named.slurm_jobs)
    return replace(named, slurm_jobs=jobs) if jobs else None


def _flock(descriptor: int, path: Path, wait: bool = False) -> bool:
    """Take the flock; False if another process keeps it. Retries briefly: holder() may test it."""
    for _ in range(1 if wait else ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return True
        except BlockingIOError:
            time.sleep(ATTEMPT_SECONDS)
        except OSError:  # a file system without locks
            return not _believed(read(path))
    return False


def _believed(named: Holder | None) -> bool:
    """Whether ``named`` may still be running, on file systems without flock."""
    if named is None:
        return False
    if named.host == socket.gethostname():
        return named.pid != os.getpid() and Path("/proc", str(named.pid)).exists()
    return bool(queued([named.job])) if named.job else True


def _rewrite(path: Path, jobs: list[str]) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        _write(descriptor, replace(read(path) or this_process(), slurm_jobs=jobs))
    finally:
        os.close(descriptor)


def _write(descriptor: int, holder: Holder) -> None:
    content = json.dumps(asdict(holder)).encode() + b"\n"
    os.pwrite(descriptor, content, 0)
    os.truncate(descriptor, len(content))


def _taken(what: str, path: Path, theirs: Holder | None) -> UserError:
    who = theirs or "an unknown process"
    jobs = theirs.slurm_jobs if theirs else []
    look = f" (squeue -j {','.join(jobs)}; scancel ends them)" if jobs else ""
    return UserError(
        f"{what}: another run is at work on it: {who}{look}; wait for its end, stop it, or choose "
        f"another --tag (the lock is {path}; remove it if you know that its holder is dead)"
    )
