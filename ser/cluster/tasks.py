"""Tasks in Kaldi's calling convention, shared by local and Slurm jobs.

``JOB=1:10 exp/log/train.JOB.log command --part JOB`` stands for ten tasks.
"""

import os
import re
import select
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ser.cluster.locks import held
from ser.console import progress
from ser.errors import EXIT_RESUME, UserError, some

LOCK = ".lock"
NAMED_FAILURES = 10  # listed in the last line of a run
PENDING, RUNNING, DONE, FAILED = "pending", "running", "done", "failed"


@dataclass(frozen=True)
class Tasks:
    """Tasks to run; see ``parse_tasks``.

    ``word`` is a placeholder in ``log`` and ``command`` for the task number, from ``first`` to
    ``last``; without a word there is one task.
    """

    log: str
    command: Sequence[str]
    name: str
    word: str = ""
    first: int = 1
    last: int = 1
    gpu: int = 0  # GPUs per task, on each of its nodes
    devices: int = 0  # GPUs of this machine that the tasks share; 0: all visible ones
    num_threads: int = 0  # 0: divide this machine's cores; on a cluster, leave it to Slurm
    num_nodes: int = 1
    nj: int = 0  # tasks at a time; 0: all
    show: str = ""  # regular expression: which lines of stdout the user sees
    hold: Sequence[Path] = ()  # directories to lock meanwhile

    @property
    def numbers(self) -> range:
        """Numbers of all tasks."""
        return range(self.first, self.last + 1)

    def fill(self, text: str, number: int | str) -> str:
        """Replace the word in ``text`` by ``number``, unless it is part of another word."""
        return str(number).join(self.split(text))

    def split(self, text: str) -> list[str]:
        """Split ``text`` at the word."""
        if not self.word:
            return [text]
        return re.split(rf"(?<![A-Za-z0-9]){re.escape(self.word)}(?![A-Za-z0-9])", text)

    def log_of(self, number: int) -> str:
        """The log of one task."""
        return self.fill(self.log, number)

    def title(self, number: int) -> str:
        """Name of a task in messages: ``stage4 task 3``, or ``stage5`` if it is the only one."""
        return f"{self.name} task {number}" if self.word else self.name


def parse_tasks(arguments: Sequence[str], name: str = "", **options) -> Tasks:
    """Parse ``[JOB=1:N] LOG COMMAND [ARG...]``; ``options`` are fields of Tasks.

    Raises:
        UserError: something is missing or invalid; says what was expected.
    """
    word, first, last = "", 1, 1
    rest = list(arguments)
    found = re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?", rest[0]) if rest else None
    if found:
        word, first, last = found[1], int(found[2]), int(found[3] or found[2])
        if first > last:
            raise UserError(f"{rest[0]}: no tasks; expected {word}=FIRST:LAST, e.g. {word}=1:10")
        rest = rest[1:]
    if len(rest) < 2:
        raise UserError("expected [JOB=1:N] LOG COMMAND [ARG...] after the options; see --help")
    log, *command = rest
    tasks = Tasks(log, command, name, word, first, last, **options)
    if first < last and len(tasks.split(log)) == 1:
        raise UserError(
            f"LOG {log}: {word} does not stand in it, so that {last - first + 1} tasks would write "
            f"one log; expected e.g. {Path(log).with_suffix('')}.{word}.log"
        )
    parts = tasks.split(Path(log).name.removesuffix(".log"))
    name = name or re.sub(r"[^\w.-]", "_", ".".join(part.strip(".") for part in parts))
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name.strip(".")):
        raise UserError(f"--name {name!r}: expected letters, digits, dots, dashes and underscores")
    least_of = {"gpu": 0, "devices": 0, "num_threads": 0, "nj": 0, "num_nodes": 1}
    for option, least in least_of.items():
        if getattr(tasks, option) < least:
            raise UserError(f"--{option.replace('_', '-')}: expected a number from {least} on")
    return replace(tasks, name=name.strip("."))


# --- common to both backends ----------------------------------------------------------------------


@contextmanager
def hold(tasks: Tasks) -> Iterator[list[Path]]:
    """Hold the lock of each directory in ``tasks.hold`` while the block runs; yield their paths.

    Raises:
        UserError: another run is using one of them; says which.
    """
    with ExitStack() as stack:
        locks = [Path(directory) / LOCK for directory in tasks.hold]
        for lock in locks:
            stack.enter_context(held(lock, str(lock.parent)))
        yield locks


class Signals:
    """Record INT, TERM, HUP and USR1 while the block runs, and wait for the next one.

    Signals that were ignored before (``nohup``) stay ignored.

    Args:
        children: Whether the end of a child also ends a wait, including one that ended earlier.
    """

    def __init__(self, children: bool = True) -> None:
        self._children = children
        self.received: list[signal.Signals] = []
        self._taken = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Signals":
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        if self._children:
            self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def take(self) -> list[signal.Signals]:
        """Return the signals since the last call."""
        new = self.received[self._taken :]
        self._taken += len(new)
        return new

    def wait(self, seconds: float) -> None:
        """Sleep until a signal arrives (or a child ends), for ``seconds`` at most."""
        if select.select([self._read], [], [], seconds)[0]:
            os.read(self._read, 4096)

    @property
    def last(self) -> signal.Signals | None:
        """The most recent signal."""
        return self.received[-1] if self.received else None

    def _note(self, number: int, _: object) -> None:
        self.received.append(signal.Signals(number))


@dataclass
class Board:
    """Counts of tasks by state, printed when they change."""

    tasks: Tasks
    states: dict[int, str] = field(default_factory=dict)
    _said: str = ""

    def __post_init__(self) -> None:
        self.states = dict.fromkeys(self.tasks.numbers, PENDING)

    def say(self) -> bool:
        """Print the counts if they have changed; return whether they have."""
        present = list(self.states.values())
        counts = ", ".join(
            f"{present.count(state)} {state}" for state in (PENDING, RUNNING, DONE, FAILED)
        )
        changed = counts != self._said
        if changed:
            progress(f"{self.tasks.name}: {counts}")
        self._said = counts
        return changed

    @property
    def open(self) -> list[int]:
        """The tasks that have not ended."""
        return [number for number, state in self.states.items() if state in (PENDING, RUNNING)]


def conclude(tasks: Tasks, statuses: Mapping[int, int], said: bool = False) -> int:
    """Return the exit status of a run: 0, or that of the first failed task.

    Stopped tasks (75) count only if none failed. If there are several tasks, the failed ones are
    listed on stderr with their logs, unless ``said``: their common reason was printed already.
    """
    failed = {n: s for n, s in sorted(statuses.items()) if s not in (0, EXIT_RESUME)}
    if failed and tasks.word and not said:
        listed = [f"{tasks.log_of(n)} (exit status {s})" for n, s in failed.items()]
        sys.stdout.flush()
        print(
            f"error: {tasks.name}: {len(failed)} of {len(tasks.numbers)} tasks failed; see "
            + some(listed, NAMED_FAILURES),
            file=sys.stderr,
        )
    if failed:
        return next(iter(failed.values()))
    return EXIT_RESUME if EXIT_RESUME in statuses.values() else 0
