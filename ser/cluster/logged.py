"""Logs of what runs on this machine: command, host, times, output and exit status."""

import ctypes
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import IO

from ser.cluster.locks import slurm_job
from ser.cluster.tasks import Signals
from ser.console import explain
from ser.errors import EXIT_RESUME, Stopped, UserError

EXIT_NOT_FOUND = 127  # of shells
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
LIBC = ctypes.CDLL(None)
TICK_SECONDS = 1.0  # between polls of a command, in case SIGCHLD is missed
PROGRESS = "[progress] "
WARNING = "warning: "
LAST_LINES = 15
FURNITURE = re.compile(
    r"# (command|host|job|start|pid|end|exit status):|warning: |\[(fold|job|progress)\] "
)


class Display:
    """Pass lines of a command's stdout on to the user.

    Args:
        show: Regular expression of the lines to pass on.
        live: Rewrite ``[progress] ...`` lines in place on a terminal, drop them elsewhere.
        watch: With ``live``: a prefix of log files, the newest of which is also searched for
            progress, since jobs with their own logs print nothing here.
    """

    def __init__(self, stream: IO[str], show: str = "", live: bool = False, watch: str = ""):
        self._stream, self._show, self._live = stream, re.compile(show), live
        self._watch = Path(watch) if watch else None
        self._terminal = live and stream.isatty()
        self._on_screen = False
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        """Show a line, given without its line ending, if it is meant for the user."""
        with self._lock:
            if self._live and text.startswith(PROGRESS):
                self._progress(text)
            elif not text.startswith(WARNING) and self._show.search(text):
                self._erase()
                self._stream.write(text + "\n")
                self._stream.flush()

    def tick(self) -> None:
        """Show the latest progress in the watched logs."""
        if not self._terminal or self._watch is None:
            return
        logs = self._watch.parent.glob(f"{self._watch.name}*.log")
        newest = max(logs, key=lambda log: log.stat().st_mtime_ns, default=None)
        lines = tail(newest).splitlines() if newest else []
        for text in reversed(lines):
            if text.startswith(PROGRESS):
                with self._lock:
                    self._progress(text)
                return

    def close(self) -> None:
        """Remove the progress line from the screen."""
        with self._lock:
            self._erase()
            self._stream.flush()

    def _progress(self, text: str) -> None:
        if self._terminal:
            columns = shutil.get_terminal_size().columns
            self._stream.write("\r\033[K" + f"  {text.removeprefix(PROGRESS)}"[: columns - 1])
            self._stream.flush()
            self._on_screen = True

    def _erase(self) -> None:
        if self._on_screen:
            self._stream.write("\r\033[K")
        self._on_screen = False


