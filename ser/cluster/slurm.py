"""Run tasks as one Slurm job, an array if there are several, and wait for it.

Little depends on Slurm: squeue lists unfinished tasks, and each task records its own result in a
file (``node``), which persists after Slurm has forgotten the job. ``slurm/<name>/`` next to the
logs holds the script given to sbatch, ``submission.json`` and these records.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from ser.cluster.locks import forget_jobs, note_jobs
from ser.cluster.slurm_commands import Interrupted, ask, call, is_silent, polls, status_of, words
from ser.cluster.slurm_conf import Setting, blame, read_settings, sbatch_options
from ser.cluster.slurm_watch import Watch
from ser.cluster.submissions import SUBMISSION, Submission, read_submission
from ser.cluster.tasks import Signals, Tasks, hold
from ser.errors import UserError
from ser.files import ROOT, SER, atomic_write

SCRIPT = "job.sh"
DEFAULT_CONF = ROOT / "conf/slurm.conf"
WARNING = "B:USR1@120"  # to the script, two minutes before the time limit


def run_slurm(
    tasks: Tasks,
    conf: Path | None = None,
    after: str = "",
    detach: bool = False,
    id_file: Path | None = None,
) -> int:
    """Submit ``tasks``, wait for them to end, and return their exit status.

    INT and TERM cancel the job, as does USR1, which gives 75; HUP leaves it running. Before the job
    is submitted, each of them ends the wait for Slurm's controller.

    Args:
        conf: Settings of sbatch; None: those of the recipe.
        after: ``ID[:ID...]``: jobs that must be done first.
        detach: Do not wait. Locks are then held as long as the job exists.
        id_file: File to write the job id to.

    Raises:
        UserError: Slurm is not installed or rejects the job, a log cannot be written, a directory
            of ``tasks.hold`` is in use.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "--backend slurm: found no program sbatch on PATH; run this where jobs are submitted "
            "(a cluster's login node), or use --backend local"
        )
    settings = read_settings(conf or DEFAULT_CONF, tasks.gpu)
    directory = job_directory(tasks)
    with hold(tasks) as locks, Signals(children=False) as signals:
        try:
            _check_dependencies(after, signals)
            submission = submit(tasks, settings, after, directory, signals)
        except Interrupted as stop:
            print(f"{stop.signal.name}: {tasks.name} was not submitted", flush=True)
            return status_of(stop.signal)
        for lock in locks:
            note_jobs(lock, [submission.job])
        if id_file:
            with atomic_write(id_file) as stream:
                stream.write(f"{submission.job}\n")
        count = f"{len(tasks.numbers)} tasks" if tasks.word else "1 task"
        print(f"submitted job {submission.job} ({tasks.name}, {count})", flush=True)
        if detach:
            return 0
        status, over = Watch(tasks, submission, directory, signals).run()
        for lock in locks if over else []:
            forget_jobs(lock)
        return status


def job_directory(tasks: Tasks) -> Path:
    """Folder of a job's files: ``slurm/<name>`` next to its logs."""
    parent = Path(tasks.log).parent
    while len(tasks.split(str(parent))) > 1:
        parent = parent.parent
    return parent / "slurm" / tasks.name


# --- submission -----------------------------------------------------------------------------------


def submit(
    tasks: Tasks, settings: Sequence[Setting], after: str, directory: Path, signals: Signals
) -> Submission:
    """Submit ``tasks`` with sbatch.

    Raises:
        Interrupted: by one of ``signals``, before anything was submitted.
        UserError: sbatch rejects them, with its message and the line of slurm.conf that may be the
            cause; or a log cannot be written.
    """
    _check_logs(tasks, directory)
    earlier = read_submission(directory)
    script = directory / SCRIPT
    with atomic_write(script) as stream:
        stream.write(job_script(tasks, directory))
    command = sbatch_command(tasks, settings, after, script)
    late = partial(_late, tasks, script, earlier, signals)
    try:
        done = ask(command, "submit the job", signals, late)
    except Interrupted:
        script.unlink()
        raise
    if done.returncode != 0:
        script.unlink()
        raise _refused(tasks, done.stderr, settings, command)
    submission = Submission(
        job=done.stdout.strip().partition(";")[0],  # ";CLUSTER" may follow
        name=tasks.name,
        word=tasks.word,
        first=tasks.first,
        last=tasks.last,
        log=tasks.log,
        command=list(tasks.command),
        sbatch=command,
        time=time.strftime("%Y-%m-%dT%H:%M:%S"),
    )
    with atomic_write(directory / SUBMISSION) as stream:
        json.dump(asdict(submission), stream, indent=2)
    _remove_records(directory, keep=[submission.job, *([earlier.job] if earlier else [])])
    return submission


