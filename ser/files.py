"""Files that are either whole or absent, and directories that one process at a time writes."""

import contextlib
import fcntl
import glob
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LEFTOVER = re.compile(r"\..+\.(?:tmp|old)-(.+)-(\d+)")
LEFT_FOR_GOOD = 24 * 3600  # seconds

ROOT = Path(__file__).resolve().parents[1]  # of the recipe: run.sh, conf, egs and so on
# The start of a command of ser in a process of its own; run.sh knows of wrappers (--python)
SER = [os.environ.get("SER_PYTHON") or sys.executable, "-m", "ser"]


@contextmanager
def atomic_write(path: Path | str, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside ``path`` that takes its place when the block succeeds.

    An exception in the block removes the temporary file and leaves an older ``path`` as it
    was. Text is UTF-8 with LF line ends.
    """
    path = Path(path)
    temporary = _beside(path, "tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with naming(path, temporary):
            with open(temporary, mode, **text) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # which would hide what happened
            temporary.unlink()
        raise


@contextmanager
def naming(path: Path | str, temporary: Path | str | None = None) -> Iterator[None]:
    """Let an OSError of the block name ``path`` where it names nothing, or ``temporary``.

    A failing write (disk full) has no file name. A file in ``temporary`` becomes one in ``path``.
    """
    try:
        yield
    except OSError as err:
        if err.filename is None:
            err.filename = str(path)
        name, own = str(err.filename), str(temporary)
        if name == own or name.startswith(f"{own}/"):
            target = f"{path}{name.removeprefix(own)}"
            raise OSError(err.errno, err.strerror, target) from err
        raise


@contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Yield a temporary directory that becomes ``path`` when the block succeeds.

    An older ``path`` stays untouched until then, and stays if the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _beside(path, "tmp"), _beside(path, "old")
    with naming(path, temporary):
        temporary.mkdir()
    try:
        with naming(path, temporary):
            yield temporary
            with locked(path.parent, ""):  # two processes must not swap at the same time
                if path.exists():
                    os.replace(path, old)
                os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(path: Path | str, message: str) -> Iterator[None]:
    """Hold a lock on ``path``, a file made for this or a directory, while the block runs.

    If another process holds it, ``message`` is printed and this one waits; a process that dies
    lets go of its locks. Where there are none (some network disks) the block runs without.
    """
    path = Path(path)
    try:
        flags = os.O_RDONLY if path.is_dir() else os.O_WRONLY | os.O_CREAT
        descriptor = os.open(path, flags, 0o666)
    except OSError:  # a read-only disk
        yield
        return
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if message:
                    print(message, flush=True)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _beside(path: Path, kind: str) -> Path:
    """A name beside ``path`` for this process alone; removes what killed processes left."""
    remove_leftovers(path.parent, path.name)
    return path.with_name(f".{path.name}.{kind}-{socket.gethostname()}-{os.getpid()}")


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove temporary files and folders of killed processes, all or those of one ``name``.

    Whether a process of another machine was killed cannot be known; after a day it is assumed.
    """
    pattern = "*" if name == "*" else glob.escape(name)
    for leftover in folder.glob(f".{pattern}.*-*-*"):
        found = LEFTOVER.fullmatch(leftover.name)
        if not found:
            continue
        host, pid = found.groups()
        if host != socket.gethostname():
            gone = time.time() - leftover.stat().st_mtime > LEFT_FOR_GOOD
        else:
            gone = pid == str(os.getpid()) or not Path("/proc", pid).exists()
        if gone and leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        elif gone:
            leftover.unlink(missing_ok=True)


def expand_home(path: Path | str) -> Path:
    """``path`` with ``~`` or ``~user`` as the home folder; as it is where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_once(path: Path, data: bytes) -> Path:
    """Write ``data`` to ``path`` whole, unless that is what it holds; returns ``path``."""
    if not (path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb") as stream:
            stream.write(data)
    return path
