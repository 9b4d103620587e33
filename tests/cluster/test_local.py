"""run_jobs: its command line, tasks on this machine, signals, and the settings for Slurm."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ser.cluster import slurm_commands
from ser.cluster.logged import Display, LoggedCommand
from ser.cluster.slurm import job_directory, job_script, sbatch_command
from ser.cluster.slurm_conf import blame, read_settings, sbatch_options
from ser.cluster.slurm_watch import explain_end
from ser.cluster.tasks import conclude, parse_tasks
from ser.errors import UserError
from tests.support import ROOT
from tests.support.slurm_cluster import wait_until

JOBS = (sys.executable, "-m", "ser", "jobs")

# Ends when it is asked to, and says whether it was asked; its child must not be.
LISTENER = r"""
import os, signal, sys, time
asked = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, _: asked.append(number))
child = os.fork()
who = "command" if child else "child"
os.write(1, f"{who} listens\n".encode())
until = time.monotonic() + 20
while not asked and time.monotonic() < until and (child or os.getppid() > 1):
    time.sleep(0.02)
time.sleep(0.2)  # as if it took a while to save its work
os.write(1, f"{who} got {asked}\n".encode())
if child:
    os.kill(child, signal.SIGKILL)
    sys.exit(75 if asked == [signal.SIGUSR1] else 143)