def sbatch_command(
    tasks: Tasks, settings: Sequence[Setting], after: str, script: Path
) -> list[str]:
    """Build the command that submits ``script``; everything site-specific is in ``settings``."""
    keys = [setting.key for setting in settings]
    # In file names % is special to Slurm, and %a stands for the number of the array task.
    log = "%a".join(part.replace("%", "%%") for part in tasks.split(os.path.abspath(tasks.log)))
    command = ["sbatch", "--parsable", f"--job-name={tasks.name}", f"--output={log}"]
    command += ["--open-mode=append", "--requeue", "--kill-on-invalid-dep=yes"]
    if tasks.word:
        throttle = f"%{tasks.nj}" if tasks.nj else ""
        command.append(f"--array={tasks.first}-{tasks.last}{throttle}")
    if "signal" not in keys:
        command.append(f"--signal={WARNING}")
    if after:
        command.append(f"--dependency=afterok:{after}")
    if tasks.num_threads and "cpus-per-task" not in keys:
        command.append(f"--cpus-per-task={tasks.num_threads}")
    if tasks.num_nodes > 1:
        command += [f"--nodes={tasks.num_nodes}", "--ntasks-per-node=1"]
    return [*command, *sbatch_options(settings, tasks.gpu), str(script)]


def job_script(tasks: Tasks, directory: Path) -> str:
    """Build the script that Slurm runs for each task."""

    def quote(text: str) -> str:
        parts = tasks.split(text)
        return '"$JOB"'.join(shlex.quote(part) if part else "" for part in parts) or "''"

    command = list(tasks.command)
    if tasks.num_nodes > 1:
        # From 22.05 on srun does not inherit the number of CPUs from the job.
        prefix = ["srun", "--kill-on-bad-exit=1", f"--nodes={tasks.num_nodes}"]
        prefix += [f"--ntasks={tasks.num_nodes}", "--ntasks-per-node=1"]
        command = [*prefix, *command]
    logged = ["--num-threads", str(tasks.num_threads)] if tasks.num_threads else []
    logged += ["--show", tasks.show] if tasks.show else []
    lines = [
        "#!/usr/bin/env bash",
        f"# {tasks.name}, written on {time.strftime('%Y-%m-%d %H:%M:%S')}",
        f"cd {shlex.quote(str(ROOT))} && . ./path.sh || exit 1",
        f"cd {shlex.quote(os.getcwd())} || exit 1",
    ]
    if tasks.word:
        lines.append("JOB=$SLURM_ARRAY_TASK_ID")
    if tasks.num_nodes > 1:
        lines.append(
            "[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
        )
    node = [*SER, "task", *logged, os.path.abspath(directory)]
    called = [*map(shlex.quote, node), quote(tasks.log), *map(quote, command)]
    return "\n".join([*lines, "exec " + " ".join(called), ""])


def _check_logs(tasks: Tasks, directory: Path) -> None:
    """Raise UserError, before submitting anything, if this machine cannot write the logs."""
    cure = "choose an --exp-dir on a writable disk"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for number in tasks.numbers:
            log = Path(tasks.log_of(number))
            log.parent.mkdir(parents=True, exist_ok=True)
            if log.is_dir():
                raise UserError(f"{log}: is a directory, where the log of a task should be; {cure}")
            if not os.access(log if log.exists() else log.parent, os.W_OK):
                raise UserError(f"{log}: cannot be written; {cure}")
        if not os.access(directory, os.W_OK):
            raise UserError(f"{directory}: cannot be written; {cure}")
    except OSError as err:
        raise UserError(f"{err.filename}: {err.strerror}; logs go there: {cure}") from err


def _check_dependencies(after: str, signals: Signals) -> None:
    """Raise UserError if Slurm does not know a job of ``after``, since it would not wait for it."""
    for job in filter(None, after.split(":")):
        command = ["scontrol", "show", "job", "--oneliner", job]
        done = ask(command, "look for a job", signals)
        if done.returncode != 0:
            raise UserError(
                f"--after {job}: {words(done.stderr)}; Slurm forgets jobs that ended some minutes "
                "ago; leave --after out if all went well with it"
            )


def _late(
    tasks: Tasks, script: Path, earlier: Submission | None, signals: Signals
) -> subprocess.CompletedProcess | None:
    """Look for a job of ``script`` that sbatch gave up on and the controller took nevertheless.

    Returns:
        What sbatch would have answered; an error if the controller is silent; None without a job.
    """
    command = ["squeue", "--noheader", "--states=all", f"--name={tasks.name}", "--format=%F|%o"]
    before = int(earlier.job) if earlier else 0
    for again in (False, True):  # the controller may answer this before it takes the job
        if again:
            signals.wait(polls()[0])
        done = call(command)
        if is_silent(done):
            return done
        for line in done.stdout.splitlines():
            job, _, path = line.partition("|")
            if path == os.path.abspath(script) and int(job) > before:
                return subprocess.CompletedProcess(command, 0, job, "")
    return None


def _refused(
    tasks: Tasks, complaint: str, settings: Sequence[Setting], command: Sequence[str]
) -> UserError:
    suspects = blame(complaint, settings)
    lines = "".join(f"\n  {setting}" for setting in suspects)
    advice = f"change slurm.conf:{lines}" if lines else "it may need more settings in slurm.conf"
    return UserError(
        f"sbatch refuses {tasks.name}: {words(complaint)}; {advice}\n"
        f"  it was called as: {shlex.join(command)}"
    )


def _remove_records(directory: Path, keep: Sequence[str]) -> None:
    """Remove files of older jobs; the previous one is kept, since it may be waited for."""
    for path in directory.glob("[0-9]*"):
        if re.split(r"[._]", path.name)[0] not in keep:
            path.unlink(missing_ok=True)