class LoggedCommand:
    """A running command, its stdout and stderr in ``log`` between a header and a footer.

        # command: .venv/bin/python -m ser data --corpus mini ...
        # host: node7
        # job: 12_3                          (in a Slurm job)
        # start: 2025-01-31T12:00:00+0100
        # pid: 4711                          (of the command)
        # end: 2025-01-31T12:03:10+0100
        # exit status: 0

    The command leads its own process group, which is killed if this process dies.

    Args:
        threads: Threads of the command's numeric libraries; 0 leaves them alone.
        append: Append to ``log`` instead of replacing it.

    Raises:
        UserError: the log cannot be written.
    """

    def __init__(
        self,
        log: Path | str,
        command: Sequence[str],
        display: Display,
        threads: int = 0,
        append: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log, self.display = Path(log), display
        self._lost: OSError | None = None
        self._append(command, new=not append)
        environment = dict(os.environ if environment is None else environment)
        if threads:
            environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._process: subprocess.Popen | None = None
        self._reader: threading.Thread | None = None
        self._status: int | None = None
        try:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._stream,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except OSError as err:
            self._write(f"error: {command[0]}: {err.strerror}\n".encode())
            self._end(EXIT_NOT_FOUND)
            return
        self._guard = _Guard(self._process.pid)
        self._write(f"# pid: {self._process.pid}\n".encode())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """Return the exit status as in a shell, or None while the command runs."""
        if self._status is None and self._process.poll() is not None:
            self._reader.join()
            self._guard.release()
            self._end(shell_status(self._process.returncode))
        return self._status

    def send(self, number: signal.Signals) -> None:
        """Pass on a signal: USR1, "stop when you can", to the command only, others to its group."""
        if self._process is None or self._process.returncode is not None:
            return
        if number == signal.SIGUSR1:
            self._process.send_signal(number)
        else:
            os.killpg(self._process.pid, number)

    def report(self, out: IO[str], err: IO[str]) -> None:
        """Print the warnings of a finished command and, if it failed, the reason."""
        self.warn(out)
        if self._status:
            print(f"{self.reason()}\n{self.ending()}".strip(), file=err)
        err.flush()

    def warn(self, out: IO[str]) -> None:
        """Print the warnings of a finished command."""
        for line in self._lines():
            if line.startswith(WARNING):
                print(line, file=out, flush=True)

    def reason(self) -> str:
        """Return the last words of a failed command, which say why it failed."""
        if self._status == EXIT_RESUME:
            return "stopped by a signal after writing a checkpoint; run the same command to resume"
        words = last_words([x for x in self._lines() if not FURNITURE.match(x)])
        return "\n".join([*words, f"error: {explain(self._lost)}"] if self._lost else words)

    def ending(self) -> str:
        """Return the exit status and log of a failed command."""
        stopped = self._status == EXIT_RESUME
        return "" if stopped else f"exit status {self._status}; log: {self.log}"

    def _lines(self) -> list[str]:
        with open(self.log, "rb") as stream:
            stream.seek(self._began)
            return stream.read().decode("utf-8", "replace").splitlines()

    def _append(self, command: Sequence[str], new: bool) -> None:
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._stream = open(self.log, "ab", buffering=0)  # noqa: SIM115 (closed by _end)
            if new:
                self._stream.truncate(0)
        except OSError:
            raise UserError(
                f"{self.log}: cannot be written; choose an --exp-dir on a writable disk"
            ) from None
        self._began = 0 if new else self.log.stat().st_size
        self._write(header(command).encode())

    def _read(self) -> None:
        for raw in self._process.stdout:
            self._write(raw if raw.endswith(b"\n") else raw + b"\n")  # in one piece
            with suppress(OSError):  # nobody looks, or its file is on a full disk
                self.display.line(raw.decode("utf-8", "replace").rstrip("\n"))

    def _write(self, line: bytes) -> None:
        """Write to the log; the command goes on without what a full disk refuses."""
        try:
            self._stream.write(line)
        except OSError as err:
            self._lost = OSError(err.errno, err.strerror, str(self.log))

    def _end(self, status: int) -> None:
        self._write(footer(status).encode())
        self._stream.close()
        with suppress(OSError):
            self.display.close()
        self._status = status


class _Guard:
    """A process that kills a process group as soon as this process dies, even by kill -9."""

    def __init__(self, group: int) -> None:
        read, self._write = os.pipe()
        script = f"read -r _ || kill -KILL -- -{group}"
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdin=read,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(read)

    def release(self) -> None:
        """Stop guarding: the group has ended."""
        with suppress(BrokenPipeError):  # it was killed
            os.write(self._write, b"\n")
        os.close(self._write)
        self._process.wait()


def run_logged(
    command: LoggedCommand, signals: Signals, usr1: signal.Signals = signal.SIGUSR1
) -> int:
    """Wait for ``command``, passing on ``signals``, USR1 as ``usr1``; return its exit status.

    INT is passed on as TERM, which background processes do not ignore.
    """
    passed = {signal.SIGINT: signal.SIGTERM, signal.SIGUSR1: usr1}
    while (status := command.poll()) is None:
        signals.wait(TICK_SECONDS)
        for number in signals.take():
            command.send(passed.get(number, number))
        command.display.tick()
    return status


@contextmanager
def fold_log(path: Path, command: Sequence[str]) -> Iterator[None]:
    """Append everything this process prints to ``path`` while the block runs.

    File descriptors are redirected, which also captures existing logging handlers and output of
    native libraries. If the block raises, the log gets the error (with a traceback unless it is a
    UserError) and the footer exit status 1, or that of the signal if the training was asked to
    stop.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    stdout, stderr = os.dup(1), os.dup(2)
    handlers = list(logging.root.handlers)
    status = 1
    with open(path, "a", encoding="utf-8", buffering=1) as log:
        log.write(header(command))
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            with redirect_stdout(log), redirect_stderr(log):
                try:
                    yield
                    status = 0
                except UserError as err:
                    print(f"error: {err}", file=sys.stderr)
                    raise
                except Stopped as stop:
                    print(stop)
                    status = stop.status
                    raise
                except Exception:
                    traceback.print_exc()
                    raise
        finally:
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            os.close(stdout)
            os.close(stderr)
            # drop ESPnet's handler for this log; it adds another for the next fold
            logging.root.handlers = [h for h in logging.root.handlers if h in handlers]
            log.write(footer(status))


def last_words(body: Sequence[str]) -> list[str]:
    """Last lines of a failed command's log, and its error if that is further up."""
    last = [*body[-LAST_LINES:]]
    if any("error:" in line for line in last):
        return last
    error: list[str] = []
    open_ = False
    for line in body:
        if "error:" in line:
            error, open_ = [line], True
        elif open_ and line.startswith("  "):
            error.append(line)
        else:
            open_ = False
    return error + [line for line in last if line not in error]


def die_with_parent() -> None:
    """Have Linux kill this process when its parent dies."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def tail(path: Path, size: int = 20_000) -> str:
    """Read the end of a text file."""
    with open(path, "rb") as stream:
        stream.seek(max(0, path.stat().st_size - size))
        return stream.read().decode("utf-8", "replace")


def header(command: Sequence[str]) -> str:
    """First lines of a log: command, host, job and start time."""
    job = slurm_job()
    return (
        f"# command: {shlex.join(command)}\n# host: {socket.gethostname()}\n"
        + (f"# job: {job}\n" if job else "")
        + f"# start: {_now()}\n"
    )


def footer(status: int) -> str:
    """Last lines of a log."""
    return f"# end: {_now()}\n# exit status: {status}\n"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def shell_status(returncode: int) -> int:
    """Convert the exit status of a process to that of a shell."""
    return returncode if returncode >= 0 else 128 - returncode


def stdout() -> IO[str]:
    """Standard output for ``Display``, which accepts characters of any encoding."""
    sys.stdout.reconfigure(errors="replace")
    return sys.stdout
