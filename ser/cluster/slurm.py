"""Run tasks as one Slurm job, an array if there are several, and wait for it.

Slurm is asked for little: squeue says which tasks are still to run, and each task records its own
end in a file (``local/slurm_task.sh``), which outlives Slurm's memory. Beside the logs lies
``slurm/<name>/`` with the script given to sbatch, ``submission.json`` and these records.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ser.cluster.local import (
    DONE,
    FAILED,
    PENDING,
    ROOT,
    RUNNING,
    Board,
    Signals,
    Tasks,
    conclude,
    hold,
)
from ser.cluster.locks import forget_jobs, note_jobs
from ser.cluster.slurm_conf import Setting, blame, read_settings, sbatch_options
from ser.errors import EXIT_RESUME, UserError
from ser.files import atomic_write

SUBMISSION = "submission.json"
SCRIPT = "job.sh"
DEFAULT_CONF = ROOT / "conf/slurm.conf"
WARNING = "B:USR1@120"  # to the script, two minutes before the time limit
POLL = "SER_SLURM_POLL"  # seconds between looks at the queue
POLL_SECONDS = 2.0, 15.0  # at first and later, or both from the environment
GRACE_POLLS = 4  # for the record of a task that has left the queue; network disks may lag behind
COMMAND_SECONDS = 90.0  # before a command of Slurm counts as unanswered
ACTIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED", "RESIZING")
SILENT = ("Unable to contact", "Socket timed out", "Connection refused", "Zero Bytes were")
UNKNOWN = "Invalid job id"


@dataclass(frozen=True)
class Submission:
    """What was submitted; the content of ``submission.json``."""

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
        """How squeue calls a task: ``12_3``, or ``12`` where it is the only one."""
        return f"{self.job}_{number}" if self.word else self.job


def run_slurm(
    tasks: Tasks,
    conf: Path | None = None,
    after: str = "",
    detach: bool = False,
    id_file: Path | None = None,
) -> int:
    """Submit ``tasks`` and wait for their end; their exit status.

    INT and TERM cancel the job, USR1 does so too and gives 75; HUP leaves it running. Before there
    is a job, each of them ends the wait for Slurm's controller.

    Args:
        conf: Settings of sbatch; None: those of the recipe.
        after: ``ID[:ID...]``: jobs that have to be done before.
        detach: Do not wait. Locks are then held for as long as the job lives.
        id_file: Is given the number of the job.

    Raises:
        UserError: Slurm is not here or refuses the job, a log cannot be written, a directory of
            ``tasks.hold`` is in use.
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
        except _Interrupted as stop:
            print(f"{stop.signal.name}: {tasks.name} was not submitted", flush=True)
            return _status_of(stop.signal)
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
    """Where the files about a job lie: ``slurm/<name>`` beside its logs."""
    parent = Path(tasks.log).parent
    while len(tasks.split(str(parent))) > 1:
        parent = parent.parent
    return parent / "slurm" / tasks.name


def read_submission(directory: Path) -> Submission | None:
    """The last submission into ``directory``; None if there is none."""
    try:
        content = json.loads((directory / SUBMISSION).read_text(encoding="utf-8"))
        return Submission(**content)
    except (OSError, ValueError, TypeError):
        return None


# --- submission -----------------------------------------------------------------------------------


class _Interrupted(Exception):
    """A signal has come before there was a job."""

    def __init__(self, number: signal.Signals):
        super().__init__(number.name)
        self.signal = number


