"""Atomic writing of files and directories, and locks for directories."""

import contextlib
import fcntl
import glob
import math
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LEFTOVER = re.compile(r"\.(.+)\.(tmp|old)-(.+)-(\d+)")
LEFT_FOR_GOOD = 24 * 3600  # seconds

ROOT = Path(__file__).resolve().parents[1]  # of the recipe: run.sh, conf, egs and so on
# Start of a ser command in a separate process; SER_PYTHON is a wrapper given to run.sh (--python)
SER = [os.environ.get("SER_PYTHON") or sys.executable, "-m", "ser"]


@contextmanager
def atomic_write(path: Path | str, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside ``path`` that replaces it when the block succeeds.

    An exception in the block removes the temporary file and leaves an existing ``path``
    unchanged. Text is UTF-8 with LF line endings.
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
        with contextlib.suppress(OSError):  # it would hide the original error
            temporary.unlink()
        raise


@contextmanager
def naming(path: Path | str, temporary: Path | str | None = None) -> Iterator[None]:
    """Make an OSError of the block name ``path`` if it names no file, or names ``temporary``.

    A failed write (disk full) has no file name. A file in ``temporary`` becomes one in ``path``.
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

    An existing ``path`` is unchanged until then, and is kept if the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _beside(path, "tmp"), _beside(path, "old")
    with naming(path, temporary):
        temporary.mkdir()
    try:
        with naming(path, temporary):
            yield temporary
            with ThreadPoolExecutor(16) as pool:  # a done-marker is among them; one by one is slow
                list(pool.map(_sync, filter(Path.is_file, temporary.rglob("*"))))
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
    """Hold a lock on ``path``, a lock file or a directory, while the block runs.

    If another process holds it, ``message`` is printed and this one waits; locks of a process are
    released when it dies. On file systems without locks (some network disks) none is taken.
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


def _sync(file: Path) -> None:
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


def _beside(path: Path, kind: str) -> Path:
    """Temporary name beside ``path`` for this process; removes leftovers of killed processes."""
    remove_leftovers(path.parent, path.name)
    return path.with_name(f".{path.name}.{kind}-{socket.gethostname()}-{os.getpid()}")


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove temporary files and folders of killed processes, all or those of one ``name``.

    For processes on other machines this cannot be checked; after a day it is assumed. What a
    process had moved aside comes back if it was killed before it put the new one in its place.
    """
    pattern = "*" if name == "*" else glob.escape(name)
    for leftover in folder.glob(f".{pattern}.*-*-*"):
        found = LEFTOVER.fullmatch(leftover.name)
        if not found:
            continue
        target, kind, host, pid = found.groups()
        if host != socket.gethostname():
            gone = time.time() - _modified(leftover) > LEFT_FOR_GOOD
        else:
            gone = pid == str(os.getpid()) or not Path("/proc", pid).exists()
        if gone and kind == "old" and not (folder / target).exists():
            with contextlib.suppress(OSError):  # another process was faster
                os.replace(leftover, folder / target)
        elif gone and leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        elif gone:
            leftover.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    """When ``path`` was last written; infinity if its process has just finished with it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def expand_home(path: Path | str) -> Path:
    """Expand ``~`` or ``~user`` in ``path``; unchanged if there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_once(path: Path, data: bytes) -> Path:
    """Write ``data`` to ``path`` atomically, unless it is its content already; return ``path``."""
    if not (path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb") as stream:
            stream.write(data)
    return path