"""


@pytest.fixture
def start(tmp_path):
    """Start run_jobs in tmp_path; ended with the test."""
    processes = []

    def start(*args, **env):
        process = subprocess.Popen(
            [sys.executable, "-m", "ser", "jobs", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def run(start):
    """Run run_jobs to its end: the process with .out and .err."""

    def run(*args, **env):
        process = start(*args, **env)
        process.out, process.err = process.communicate(timeout=60)
        return process

    return run


def write_listener(directory):
    path = directory / "listener.py"
    path.write_text(LISTENER)
    return path


def tasks(*arguments, **options):
    return parse_tasks([str(argument) for argument in arguments], **options)


# --- the command line ---------------------------------------------------------------------------


def test_the_word_stands_for_the_number_where_it_is_a_word():
    it = tasks("JOB=2:4", "log/a.JOB.log", "p", "--share=JOB/3", "x_JOB_y", "JOBS", "myJOB", "JOB1")
    assert list(it.numbers) == [2, 3, 4]
    assert it.log_of(3) == "log/a.3.log"
    filled = [it.fill(argument, 3) for argument in it.command]
    assert filled == ["p", "--share=3/3", "x_3_y", "JOBS", "myJOB", "JOB1"]


def test_without_a_range_there_is_one_task_and_no_word():
    it = tasks("log/JOB.log", "echo", "JOB")
    assert list(it.numbers) == [1]
    assert (it.log_of(1), it.fill("JOB", 1)) == ("log/JOB.log", "JOB")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("log/stage5.log", "x"), "stage5"),
        (("JOB=1:2", "log/stage4.worker.JOB.log", "x"), "stage4.worker"),
        (("JOB=1:2", "JOB.fold.log", "x"), "fold"),
    ],
)
def test_tasks_are_named_after_their_log(arguments, name):
    assert tasks(*arguments).name == name


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "expected [JOB=1:N] LOG COMMAND"),
        (("JOB=1:3", "a.JOB.log"), {}, "expected [JOB=1:N] LOG COMMAND"),
        (("JOB=3:1", "a.JOB.log", "x"), {}, "JOB=3:1: no tasks; expected JOB=FIRST:LAST"),
        (("JOB=1:3", "a.log", "x"), {}, "LOG a.log: JOB does not stand in it"),
        (("a.log", "x"), {"name": "a/b"}, "--name 'a/b': expected letters"),
        (("a.log", "x"), {"name": ".."}, "--name '..': expected letters"),
        (("a.log", "x"), {"nj": -1}, "--nj: expected a number from 0 on"),
        (("a.log", "x"), {"num_nodes": 0}, "--num-nodes: expected a number from 1 on"),
    ],
)
def test_a_wrong_command_line_is_explained(arguments, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        tasks(*arguments, **options)


def test_options_of_the_command_are_its_own(run, tmp_path):
    done = run("--nj", 1, "t.log", "echo", "--nj", "3", "JOB=1:2")
    assert done.returncode == 0, done.err
    assert "--nj 3 JOB=1:2\n" in (tmp_path / "t.log").read_text()


@pytest.mark.parametrize("option", [("--detach",), ("--after", "12"), ("--num-nodes", "2")])
def test_what_only_a_cluster_can_do_is_refused_on_this_machine(run, option):
    done = run(*option, "t.log", "true")
    assert done.returncode == 1
    assert "--backend slurm" in done.err


def test_starting_it_imports_nothing_heavy():
    script = "import sys, ser.cli.app; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", script], text=True, cwd=ROOT).split()
    assert not {"torch", "numpy", "espnet2", "yaml"} & set(modules)


# --- tasks on this machine ----------------------------------------------------------------------


def test_tasks_run_side_by_side_no_more_than_nj_at_a_time(run, tmp_path):
    script = "touch running.JOB; sleep 0.2; ls running.* | wc -l; rm running.JOB"
    done = run("--nj", 2, "JOB=1:5", "t.JOB.log", "bash", "-c", script)
    assert done.returncode == 0, done.err
    counts = re.findall(r"^(\d)$", done.out, re.M)
    assert len(counts) == 5
    assert max(counts) <= "2"
    assert "[progress] t: 3 pending, 2 running, 0 done, 0 failed\n" in done.out
    assert done.out.endswith("[progress] t: 0 pending, 0 running, 5 done, 0 failed\n")


def test_all_tasks_run_at_once_without_nj(run):
    meet = "touch here.JOB; until [[ $(ls here.* | wc -l) == 3 ]]; do sleep 0.05; done"
    assert run("JOB=1:3", "t.JOB.log", "timeout", "20", "bash", "-c", meet).returncode == 0


def test_a_failed_task_stops_nobody_and_the_first_ones_status_is_returned(run, tmp_path):
    script = "echo 'error: x.yaml:3: found JOB' >&2; exit $((JOB == 2 ? 7 : JOB == 3 ? 9 : 0))"
    done = run("--nj", 1, "--name", "stage4", "JOB=1:4", "t.JOB.log", "bash", "-c", script)
    assert done.returncode == 7
    assert "[job] stage4 task 2 failed with exit status 7; log: t.2.log\n" in done.out
    assert "error: x.yaml:3: found 2\n" in done.err
    assert "error: x.yaml:3: found 4\n" not in done.err
    assert done.err.endswith(
        "error: stage4: 2 of 4 tasks failed; see t.2.log (exit status 7), t.3.log (exit status 9)\n"
    )
    assert "# exit status: 0\n" in (tmp_path / "t.4.log").read_text()


def test_an_error_that_all_tasks_have_is_said_once_and_last(run):
    script = "echo 'error: s1.yaml: lr: found x' >&2; exit 2"
    done = run("--name", "stage4", "JOB=1:2", "t.JOB.log", "bash", "-c", script)
    assert done.returncode == 2
    assert done.err.count("error:") == 1
    assert set(done.err.splitlines()[1:]) == {f"exit status 2; log: t.{n}.log" for n in (1, 2)}
    killed = run("--name", "stage4", "JOB=1:2", "t.JOB.log", "bash", "-c", "kill -9 $$")
    assert killed.err.splitlines()[-1].startswith("error: stage4: 2 of 2 tasks failed; see t.1.log")


def test_only_what_show_asks_for_is_passed_on(run, tmp_path):
    done = run("--show", "^table", "t.log", "printf", "%s\n", "table of x", "chatter")
    assert done.out == "table of x\n"
    assert "chatter\n" in (tmp_path / "t.log").read_text()


@pytest.mark.parametrize(
    ("options", "threads"), [(("--nj", 2), "3"), ((), "2"), (("--num-threads", 5), "5")]
)
def test_cores_are_divided_among_the_tasks_that_run_at_once(run, options, threads):
    printed = ("bash", "-c", "echo $OMP_NUM_THREADS $MKL_NUM_THREADS")
    done = run(*options, "--show", "^[0-9]", "JOB=1:3", "t.JOB.log", *printed, OMP_NUM_THREADS="6")
    assert re.findall(r"^(\d) (\d)$", done.out, re.M) == [(threads, threads)] * 3


def test_each_task_has_gpus_of_its_own(run):
    meet = "touch here.JOB; until [[ $(ls here.* | wc -l) == 2 ]]; do sleep 0.05; done"
    script = f"{meet}; echo gpus $CUDA_VISIBLE_DEVICES"
    command = ("--gpu", 2, "JOB=1:2", "t.JOB.log", "timeout", "20", "bash", "-c", script)
    done = run(*command, CUDA_VISIBLE_DEVICES="7,5,3,1")
    assert sorted(re.findall(r"gpus (\S+)", done.out)) == ["3,1", "7,5"]


def test_tasks_share_as_many_gpus_as_they_may_have(run):
    script = "touch here.JOB; until [[ $(ls here.* | wc -l) == 3 ]]; do sleep 0.05; done"
    script += "; echo gpu $CUDA_VISIBLE_DEVICES"
    options = ("--gpu", 1, "--devices", 2, "JOB=1:3", "t.JOB.log")
    done = run(*options, "timeout", "20", "bash", "-c", script, CUDA_VISIBLE_DEVICES="4,6,8")
    assert sorted(re.findall(r"gpu (\d)", done.out)) == ["4", "4", "6"]


def test_a_task_takes_over_the_gpu_of_one_that_has_ended(run):
    script = "echo gpu $CUDA_VISIBLE_DEVICES"
    command = ("--gpu", 1, "--nj", 1, "JOB=1:3", "t.JOB.log", "bash", "-c", script)
    done = run(*command, CUDA_VISIBLE_DEVICES="4,6")
    assert re.findall(r"gpu (\d)", done.out) == ["4", "4", "4"]


def test_more_gpus_than_there_are_is_an_error(run):
    done = run("--gpu", 3, "t.log", "true", CUDA_VISIBLE_DEVICES="0,1")
    assert done.returncode == 1
    assert "--gpu 3: this machine shows 2 GPUs" in done.err


def test_a_directory_is_held_while_tasks_run(start, run, tmp_path):
    wait = "until [[ -e gate ]]; do sleep 0.05; done"
    first = start("--hold", "tag", "t.log", "bash", "-c", wait)
    wait_until(lambda: (tmp_path / "t.log").exists())
    second = run("--hold", "tag", "u.log", "true")
    assert second.returncode == 1
    assert f"pid {first.pid}" in second.err
    (tmp_path / "gate").touch()
    first.communicate()
    assert first.returncode == 0
    assert run("--hold", "tag", "u.log", "true").returncode == 0


def test_failures_count_more_than_stops():
    it = tasks("JOB=1:3", "t.JOB.log", "x")
    assert conclude(it, {1: 75, 2: 0, 3: 0}) == 75
    assert conclude(it, {1: 75, 2: 4, 3: 0}) == 4
    assert conclude(it, {1: 0, 2: 0, 3: 0}) == 0


# --- signals ------------------------------------------------------------------------------------


def test_a_warning_reaches_every_command_alone_and_the_rest_is_left_for_later(start, tmp_path):
    listener = (sys.executable, write_listener(tmp_path))
    process = start("--nj", 2, "JOB=1:3", "t.JOB.log", *listener)
    logs = [tmp_path / f"t.{task}.log" for task in (1, 2)]
    wait_until(
        lambda: all(p.exists() and p.read_text().count("listens") == 2 for p in logs), seconds=20
    )
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 75
    for log in logs:
        assert "command got [10]\n" in log.read_text()
        assert "child got" not in log.read_text()
        assert log.read_text().endswith("# exit status: 75\n")
    assert not (tmp_path / "t.3.log").exists()
    assert err.count("stopped by a signal after writing a checkpoint; run the same command") == 1
    assert "failed with" not in out + err


def test_the_status_of_a_command_that_ends_at_once_when_warned_is_not_lost(start, tmp_path):
    script = "trap 'exit 3' USR1; : >ready.JOB; while :; do read -t 0.01 <> <(:) || true; done"
    process = start("JOB=1:8", "t.JOB.log", "bash", "-c", script)
    wait_until(lambda: len(list(tmp_path.glob("ready.*"))) == 8, seconds=20)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    statuses = [(tmp_path / f"t.{task}.log").read_text()[-2:] for task in range(1, 9)]
    assert statuses == ["3\n"] * 8


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupt_ends_all_tasks_and_waits_for_them(start, tmp_path, number, status):
    listener = (sys.executable, write_listener(tmp_path))
    process = start("--nj", 1, "JOB=1:2", "t.JOB.log", *listener)
    log = tmp_path / "t.1.log"
    wait_until(lambda: log.exists() and log.read_text().count("listens") == 2, seconds=20)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == status
    assert "command got [15]\n" in log.read_text()
    assert log.read_text().endswith("# exit status: 143\n")
    assert not (tmp_path / "t.2.log").exists()


def test_signals_that_come_to_all_processes_at_once_leave_the_status_intact(tmp_path):
    # As Slurm ends a job.
    logs = [tmp_path / f"t.{number}.log" for number in range(24)]
    script = "trap 'exit 3' TERM; echo ready; until false; do sleep 0.1; done"
    runs = [
        subprocess.Popen(
            [*JOBS, log, "bash", "-c", script],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for log in logs
    ]
    wait_until(lambda: all(log.exists() and "\nready\n" in log.read_text() for log in logs))
    commands = [int(re.search(r"# pid: (\d+)", log.read_text())[1]) for log in logs]
    groups = [*(run.pid for run in runs), *map(os.getpgid, commands)]
    for group in [*groups, *groups]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
    statuses = [run.wait(20) for run in runs]  # a second signal may come after the end
    assert {s if s >= 0 else 128 - s for s in statuses} == {143}
    assert {log.read_text().splitlines()[-1] for log in logs} == {"# exit status: 3"}


def test_an_appended_log_keeps_its_history_and_shows_the_last_run_only(tmp_path):
    log = tmp_path / "t.log"
    err = io.StringIO()
    for script in ("echo 'error: the first'; exit 3", "echo second; exit 4"):
        err.truncate(err.seek(0))
        command = LoggedCommand(log, ["bash", "-c", script], Display(io.StringIO()), append=True)
        wait_until(lambda command=command: command.poll() is not None)
        command.report(io.StringIO(), err)
    assert re.findall(r"# exit status: (\d)", log.read_text()) == ["3", "4"]
    assert "second\n" in err.getvalue()
    assert "the first" not in err.getvalue()


def test_a_command_goes_on_without_its_log_on_a_full_disk_and_a_failure_says_so(tmp_path):
    limited = ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *JOBS, "--show", "^later"]
    script = "seq 40000; echo later; exit 3"
    done = subprocess.run(
        [*limited, tmp_path / "t.log", "bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (3, "later\n")
    assert f"error: {tmp_path}/t.log: File too large\nexit status 3; log: " in done.stderr
    assert "Traceback" not in done.stderr


def test_without_its_helper_a_command_still_ends_with_its_status_in_the_log(tmp_path):
    log = tmp_path / "t.log"
    script = "until [[ -e $0/gate || $SECONDS -gt 60 ]]; do sleep 0.05; done; exit 3"
    process = subprocess.Popen([*JOBS, log, "bash", "-c", script, tmp_path])
    wait_until(lambda: log.exists() and "# pid: " in log.read_text())
    group = os.getpgid(int(re.search(r"# pid: (\d+)", log.read_text())[1]))
    wait_until(lambda: _helpers(group))
    wait_until(lambda: not _kill_helpers(group))
    (tmp_path / "gate").touch()
    assert process.wait(60) == 3
    assert log.read_text().endswith("# exit status: 3\n")


def _kill_helpers(group):
    helpers = _helpers(group)
    for helper in helpers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(helper, signal.SIGKILL)
    return helpers


def _helpers(group):
    """Processes that would kill ``group`` if the script that runs it were killed."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"kill -KILL -- -{group}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