def submit(
    tasks: Tasks, settings: Sequence[Setting], after: str, directory: Path, signals: Signals
) -> Submission:
    """Give ``tasks`` to sbatch.

    Raises:
        _Interrupted: by one of ``signals``, and nothing was submitted.
        UserError: sbatch refuses, with its words and the line of slurm.conf that may be the cause;
            or a log cannot be written.
    """
    _check_logs(tasks, directory)
    earlier = read_submission(directory)
    script = directory / SCRIPT
    with atomic_write(script) as stream:
        stream.write(job_script(tasks, directory))
    command = sbatch_command(tasks, settings, after, script)
    try:
        done = _ask(command, "submit the job", signals)
    except _Interrupted:
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
    """The command line that submits ``script``; of what a site decides only ``settings``."""
    keys = [setting.key for setting in settings]
    # In names of files % is special to Slurm, and %a stands for the number of the array's task.
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
    """The script that Slurm runs for each task."""

    def quote(text: str) -> str:
        return '"$JOB"'.join(shlex.quote(part) if part else "" for part in parts(text)) or "''"

    def parts(text: str) -> list[str]:
        return tasks.split(text)

    command = list(tasks.command)
    if tasks.num_nodes > 1:
        # From 22.05 on srun does not take the number of CPUs from the job by itself.
        prefix = ["srun", "--kill-on-bad-exit=1", f"--nodes={tasks.num_nodes}"]
        prefix += [f"--ntasks={tasks.num_nodes}", "--ntasks-per-node=1"]
        command = [*prefix, *command]
    logged = ["--num-threads", str(tasks.num_threads)] if tasks.num_threads else []
    logged += ["--show", tasks.show] if tasks.show else []
    lines = [
        "#!/usr/bin/env bash",
        f"# {tasks.name}, written by ser.cli.bin.run_jobs on {time.strftime('%Y-%m-%d %H:%M:%S')}",
        f"cd {shlex.quote(str(ROOT))} && . ./path.sh || exit 1",
        f"cd {shlex.quote(os.getcwd())} || exit 1",
    ]
    if tasks.word:
        lines.append("JOB=$SLURM_ARRAY_TASK_ID")
    if tasks.num_nodes > 1:
        lines.append(
            "[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
        )
    words = [str(ROOT / "local/slurm_task.sh"), os.path.abspath(directory), *logged]
    called = [*map(shlex.quote, words), quote(tasks.log), *map(quote, command)]
    return "\n".join([*lines, "exec " + " ".join(called), ""])


def _check_logs(tasks: Tasks, directory: Path) -> None:
    """UserError, before anything is submitted, if this machine cannot write the logs."""
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
    """UserError if Slurm knows nothing of a job of ``after``: it would not wait for that."""
    for job in filter(None, after.split(":")):
        command = ["scontrol", "show", "job", "--oneliner", job]
        done = _ask(command, "look for a job", signals)
        if done.returncode != 0:
            raise UserError(
                f"--after {job}: {_words(done.stderr)}; Slurm forgets jobs that ended some minutes "
                "ago; leave --after out if all went well with it"
            )


def _refused(
    tasks: Tasks, complaint: str, settings: Sequence[Setting], command: Sequence[str]
) -> UserError:
    suspects = blame(complaint, settings)
    lines = "".join(f"\n  {setting}" for setting in suspects)
    advice = f"change slurm.conf:{lines}" if lines else "it may need more settings in slurm.conf"
    return UserError(
        f"sbatch refuses {tasks.name}: {_words(complaint)}; {advice}\n"
        f"  it was called as: {shlex.join(command)}"
    )


def _words(complaint: str) -> str:
    """Slurm's own words in one line."""
    return "; ".join(line.strip() for line in complaint.splitlines() if line.strip())


def _remove_records(directory: Path, keep: Sequence[str]) -> None:
    """Remove what tasks of older jobs left; somebody may be waiting for the one before this."""
    for path in directory.glob("[0-9]*"):
        if re.split(r"[._]", path.name)[0] not in keep:
            path.unlink(missing_ok=True)


def _ask(command: Sequence[str], purpose: str, signals: Signals) -> subprocess.CompletedProcess:
    """Run a command of Slurm; while the controller does not answer, say so once and try again.

    Raises:
        _Interrupted: one of ``signals`` has come, and the command did not succeed.
    """
    said = False
    while True:
        done = _slurm(command)
        silent = _is_silent(done)
        if silent and not said:
            print(f"waiting for Slurm's controller to {purpose}: {_words(done.stderr)}", flush=True)
        if silent:
            signals.wait(_polls()[0])
        if done.returncode != 0 and signals.last:  # which may also be what ended the command
            raise _Interrupted(signals.last)
        if not silent:
            if said:
                print("Slurm's controller answers again", flush=True)
            return done
        said = True


def _slurm(command: Sequence[str]) -> subprocess.CompletedProcess:
    # Within a job its own variables would become those of the new one.
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k in kept}
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "Socket timed out")


def _is_silent(done: subprocess.CompletedProcess) -> bool:
    return done.returncode != 0 and any(words in done.stderr for words in SILENT)


def _polls() -> tuple[float, float]:
    """Seconds between looks at the queue: at first, and later."""
    fixed = os.environ.get(POLL)
    try:
        return (float(fixed), float(fixed)) if fixed else POLL_SECONDS
    except ValueError:
        raise UserError(f"{POLL}={fixed}: expected a number of seconds") from None


