"""Wait for a Slurm job: progress and results of its tasks."""

import json
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from ser.cluster.locks import UNKNOWN
from ser.cluster.slurm_commands import accounted, call, is_silent, polls, status_of, words
from ser.cluster.submissions import Submission
from ser.cluster.tasks import DONE, FAILED, PENDING, RUNNING, Board, Signals, Tasks, conclude
from ser.errors import EXIT_RESUME

GRACE_POLLS = 4  # to wait for the record of a task that left the queue; network disks lag
ACTIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED", "RESIZING")


@dataclass
class Watch:
    """Follow the tasks of a submitted job until all have ended."""

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
        """Wait, and return the exit status and whether all tasks have ended."""
        board = Board(self.tasks)
        first, most = polls()
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
        return status_of(self._cancelled)

    def _interrupted(self) -> bool:
        """Handle a signal; return whether to stop waiting."""
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
        done = call(["scancel", job])
        outcome = f"failed: {words(done.stderr)}" if done.returncode else "waiting for its end"
        print(f"{received[-1].name}: scancel {job} ({self.tasks.name}): {outcome}", flush=True)
        return done.returncode != 0

    def _look(self, board: Board) -> None:
        """Update the states of ``board``."""
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
        """Determine the result of a task that left the queue without recording success."""
        waited = time.monotonic() - self._missing.setdefault(number, time.monotonic())
        if record.get("state") != "ended" and waited < GRACE_POLLS * polls()[1]:
            return
        facts = self._facts(number)
        if facts is None or facts.get("JobState") in ACTIVE:
            return  # a controller that has just restarted may list a job late
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
        if errors.is_file():  # the end of the log, without its last line, which repeats the above
            text = errors.read_text(encoding="utf-8", errors="replace")
            print(re.sub(r"exit status \d+; log: .*\n\Z", "", text), end="")
        print(end="", flush=True)

    def _queue(self) -> dict[int, str] | None:
        """{number: state} of unfinished tasks; None if Slurm does not answer."""
        command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r"]
        done = call([*command, f"--jobs={self.submission.job}"])
        answered = done.returncode == 0 or UNKNOWN in done.stderr
        if answered == self._silent:
            what = "answers again" if answered else f"does not answer: {words(done.stderr)}"
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
        """Report a job that Slurm holds since it could not start it, which could wait forever."""
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
        """Slurm's data on a task; empty if there are none, None if it does not answer."""
        job = self.submission.job_of(number)
        done = call(["scontrol", "show", "job", "--oneliner", job])
        if done.returncode == 0:
            return dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", done.stdout))
        if is_silent(done):
            return None
        return accounted(job)

    def _file(self, number: int, kind: str) -> Path:
        return self.directory / f"{self.submission.job_of(number)}.{kind}"

    def _record(self, number: int) -> dict:
        try:
            return json.loads(self._file(number, "json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _show(self, number: int) -> None:
        """Pass on a task's new output for the user, in whole lines."""
        try:
            with open(self._file(number, "out"), "rb") as stream:
                stream.seek(self._shown.get(number, 0))
                lines = stream.read().rpartition(b"\n")[0]
        except OSError:
            return
        if lines:
            self._shown[number] = self._shown.get(number, 0) + len(lines) + 1
            print(lines.decode("utf-8", "replace"), flush=True)


def explain_end(record: dict, facts: dict[str, str], log: str) -> tuple[int, str]:
    """Return the exit status of a task that did not succeed, and the reason in words.

    Args:
        record: The task's own record; may be empty.
        facts: Slurm's data, as printed by ``scontrol show job``; may be empty.
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
        return status, "was stopped and could not be requeued; run the same command to resume"
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