# --- conf/slurm.conf ----------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path):
    """The settings of a slurm.conf with this text."""

    def settings(text, gpu=0):
        path = tmp_path / "slurm.conf"
        path.write_text(text)
        return read_settings(path, gpu)

    return settings


def test_sections_win_over_the_common_part(settings):
    text = "partition = all\ntime = 5 # min\n[cpu]\npartition=c\n[gpu]\n--partition = g\nqos = q\n"
    assert sbatch_options(settings(text), 0) == ["--partition=c", "--time=5"]
    assert sbatch_options(settings(text, gpu=1), 1) == [
        *("--partition=g", "--time=5", "--qos=q", "--gres=gpu:1"),
    ]


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("", "--gres=gpu:2"),
        ("gres = gpu", "--gres=gpu:2"),
        ("gres = gpu:a100", "--gres=gpu:a100:2"),
        ("gres = gpu:a100:4", "--gres=gpu:a100:4"),
        ("gres = gpu:a100,tmp:10", "--gres=gpu:a100:2,tmp:10"),
        ("gpus-per-node = a100:2", "--gpus-per-node=a100:2"),
    ],
)
def test_the_kind_of_gpu_comes_from_the_file_and_the_number_from_the_task(settings, line, option):
    assert sbatch_options(settings(f"{line}\n", gpu=2), 2) == [option]
    assert sbatch_options(settings(f"{line}\n"), 0) == []


