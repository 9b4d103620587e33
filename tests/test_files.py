"""Files and directories that are whole or absent, also when processes die or work at once."""

import errno
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ser.console import explain
from ser.files import atomic_dir, atomic_write, locked, remove_leftovers
from tests.support import ROOT


@contextmanager
def holding(manager: str, *arguments: Any) -> Iterator[None]:
    """Another process is inside ``manager`` of ser.files until the block ends and kills it."""
    program = f"""
        import time
        from ser import files as fileio
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


def test_a_folder_comes_back_if_a_kill_hits_the_moment_in_which_it_is_replaced(tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all/utt2mood").write_text("of the user")
    program = f"""
        import os
        from ser import files
        replace = os.replace
        os.replace = lambda *paths: replace(*paths) or os.kill(os.getpid(), 9)
        with files.atomic_dir({str(tmp_path / "all")!r}):
            pass
        """
    assert start(program).wait(60) == -9
    assert not (tmp_path / "all").exists()
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["all"]
    assert (tmp_path / "all/utt2mood").read_text() == "of the user"


@pytest.mark.parametrize("manager", [atomic_write, atomic_dir])
def test_what_takes_its_place_is_on_the_disk_whatever_happens_to_the_power(
    tmp_path, manager, monkeypatch
):
    events, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda _: events.append("on the disk"))
    monkeypatch.setattr(os, "replace", lambda *a: events.append("in its place") or replace(*a))
    with manager(tmp_path / "table") as target:
        if manager is atomic_dir:
            (target / "fold").mkdir()
            (target / "fold/test").write_text("utterance")
    assert events == ["on the disk", "in its place"]


def test_another_machine_may_finish_with_its_file_while_this_one_looks(tmp_path, monkeypatch):
    gone = tmp_path / ".table.tmp-another-host-17"
    monkeypatch.setattr(Path, "glob", lambda *_: [gone])
    with atomic_write(tmp_path / "table"):
        pass
    assert os.listdir(tmp_path) == ["table"]


def test_a_full_disk_is_reported_with_the_file(tmp_path):
    with (
        pytest.raises(OSError, match="No space left on device: .*table'"),
        atomic_write(tmp_path / "table"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as write() raises it
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("manager", [atomic_write, atomic_dir])
def test_an_error_names_the_target_and_not_the_temporary_file(tmp_path, manager, monkeypatch):
    real = os.replace

    def denied(source, target):  # as os.replace() raises it
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(source), None, str(target))

    monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(PermissionError) as raised, manager(tmp_path / "table"):
        pass
    assert explain(raised.value).startswith(f"{tmp_path}/table: Permission denied; ")
    monkeypatch.setattr(os, "replace", real)
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as raised, manager(tmp_path / "file/table"):
        pass
    assert ".tmp-" not in explain(raised.value)


def test_an_error_inside_a_temporary_directory_names_the_file_in_the_target(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, atomic_dir(tmp_path / "all") as temporary:
        (temporary / "no/text").write_text("")
    assert raised.value.filename == f"{tmp_path}/all/no/text"


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, atomic_write(tmp_path / "table"):
        (tmp_path / "absent").read_text()
    assert raised.value.filename == str(tmp_path / "absent")


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "exp").mkdir()
    with pytest.raises(IsADirectoryError) as raised, atomic_write(tmp_path / "exp"):
        pass
    expected = f"{tmp_path}/exp: Is a directory; give the name of a file"
    assert explain(raised.value) == expected
    assert os.listdir(tmp_path) == ["exp"]


def test_a_lock_is_waited_for_and_ends_with_its_process(tmp_path):
    lock = tmp_path / "lock"
    with holding("locked", lock, ""):
        waiter = start(
            f"""
            from ser import files as fileio
            with fileio.locked({str(lock)!r}, "waiting"):
                print("mine")
            """
        )
        assert waiter.stdout.readline() == "waiting\n"
    assert waiter.communicate(timeout=20)[0] == "mine\n"


def test_a_disk_without_locks_stops_nobody(tmp_path):
    with locked(tmp_path / "no/such/lock", "waiting"):
        pass


@pytest.mark.parametrize(
    ("name", "age", "stays"),
    [
        (f".corpus.tmp-{socket.gethostname()}-999999999", 0, False),
        (f".utt2spk.old-{socket.gethostname()}-999999999", 0, False),
        (f".corpus.tmp-{socket.gethostname()}-{os.getppid()}", 0, True),  # at work
        (".corpus.tmp-another-host-17", 3600, True),
        (".corpus.tmp-another-host-17", 90000, False),
        (".hidden-by-the-user-1", 90000, True),
    ],
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_killed_processes_left_is_removed(tmp_path, name, age, stays, kind):
    path = tmp_path / name
    path.mkdir() if kind == "folder" else path.touch()
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    remove_leftovers(tmp_path)
    assert path.exists() == stays
