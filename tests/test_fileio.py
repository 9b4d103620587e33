"""Files and directories that are whole or absent, also when processes die or work at once."""

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ser.fileio import atomic_dir, atomic_write, locked

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def holding(manager: str, *arguments: Any) -> Iterator[None]:
    """Another process is inside ``manager`` of ser.fileio until the block ends and kills it."""
    program = f"""
        import time
        from ser import fileio
        with fileio.{manager}(*{tuple(map(str, arguments))}):
            print("inside", flush=True)
            time.sleep(60)
        """
    process = start(program)
    assert process.stdout.readline() == "inside\n"
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def start(program: str) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.parametrize("manager", [atomic_write, atomic_dir])
def test_what_a_killed_writer_left_goes_when_its_file_is_written_again(tmp_path, manager):
    with holding(manager.__name__, tmp_path / "table"):
        pass
    assert len(os.listdir(tmp_path)) == 1
    with manager(tmp_path / "table"):
        pass
    assert os.listdir(tmp_path) == ["table"]


@pytest.mark.parametrize("manager", [atomic_write, atomic_dir])
def test_what_a_living_writer_has_written_so_far_is_left_alone(tmp_path, manager):
    with holding(manager.__name__, tmp_path / "table"):
        (theirs,) = os.listdir(tmp_path)
        with manager(tmp_path / "table"):
            pass
        assert sorted(os.listdir(tmp_path)) == [theirs, "table"]


def test_a_full_disk_is_reported_with_the_file(tmp_path):
    with (
        pytest.raises(OSError, match="No space left on device: .*table'"),
        atomic_write(tmp_path / "table"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as write() raises it
    assert os.listdir(tmp_path) == []


def test_a_lock_is_waited_for_and_ends_with_its_process(tmp_path):
    lock = tmp_path / "lock"
    with holding("locked", lock, ""):
        waiter = start(
            f"""
            from ser import fileio
            with fileio.locked({str(lock)!r}, "waiting"):
                print("mine")
            """
        )
        assert waiter.stdout.readline() == "waiting\n"
    assert waiter.communicate(timeout=20)[0] == "mine\n"


def test_a_disk_without_locks_stops_nobody(tmp_path):
    with locked(tmp_path / "no/such/lock", "waiting"):
        pass