def test_an_option_may_have_no_value(settings):
    assert sbatch_options(settings("exclusive =\nmail_type = END,FAIL\n"), 0) == [
        *("--exclusive", "--mail-type=END,FAIL"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# fine\npartition normal\n", ":2: 'partition normal': expected KEY = VALUE"),
        ("[gpus]\n", ":1: unknown section [gpus]; expected [cpu] or [gpu]"),
        ("time = 1\n\ntime = 2\n", ":3: time is set already in line 1; keep one"),
        ("array = 1-3\n", ":1: array cannot be set here; tasks are those of JOB=1:N"),
        ("job_name = x\n", ":1: job-name cannot be set here; use --name"),
        ("[gpu]\nwait =\n", ":2: wait cannot be set here; remove the line"),
    ],
)
def test_a_wrong_line_is_named(settings, tmp_path, text, message):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/slurm.conf{message}")):
        settings(text)


def test_the_recipes_own_file_asks_for_nothing_and_every_example_in_it_is_valid(settings):
    path = ROOT / "conf/slurm.conf"
    assert sbatch_options(read_settings(path, 0), 0) == []
    assert sbatch_options(read_settings(path, 2), 2) == ["--gres=gpu:2"]
    text = re.sub(r"^# (?=[a-z-]+ +=)", "", path.read_text(), flags=re.M)
    assert sbatch_options(settings(text), 0) == [
        *("--partition=normal", "--account=my-project", "--time=1-00:00:00", "--mem-per-cpu=4G"),
        "--cpus-per-task=2",
    ]
    assert "--gres=gpu:a100:2" in sbatch_options(settings(text, gpu=2), 2)


