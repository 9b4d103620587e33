"""Jobs submitted for an experiment and their progress, for ``--status``.

Every submission writes a file (``Submission``) next to the logs of its stage; with several seeds,
it is stored with the first seed.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ser.cluster.locks import squeue

SQUEUE_SECONDS = 15  # --status should be quick, even if the controller is down
STAGE_JOBS = "log/slurm/stage*"
SUBMISSION = "submission.json"


@dataclass(frozen=True)
class Submission:
    """A submission; the contents of ``submission.json``."""

    job: str
    name: str
    word: str  # empty: a single job; else an array, whose tasks are <job>_<number>
    first: int
    last: int
    log: str  # with the word in it
    command: list[str]
    sbatch: list[str]
    time: str  # local, ISO 8601

    def job_of(self, number: int) -> str:
        """Name of a task in squeue: ``12_3``, or ``12`` for a single job."""
        return f"{self.job}_{number}" if self.word else self.job


def read_submission(directory: Path) -> Submission | None:
    """Read the last submission in ``directory``; None if there is none."""
    try:
        content = json.loads((directory / SUBMISSION).read_text(encoding="utf-8"))
        return Submission(**content)
    except (OSError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Queued:
    """A job, or one task of an array, that squeue lists."""

    job: str  # 12 or 12_3
    state: str  # PENDING, RUNNING, ...
    reason: str  # why it is pending; "None" if it is not


@dataclass(frozen=True)
class StageJob:
    """The last submission of a stage, and its remaining jobs in the queue."""

    submission: Submission
    queued: list[Queued] | None  # None: squeue does not answer

    @property
    def title(self) -> str:
        """``stage4: job 12``"""
        return f"{self.submission.name}: job {self.submission.job}"


def stage_jobs(exp_dir: Path) -> list[StageJob]:
    """Find the last submission of every stage for ``exp_dir``, in the order of the stages."""
    found: dict[str, Submission] = {}
    for directory in [*exp_dir.glob(STAGE_JOBS), *exp_dir.parent.glob(f"*/{STAGE_JOBS}")]:
        submission = read_submission(directory)
        if submission is None or not _concerns(submission, exp_dir, directory):
            continue
        newest = found.get(submission.name)
        if newest is None or newest.time < submission.time:
            found[submission.name] = submission
    jobs: list[StageJob] = []
    for name in sorted(found):
        silent = bool(jobs) and jobs[-1].queued is None  # do not ask squeue again after a timeout
        lines = None if silent else squeue(found[name].job, SQUEUE_SECONDS)
        queued = None if lines is None else [Queued(*line.split("|", 2)) for line in lines]
        jobs.append(StageJob(found[name], queued))
    return jobs


def fold_jobs(job: StageJob, exp_dir: Path, folds: Sequence[str]) -> dict[str, Queued]:
    """Map folds of ``exp_dir`` to their tasks in a stage-4 array, if queued."""
    command, submission = job.submission.command, job.submission
    experiments = _experiments(command)
    folds = " ".join(_values(command, "--folds")).split() or folds
    queued = {entry.job: entry for entry in job.queued or () if entry.state != "COMPLETING"}
    tasks = submission.last - submission.first + 1
    found = {}
    for i, fold in enumerate(folds):
        # tasks take turns: at all folds of the first experiment, then at those of the next
        position = experiments.index(os.path.abspath(exp_dir)) * len(folds) + i
        if entry := queued.get(submission.job_of(position % tasks + 1)):
            found[fold] = entry
    return found


def describe_queue(job: StageJob) -> str:
    """Format ``2 running, 8 pending (Resources)``; empty if nothing is left in the queue."""
    queued = job.queued or ()
    counts = Counter(entry.state.lower() for entry in queued)
    reasons = dict.fromkeys(entry.reason for entry in queued if entry.state == "PENDING")
    why = {"pending": f" ({', '.join(reasons)})"}
    return ", ".join(f"{count} {state}{why.get(state, '')}" for state, count in counts.items())


def _concerns(submission: Submission, exp_dir: Path, directory: Path) -> bool:
    if directory.is_relative_to(exp_dir):
        return True
    return os.path.abspath(exp_dir) in _experiments(submission.command)


def _experiments(command: Sequence[str]) -> list[str]:
    """Absolute paths of the experiments that a ``ser`` command works on."""
    found = [os.path.abspath(path) for path in _values(command, "--exp-dir")]
    for file in map(Path, _values(command, "--experiments")):  # a sweep's
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        found += [os.path.abspath(file.parent / line.split("\t")[0]) for line in lines]
    return found


def _values(command: Sequence[str], option: str) -> list[str]:
    """The value of each ``option``, as ``--name value`` or ``--name=value``."""
    after = [value for name, value in pairwise(command) if name == option]
    return after + [w.partition("=")[2] for w in command if w.startswith(f"{option}=")]
