"""Progress of an experiment's folds, from the files in its directory.

Only small files are read and torch is not imported, so that checking costs nothing while the folds
are training.
"""

import contextlib
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ser.cluster import locks
from ser.cluster.submissions import Queued, StageJob, describe_queue, fold_jobs, stage_jobs
from ser.data.folds import require_protocol
from ser.data.tables import read_lines
from ser.errors import UserError
from ser.stage import MARKER, read_marker
from ser.training.experiment import (
    NOT_INFERRED,
    OTHER_SETTINGS,
    PHASES,
    PREDICTIONS_MARKER,
    SCORED,
    Experiment,
    history_so_far,
    open_experiment,
    read_run,
)

HEADER = ("fold", "state", "epoch", "best UA", "since", "log")
RIGHT = ("epoch", "best UA")  # columns of numbers
SHOWN = {SCORED: "scored", NOT_INFERRED: "trained", OTHER_SETTINGS: OTHER_SETTINGS}
LOG_END = 4096  # bytes
TRAIN_JOB = "stage4"
NO_FOLDS = "no folds yet, stage 3 makes them"
NO_ANSWER = "squeue does not answer; what it has in its queue is not known"


@dataclass(frozen=True)
class FoldStatus:
    """A line of the table."""

    fold: str
    state: str  # one word, and in brackets where or what exactly
    epoch: int  # epochs begun
    max_epoch: int | None  # None before training has started
    best_ua: float | None  # on the validation speaker, from 0 to 1; None without one
    since: float | None  # seconds since 1970
    log: Path
    phase: str = ""  # phase before the main training, if in one; see PHASES

    @property
    def word(self) -> str:
        """The state without its details."""
        return self.state.partition(" (")[0]

    @property
    def cells(self) -> tuple[str, ...]:
        """The columns of ``HEADER``."""
        epoch = f"{self.phase} {self.epoch}/{self.max_epoch}".strip() if self.max_epoch else "-"
        ua = "-" if self.best_ua is None else f"{100 * self.best_ua:.1f}"
        log = str(self.log) if self.log.exists() else "-"
        since = "-"
        if self.since is not None:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return self.fold, self.state, epoch, ua, since, log


def show_status(exp_dir: Path, dump_dir: Path, protocol: str) -> str:
    """Format what ``./run.sh --status`` prints about one experiment.

    Raises:
        UserError: there is no such experiment or protocol; names the existing ones.
    """
    require_protocol(protocol)
    if not exp_dir.is_dir():
        known = sorted(path.name for path in exp_dir.parent.glob("*/") if path.is_dir())
        raise UserError(
            f"{exp_dir}: no such experiment; found there: {', '.join(known) or 'none'}; give its "
            "--tag, or the --config, --protocol and --seed that it was run with"
        )
    jobs = stage_jobs(exp_dir)
    folds = experiment_status(exp_dir, dump_dir, protocol, jobs)
    table = format_status(str(exp_dir), folds) if folds else f"{exp_dir}: {NO_FOLDS}"
    if any(job.queued is None for job in jobs):
        return f"{table}\n{NO_ANSWER}"
    return "\n".join([table, *filter(None, map(_describe_job, jobs))])


def _describe_job(job: StageJob) -> str:
    """A line about a job that is queued or did not complete its stage; else empty."""
    log = Path(job.submission.log)
    queue = describe_queue(job)
    if queue:
        return f"{job.title}: {queue}"
    if job.submission.word:  # an array, whose folds are in the table
        return ""
    if not log.is_file():
        return f"{job.title}: was not run, since a job before it failed or it was cancelled"
    status = _exit_status(log)
    if status == 0:
        return ""
    what = "was killed" if status is None else f"failed with exit status {status}"
    return f"{job.title}: {what}; log: {log}"


def experiment_status(
    exp_dir: Path, dump_dir: Path, protocol: str, jobs: Sequence[StageJob] = ()
) -> list[FoldStatus]:
    """Status of every fold of ``exp_dir``; an empty list if stage 3 has made no folds yet.

    Args:
        protocol: Protocol of the folds if stage 4 has not begun.
        jobs: Jobs submitted for it; an array of stage 4 shows which folds are queued.
    """
    with contextlib.suppress(UserError):  # stage 4 has not begun
        protocol = str(read_run(exp_dir)["protocol"])
    fold_list = dump_dir / "folds" / protocol / "folds"
    if not fold_list.is_file():
        return []
    try:
        experiment = open_experiment(exp_dir, dump_dir)
    except UserError:
        experiment = None
    folds = read_lines(fold_list)
    queued = {}
    for job in jobs:
        if job.submission.name == TRAIN_JOB:
            since = _parse_time(job.submission.time)
            queued = {
                fold: (_describe_task(entry), since)
                for fold, entry in fold_jobs(job, exp_dir, folds).items()
            }
    with ThreadPoolExecutor() as pool:  # testing a held lock takes a moment
        states = pool.map(
            lambda fold: fold_status(exp_dir, fold, experiment, queued.get(fold)), folds
        )
        return list(states)