@pytest.mark.parametrize(
    ("complaint", "keys"),
    [
        ("sbatch: error: invalid partition specified: x", ["partition"]),
        ("Invalid account or account/partition combination specified", ["partition", "account"]),
        ("sbatch: error: Invalid --time specification", ["time"]),
        ("something that nobody has heard of", ["partition", "account", "time"]),
    ],
)
def test_the_lines_that_a_complaint_may_be_about_are_found(settings, complaint, keys):
    lines = settings("partition = x\naccount = y\ntime = z\n")
    assert [line.key for line in blame(complaint, lines)] == keys


# --- what Slurm is told and asked ---------------------------------------------------------------


def test_sbatch_is_given_what_was_asked_for_and_nothing_else(settings):
    it = tasks("JOB=1:10", "/x/50%/t.JOB.log", "c", name="s", nj=3, num_threads=4, num_nodes=2)
    assert sbatch_command(it, settings("qos = q\n"), "12:13", Path("job.sh")) == [
        *("sbatch", "--parsable", "--job-name=s", "--output=/x/50%%/t.%a.log"),
        *("--open-mode=append", "--requeue", "--kill-on-invalid-dep=yes", "--array=1-10%3"),
        *("--signal=B:USR1@120", "--dependency=afterok:12:13", "--cpus-per-task=4"),
        *("--nodes=2", "--ntasks-per-node=1", "--qos=q", "job.sh"),
    ]
    alone = sbatch_command(tasks("/x/t.log", "c"), settings("signal = B:USR1@300\n"), "", Path("j"))
    assert alone == [
        *("sbatch", "--parsable", "--job-name=t", "--output=/x/t.log", "--open-mode=append"),
        *("--requeue", "--kill-on-invalid-dep=yes", "--signal=B:USR1@300", "j"),
    ]


