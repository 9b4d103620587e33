"""Locks name their holder, die with it, and are held on by Slurm jobs."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ser.cluster import locks
from ser.cluster.locks import forget_jobs, held, holder, note_jobs, read
from ser.errors import UserError
from tests.support import ROOT

PROGRAM = """
import sys, time
from ser.cluster.locks import held
with held(sys.argv[1], "exp/mini/tag"):
    print("inside", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Start processes that hold ``tmp_path/lock``; they are killed at the end."""
    processes = []

    def start(**environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "lock")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        assert process.stdout.readline() == "inside\n"
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A queue of our own: the file lists the jobs that are in it; no file, no controller."""
    program = tmp_path / "bin/squeue"
    program.parent.mkdir()
    program.write_text(
        f"""#!/usr/bin/env bash
        if [[ ! -e {tmp_path}/queue ]]; then
          echo "slurm_load_jobs error: Unable to contact slurm controller" >&2
          exit 1
        fi
        last=${{@: -1}} job=${{last#--jobs=}}
        grep -x "$job" {tmp_path}/queue && exit 0
        echo "slurm_load_jobs error: Invalid job id specified" >&2
        exit 1
        """
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path / "queue"


def test_the_second_run_is_told_who_holds_the_lock(tmp_path, other):
    process = other(SLURM_ARRAY_JOB_ID="12", SLURM_ARRAY_TASK_ID="3", SLURM_JOB_ID="15")
    message = rf"exp/mini/tag: another run .*: host \S+, pid {process.pid}, job 12_3, since 2"
    with pytest.raises(UserError, match=message), held(tmp_path / "lock", "exp/mini/tag"):
        pass
    assert holder(tmp_path / "lock").pid == process.pid


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, other):
    process = other()
    process.kill()
    process.wait()
    assert holder(tmp_path / "lock") is None
    with held(tmp_path / "lock", "exp/mini/tag"):
        assert read(tmp_path / "lock").pid == os.getpid()
        assert holder(tmp_path / "lock").pid == os.getpid()
    assert holder(tmp_path / "lock") is None


def test_looking_who_holds_a_lock_does_not_keep_a_newcomer_from_it(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    path.touch()
    looking = os.open(path, os.O_RDWR)
    fcntl.flock(looking, fcntl.LOCK_EX)
    monkeypatch.setattr(locks.time, "sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
    with held(path, "exp/mini/tag"):
        pass
    os.close(looking)


def test_a_requeued_job_waits_for_its_former_self(tmp_path, other):
    process = other(SLURM_JOB_ID="12")
    waiter = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "lock")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "1"},
    )
    process.kill()
    assert waiter.stdout.readline() == "inside\n"
    waiter.kill()
    waiter.communicate()


def test_two_runs_in_one_interactive_job_do_not_wait_for_each_other(tmp_path, other, monkeypatch):
    other(SLURM_JOB_ID="12")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with pytest.raises(UserError, match="another run"), held(tmp_path / "lock", "exp/mini/tag"):
        pass


def test_noted_jobs_hold_the_lock_until_slurm_has_done_with_them(tmp_path, squeue):
    path = tmp_path / "lock"
    with held(path, "exp/mini/tag"):
        note_jobs(path, ["12", "13"])
    squeue.write_text("13\n")
    with pytest.raises(UserError, match=r"Slurm jobs 13, .*squeue -j 13; scancel"):  # noqa: SIM117
        with held(path, "exp/mini/tag"):
            pass
    assert holder(path).slurm_jobs == ["13"]
    squeue.write_text("")
    assert holder(path) is None
    with held(path, "exp/mini/tag"):
        assert read(path).slurm_jobs == []


def test_jobs_are_believed_to_live_while_the_controller_is_away(tmp_path, squeue):
    path = tmp_path / "lock"
    with held(path, "exp/mini/tag"):
        note_jobs(path, ["12"])
    assert holder(path).slurm_jobs == ["12"]


def test_jobs_that_are_forgotten_hold_nothing(tmp_path, squeue):
    path = tmp_path / "lock"
    with held(path, "exp/mini/tag"):
        note_jobs(path, ["12"])
        forget_jobs(path)
    assert path.read_text() == ""
    assert holder(path) is None


@pytest.mark.parametrize("content", ["", "garbage", "[]", '{"host": "n1"}'])
def test_a_damaged_lock_file_names_nobody_and_stops_nobody(tmp_path, content):
    path = tmp_path / "lock"
    path.write_text(content)
    assert holder(path) is None
    with held(path, "exp/mini/tag"):
        pass


class TestWithoutLocks:
    """A file system that knows no flock."""

    @pytest.fixture(autouse=True)
    def no_locks(self, monkeypatch):
        def flock(descriptor, operation):
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(locks.fcntl, "flock", flock)

    def write(self, path: Path, **who) -> Path:
        path.write_text(json.dumps({"since": "2025-01-31T12:00:00", **who}))
        return path

    def test_a_living_process_of_this_host_holds_it(self, tmp_path):
        with subprocess.Popen(["sleep", "60"]) as other:
            path = self.write(tmp_path / "lock", host=locks.socket.gethostname(), pid=other.pid)
            with pytest.raises(UserError, match="another run"), held(path, "exp/mini/tag"):
                pass
            assert holder(path).pid == other.pid
            other.kill()

    def test_a_dead_process_of_this_host_does_not(self, tmp_path):
        gone = subprocess.Popen(["true"])
        gone.wait()
        path = self.write(tmp_path / "lock", host=locks.socket.gethostname(), pid=gone.pid)
        with held(path, "exp/mini/tag"):
            pass

    def test_a_job_on_another_host_holds_it_while_it_is_queued(self, tmp_path, squeue):
        path = self.write(tmp_path / "lock", host="elsewhere", pid=1, job="12_3")
        squeue.write_text("12_3\n")
        with pytest.raises(UserError, match="job 12_3"), held(path, "exp/mini/tag"):
            pass
        squeue.write_text("")
        with held(path, "exp/mini/tag"):
            pass

    def test_any_other_process_elsewhere_is_believed(self, tmp_path):
        path = self.write(tmp_path / "lock", host="elsewhere", pid=1)
        with pytest.raises(UserError, match="remove it"), held(path, "exp/mini/tag"):
            pass