# --- waiting --------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Follows the tasks of a submitted job until all have ended."""

    tasks: Tasks
    submission: Submission
    directory: Path
    signals: Signals
    statuses: dict[int, int] = field(default_factory=dict)
    _missing: dict[int, float] = field(default_factory=dict)  # task -> since when
    _shown: dict[int, int] = field(default_factory=dict)  # task -> bytes of its output
    _held: set[int] = field(default_factory=set)
    _silent: bool = False
    _cancelled: signal.Signals | None = None

    def run(self) -> tuple[int, bool]:
        """Wait; the exit status, and whether all tasks have ended."""
        board = Board(self.tasks)
        first, most = _polls()
        interval = first
        while True:
            self._look(board)
            interval = first if board.say() else min(most, 1.2 * interval)
            if not board.open:
                break
            self.signals.wait(interval)
            if self._interrupted():
                return self._status(), False
        return self._status(), True

    def _status(self) -> int:
        if self._cancelled is None:
            return conclude(self.tasks, self.statuses)
        return _status_of(self._cancelled)

    def _interrupted(self) -> bool:
        """Act on a signal; whether to stop waiting."""
        received, self.signals.received[:] = self.signals.received[:], []
        if not received:
            return False
        job = self.submission.job
        if received[-1] == signal.SIGHUP:
            print(
                f"hung up: job {job} ({self.tasks.name}) goes on; ./run.sh --status and "
                f"squeue -j {job} say how far it is, scancel {job} ends it",
                flush=True,
            )
            self._cancelled = signal.SIGHUP
            return True
        if self._cancelled is not None:  # asked a second time
            return True
        self._cancelled = received[-1]
        done = _slurm(["scancel", job])
        outcome = f"failed: {_words(done.stderr)}" if done.returncode else "waiting for its end"
        print(f"{received[-1].name}: scancel {job} ({self.tasks.name}): {outcome}", flush=True)
        return done.returncode != 0

    def _look(self, board: Board) -> None:
        """Bring the states of ``board`` up to date."""
        queue = self._queue()
        for number in board.open:
            record = self._record(number)
            state = queue.get(number) if queue is not None else None
            if record.get("state") == "ended" and record["status"] == 0:
                self._end(board, number, 0)
            elif queue is None:
                continue
            elif state is not None:
                self._missing.pop(number, None)
                board.states[number] = PENDING if state == "PENDING" else RUNNING
            else:
                self._judge(board, number, record)
            self._show(number)

    def _judge(self, board: Board, number: int, record: dict) -> None:
        """Settle a task that has left the queue and has not recorded a success."""
        waited = time.monotonic() - self._missing.setdefault(number, time.monotonic())
        if record.get("state") != "ended" and waited < GRACE_POLLS * _polls()[1]:
            return
        facts = self._facts(number)
        if facts is None or facts.get("JobState") in ACTIVE:
            return  # a controller that has just come back may list a job late
        status, reason = explain_end(record, facts, self.tasks.log_of(number))
        self._end(board, number, status, reason)

    def _end(self, board: Board, number: int, status: int, reason: str = "") -> None:
        self.statuses[number] = status
        board.states[number] = DONE if status == 0 else FAILED
        self._show(number)
        if status in (0, EXIT_RESUME) and not reason or self._cancelled is not None:
            return
        title, job = self.tasks.title(number), self.submission.job_of(number)
        print(f"[job] {title} (job {job}) {reason}; log: {self.tasks.log_of(number)}")
        errors = self._file(number, "err")
        if errors.is_file():  # the end of the log, less its last line, which says what we have said
            text = errors.read_text(encoding="utf-8", errors="replace")
            print(re.sub(r"exit status \d+; log: .*\n\Z", "", text), end="")
        print(end="", flush=True)

    def _queue(self) -> dict[int, str] | None:
        """{number: state} of the tasks that have not ended; None if Slurm does not answer."""
        command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r"]
        done = _slurm([*command, f"--jobs={self.submission.job}"])
        answered = done.returncode == 0 or UNKNOWN in done.stderr
        if answered == self._silent:
            what = "answers again" if answered else f"does not answer: {_words(done.stderr)}"
            print(f"Slurm's controller {what}" + ("" if answered else "; waiting"), flush=True)
        self._silent = not answered
        if not answered:
            return None
        queue = {}
        for line in done.stdout.splitlines():
            job, state, reason = line.split("|", 2)
            number = int(job.partition("_")[2] or self.tasks.first)
            queue[number] = state
            self._say_held(number, reason)
        return queue

    def _say_held(self, number: int, reason: str) -> None:
        """Slurm holds a job that it could not start; without a hint one would wait for ever."""
        held = "held" in reason.lower()
        if held and number not in self._held:
            self._held.add(number)
            job = self.submission.job_of(number)
            print(
                f"[job] {self.tasks.title(number)} (job {job}) is held: {reason}; scontrol release "
                f"{job} lets it go on, scancel {job} ends it",
                flush=True,
            )
        elif not held:
            self._held.discard(number)

    def _facts(self, number: int) -> dict[str, str] | None:
        """What Slurm still knows of a task; empty if nothing, None if it does not answer."""
        job = self.submission.job_of(number)
        done = _slurm(["scontrol", "show", "job", "--oneliner", job])
        if done.returncode == 0:
            return dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", done.stdout))
        if _is_silent(done):
            return None
        return _accounted(job)

    def _file(self, number: int, kind: str) -> Path:
        return self.directory / f"{self.submission.job_of(number)}.{kind}"

    def _record(self, number: int) -> dict:
        try:
            return json.loads(self._file(number, "json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _show(self, number: int) -> None:
        """Pass on what a task has put out for the user, in whole lines."""
        try:
            with open(self._file(number, "out"), "rb") as stream:
                stream.seek(self._shown.get(number, 0))
                lines = stream.read().rpartition(b"\n")[0]
        except OSError:
            return
        if lines:
            self._shown[number] = self._shown.get(number, 0) + len(lines) + 1
            print(lines.decode("utf-8", "replace"), flush=True)


def _status_of(number: signal.Signals) -> int:
    """The exit status of a run that this signal has ended."""
    return EXIT_RESUME if number == signal.SIGUSR1 else 128 + number


def _accounted(job: str) -> dict[str, str]:
    """What Slurm's accounting knows of a job; empty where there is none."""
    if shutil.which("sacct") is None:
        return {}
    form = "--format=State,ExitCode,NodeList,Timelimit"
    done = _slurm(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", form])
    fields = done.stdout.splitlines()[0].split("|") if done.stdout.strip() else []
    if len(fields) != 4:
        return {}
    state = (fields[0].split() or [""])[0]  # "CANCELLED by 1000"
    return dict(JobState=state, ExitCode=fields[1], NodeList=fields[2], TimeLimit=fields[3])


def explain_end(record: dict, facts: dict[str, str], log: str) -> tuple[int, str]:
    """The exit status of a task that did not succeed, and what happened to it in words.

    Args:
        record: What the task itself wrote; may be empty.
        facts: What Slurm knows, as ``scontrol show job`` has it; may be empty.
    """
    state, node = facts.get("JobState", ""), facts.get("NodeList", "")
    code, _, number = facts.get("ExitCode", "").partition(":")
    status = int(record["status"]) if record.get("state") == "ended" else 0
    on_node = f" on {node}" if node not in ("", "(null)") else ""
    if state == "COMPLETED" and code == "0" and not status:
        return 0, ""
    if state == "TIMEOUT":
        limit = facts.get("TimeLimit", "unknown")
        return status or 1, (
            f"reached its time limit (TimeLimit={limit}); raise time in conf/slurm.conf"
        )
    if state == "OUT_OF_MEMORY":
        return status or 137, "ran out of memory; raise mem-per-cpu in conf/slurm.conf"
    if state in ("NODE_FAIL", "BOOT_FAIL"):
        return status or 1, f"lost its node{on_node} ({state}); run the same command again"
    if state == "CANCELLED":
        if facts.get("Reason") in ("DependencyNeverSatisfied", "Dependency"):
            return 1, "was not run, since a job that it comes after has failed"
        return status or 1, "was cancelled (scancel)"
    if status == 137:
        return status, (
            "was killed (signal 9), twice; out of memory? raise mem-per-cpu in conf/slurm.conf"
        )
    if status == 138:
        return status, "was stopped twice, before it could listen; raise time in conf/slurm.conf"
    if status == EXIT_RESUME:
        return status, "was stopped and could not be requeued; run the same command to go on"
    if status:
        return status, f"failed with exit status {status}"
    if number == "53":
        return 1, f"could not be started{on_node}: its log could not be written there ({log})"
    if number not in ("", "0"):
        return 128 + int(number), f"was ended{on_node} by signal {number}"
    if code not in ("", "0"):
        return int(code), f"failed{on_node} with exit status {code}, before it could say why"
    last = f" was last seen running on {record['host']}" if record.get("host") else ""
    return 1, f"has left Slurm's queue without a result;{last or ' it left no trace'}"