def test_files_of_a_job_lie_where_all_of_its_tasks_can_share_them():
    assert job_directory(tasks("exp/log/t.JOB.log", "c")) == Path("exp/log/slurm/t.JOB")
    it = tasks("JOB=1:2", "exp/JOB/log/t.log", "c", name="s")
    assert job_directory(it) == Path("exp/slurm/s")


def test_the_script_hands_arguments_over_as_they_are(tmp_path):
    argument = 'it\'s $HOME `x` JOB*\n"q" \\'
    it = tasks("JOB=1:2", "t.JOB.log", "echo", argument, "", name="s")
    script = job_script(it, tmp_path)
    called = script[script.index(" task ") + len(" task ") :]
    printed = subprocess.check_output(
        ["bash", "-c", f"JOB=2; printf '%s\\0' {called}"], text=True
    ).split("\0")
    assert printed[1:-1] == ["t.2.log", "echo", argument.replace("JOB", "2"), ""]


@pytest.mark.parametrize(
    ("record", "facts", "expected"),
    [
        ({}, {"JobState": "COMPLETED", "ExitCode": "0:0"}, (0, "")),
        ({}, {"JobState": "FAILED", "ExitCode": "0:53"}, (1, "its log could not be written")),
        ({}, {"JobState": "FAILED", "ExitCode": "0:9"}, (137, "was ended by signal 9")),
        ({}, {"JobState": "FAILED", "ExitCode": "3:0"}, (3, "failed with exit status 3")),
        ({}, {"JobState": "NODE_FAIL", "NodeList": "n7"}, (1, "lost its node on n7")),
        ({}, {"JobState": "OUT_OF_MEMORY", "ExitCode": "0:125"}, (137, "raise mem-per-cpu")),
        ({}, {"JobState": "CANCELLED", "Reason": "None"}, (1, "was cancelled (scancel)")),
        ({}, {"JobState": "TIMEOUT", "TimeLimit": "1:00"}, (1, "(TimeLimit=1:00); raise time")),
        ({}, {}, (1, "left no trace")),
        ({"host": "n7", "state": "running", "status": 0}, {}, (1, "last seen running on n7")),
        ({"state": "ended", "status": 4}, {"JobState": "FAILED"}, (4, "failed with exit status 4")),
        ({"state": "ended", "status": 143}, {"JobState": "TIMEOUT"}, (143, "raise time")),
        ({"state": "ended", "status": 137}, {"JobState": "FAILED"}, (137, "raise mem-per-cpu")),
        ({"state": "ended", "status": 75}, {"JobState": "FAILED"}, (75, "could not be requeued")),
    ],
)
def test_every_end_of_a_task_is_explained(record, facts, expected):
    status, reason = explain_end(record, facts, "t.log")
    assert status == expected[0]
    assert expected[1] in reason