def _describe_task(entry: Queued) -> str:
    if entry.state == "PENDING":
        return f"pending (job {entry.job}, {entry.reason})"
    return f"starting (job {entry.job})"


def fold_status(
    exp_dir: Path,
    fold: str,
    experiment: Experiment | None,
    queued: tuple[str, float | None] | None = None,
) -> FoldStatus:
    """Status of one fold.

    Args:
        experiment: None if it cannot be opened (yet).
        queued: Its state in Slurm's queue and since when, used if no process is working on it.
    """
    fold_dir, log = exp_dir / fold, exp_dir / f"log/stage4.{fold}.log"
    state, since = _state(exp_dir, fold, experiment, queued, log)
    begun = [phase for phase in PHASES if (fold_dir / phase / "config.yaml").exists()]
    phase = "" if (fold_dir / "config.yaml").exists() or not begun else begun[-1]
    history = history_so_far(fold_dir / phase)
    ua = [entry["valid"]["UA"] for entry in history if "UA" in entry.get("valid", {})]
    return FoldStatus(
        fold=fold,
        state=state,
        epoch=history[-1]["epoch"] if history else 0,
        max_epoch=_max_epoch(fold_dir / phase / "config.yaml"),
        best_ua=max(ua, default=None),
        since=since,
        log=log,
        phase=phase,
    )


def _state(
    exp_dir: Path,
    fold: str,
    experiment: Experiment | None,
    queued: tuple[str, float | None] | None,
    log: Path,
) -> tuple[str, float | None]:
    """The state and its start time."""
    fold_dir = exp_dir / fold
    holder = locks.holder(exp_dir / f".{fold}.lock")
    if holder:
        where = f"job {holder.job}, pid {holder.pid}" if holder.job else f"pid {holder.pid}"
        return f"training (on {holder.host}, {where})", _parse_time(holder.since)
    if read_marker(fold_dir) is not None:
        return _trained_state(fold_dir, fold, experiment)
    if queued:
        return queued
    if not log.exists():
        return "not started", None
    status = _exit_status(log)
    if status is None:
        return "interrupted (killed)", _mtime(log)
    return ("failed" if status == 1 else "interrupted"), _mtime(log)


def _trained_state(
    fold_dir: Path, fold: str, experiment: Experiment | None
) -> tuple[str, float | None]:
    try:
        state = experiment.state(fold) if experiment else NOT_INFERRED
    except (UserError, OSError):  # a damaged or lost file, which stage 5 explains
        state = NOT_INFERRED
    marker = PREDICTIONS_MARKER if state == SCORED else MARKER
    return SHOWN.get(state, state), _mtime(fold_dir / marker)


def format_status(title: str, folds: Sequence[FoldStatus]) -> str:
    """Format the table of one experiment below a line with counts of states."""
    words = [fold.word for fold in folds]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    rows = [HEADER, *(fold.cells for fold in folds)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{title}: {len(folds)} folds: {counts}"]
    for row in rows:
        cells = [
            cell.rjust(width) if name in RIGHT else cell.ljust(width)
            for name, cell, width in zip(HEADER, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _parse_time(text: str) -> float | None:
    try:
        return time.mktime(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _exit_status(log: Path) -> int | None:
    """The exit status in the last line of a log; None if it has none, after a kill."""
    with open(log, "rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - LOG_END))
        end = stream.read().decode("utf-8", "replace")
    found = re.search(r"(?:^|\n)# exit status: (\d+)\s*$", end)
    return int(found[1]) if found else None


def _max_epoch(config: Path) -> int | None:
    """``max_epoch`` in ESPnet's config file, found without parsing all of it as YAML."""
    try:
        found = re.search(r"^max_epoch: (\d+)$", config.read_text(encoding="utf-8"), re.M)
    except OSError:
        return None
    return int(found[1]) if found else None