def test_accounting_is_asked_where_the_controller_has_forgotten(tmp_path, monkeypatch):
    program = tmp_path / "sacct"
    program.write_text("#!/bin/sh\necho 'CANCELLED by 1000|0:15|n3|01:00:00'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    facts = {"JobState": "CANCELLED", "ExitCode": "0:15", "NodeList": "n3", "TimeLimit": "01:00:00"}
    assert slurm_commands.accounted("12_3") == facts
    program.write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    assert slurm_commands.accounted("12_3") == {}


def test_without_slurm_the_backend_says_where_to_run(run, tmp_path):
    done = run("--backend", "slurm", "t.log", "true", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "found no program sbatch on PATH" in done.err


class Programs:
    """Programs with the names of Slurm's, first on ``path``, which note that they were called."""

    def __init__(self, directory):
        self.dir = directory
        self.dir.mkdir()
        self.path = f"{self.dir}:{os.environ['PATH']}"

    def add(self, name, script):
        program = self.dir / name
        program.write_text(f"#!/bin/sh\necho called >>'{self.dir}/{name}.calls'\n{script}\n")
        program.chmod(0o755)

    def calls(self, name):
        path = self.dir / f"{name}.calls"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def programs(tmp_path):
    return Programs(tmp_path / "bin")


AWAY = "echo 'Unable to contact slurm controller' >&2; exit 1"


def test_the_queue_is_looked_at_no_more_often_than_was_asked_for(start, programs):
    programs.add("sbatch", "echo 12")
    programs.add("squeue", "echo '12|PENDING|None'")
    programs.add("scancel", "")
    process = start(
        *("--backend", "slurm", "t.log", "true"), PATH=programs.path, SER_SLURM_POLL="60"
    )
    assert process.stdout.readline().startswith("submitted job 12")
    assert "1 pending" in process.stdout.readline()
    time.sleep(1)
    assert programs.calls("squeue") == 1
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 129


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGUSR1, 75),
    ],
)
@pytest.mark.parametrize("options", [(), ("--after", "12")])
def test_a_signal_ends_the_wait_for_a_controller_that_is_away(
    start, programs, tmp_path, number, status, options
):
    asked = "scontrol" if options else "sbatch"
    programs.add(asked, AWAY)
    if options:
        programs.add("sbatch", "echo 12")
    process = start(
        *("--backend", "slurm", *options, "--name", "s", "t.log", "true"),
        **{"PATH": programs.path, "SER_SLURM_POLL": "60"},
    )
    assert "waiting for Slurm's controller" in process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (status, "")
    assert out == f"{number.name}: s was not submitted\n"
    assert list((tmp_path / "slurm/s").glob("*")) == []
    assert (programs.calls(asked), programs.calls("sbatch")) == (1, 0 if options else 1)


def test_a_controller_that_comes_back_is_given_the_job(start, programs, tmp_path):
    programs.add("sbatch", f"[ -e back ] && echo 12 && exit; {AWAY}")
    programs.add("squeue", "")
    process = start(
        *("--backend", "slurm", "--detach", "--name", "s", "t.log", "true"),
        **{"PATH": programs.path, "SER_SLURM_POLL": "0.05"},
    )
    wait_until(lambda: programs.calls("sbatch") > 2)
    (tmp_path / "back").touch()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == [
        "waiting for Slurm's controller to submit the job: Unable to contact slurm controller",
        "Slurm's controller answers again",
        "submitted job 12 (s, 1 task)",
    ]


# --- the script on the node, with Slurm's part played -------------------------------------------


@pytest.fixture
def slurm_task(tmp_path):
    """Run a task as job 12; scontrol notes what it is asked and says yes."""
    program = tmp_path / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >>"{tmp_path}/asked"\n')
    program.chmod(0o755)
    environment = {**os.environ, "SLURM_JOB_ID": "12", "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def slurm_task(script):
        task = [sys.executable, "-m", "ser", "task", tmp_path, tmp_path / "t.log"]
        done = subprocess.run([*task, "bash", "-c", script], env=environment)
        asked = tmp_path / "asked"
        requests = asked.read_text() if asked.exists() else ""
        asked.unlink(missing_ok=True)
        return done.returncode, json.loads((tmp_path / "12.json").read_text()), requests

    return slurm_task


@pytest.mark.parametrize("script", ["exit 75", "kill -KILL $$", "kill -USR1 $$"])
def test_a_stopped_or_killed_task_asks_to_be_run_again(slurm_task, script):
    _, record, requests = slurm_task(script)
    assert record["state"] == "requeued"
    assert requests == "requeue 12\n"


def test_a_task_that_is_killed_in_a_row_is_not_run_again_but_a_step_forward_excuses_it(slurm_task):
    assert slurm_task("kill -KILL $$")[2] == "requeue 12\n"
    assert slurm_task("exit 75")[2] == "requeue 12\n"
    assert slurm_task("kill -KILL $$")[2] == "requeue 12\n"
    status, record, requests = slurm_task("kill -KILL $$")
    assert (status, record["state"], record["status"], requests) == (137, "ended", 137, "")


@pytest.mark.parametrize("status", [0, 3])
def test_a_task_that_has_ended_is_not_run_again(slurm_task, status):
    returned, record, requests = slurm_task(f"exit {status}")
    assert (returned, record["state"], record["status"], requests) == (status, "ended", status, "")
