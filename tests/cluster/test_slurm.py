"""run_jobs on a real Slurm cluster: what users see, what survives, what is said if it does not."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from tests.support import ROOT
from tests.support.slurm_cluster import SEARCH_PATH, START_SECONDS, Cluster, missing, wait_until

POLL = "0.2"  # seconds between looks at the queue

# Counts up from its last checkpoint until the gate opens, and stops as it is asked to.
WORKER = """
import signal, sys, time
from pathlib import Path

checkpoint, gate = Path(sys.argv[1]), Path(sys.argv[2])
asked = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, _: asked.append(number))
count = int(checkpoint.read_text()) if checkpoint.exists() else 0
print(f"begins at {count}", flush=True)
until = time.monotonic() + 600
while not gate.exists() and time.monotonic() < until:
    time.sleep(0.05)
    if asked:
        checkpoint.write_text(str(count + 1))
        print(f"stops with {asked[0]}", flush=True)
        sys.exit(75 if asked[0] == signal.SIGUSR1 else 143)
print("through the gate", flush=True)
"""


class Recipe:
    """A directory with logs and a gate, and the runner pointed at the cluster."""

    def __init__(self, cluster, directory):
        self.cluster = cluster
        self.dir = directory / "it's a 50% place"  # a name that has to be quoted everywhere
        self.dir.mkdir()
        self.gate = self.dir / "gate"
        self.checkpoint = self.dir / "checkpoint.JOB"
        (self.dir / "worker.py").write_text(WORKER)
        self.worker = [sys.executable, self.dir / "worker.py", self.checkpoint, self.gate]
        self.env = cluster.env | {"SER_SLURM_POLL": POLL}
        self.started = []

    def start(self, *args, **env):
        """The runner as a process, with its output to be read at the end."""
        process = subprocess.Popen(
            [sys.executable, "-m", "ser", "jobs", "--backend", "slurm", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env | env,
            cwd=ROOT,
            # whoever runs the tests in the background has them ignore SIGINT
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.started.append(process)
        return process

    def run(self, *args, **env):
        return finish(self.start(*args, **env))

    def end(self):
        for process in self.started:
            process.kill()
            process.wait()

    def conf(self, text):
        path = self.dir / "slurm.conf"
        path.write_text(text)
        return path

    def log(self, name):
        path = self.dir / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def wait_for(self, text, name, count=1, seconds=START_SECONDS):
        wait_until(lambda: self.log(name).count(text) >= count, lambda: self.log(name), seconds)

    def submission(self, name):
        return json.loads((self.dir / f"slurm/{name}/submission.json").read_text())


def finish(process, seconds=120):
    process.out, process.err = process.communicate(timeout=seconds)
    return process


@pytest.fixture
def recipe(cluster, tmp_path):
    recipe = Recipe(cluster, tmp_path)
    yield recipe
    recipe.end()


@pytest.fixture(scope="module")
def time_limited(slurm_installed, tmp_path_factory):
    """Runs that reach a time limit of one minute while the other tests run, on a second cluster.

    One listens to the warning, the other does not.
    """
    cluster = Cluster()
    recipe = Recipe(cluster, tmp_path_factory.mktemp("limit"))
    try:
        cluster.start()
        recipe.env["SER_SLURM_POLL"] = "1"
        limit = ("--slurm-conf", recipe.conf("time = 1\n"))
        listening = recipe.start(*limit, "--name", "a", recipe.dir / "a.log", *recipe.worker)
        deaf = recipe.start(
            *limit, *("--name", "b", recipe.dir / "b.log", "bash", "-c", "trap '' USR1; sleep 300")
        )
        yield recipe, listening, deaf
    finally:
        recipe.end()
        cluster.stop()


@pytest.fixture(scope="module", autouse=True)
def begin_with_what_takes_long(request):
    if not missing() and any("time_limit" in item.name for item in request.session.items):
        request.getfixturevalue("time_limited")


# --- arrays -------------------------------------------------------------------------------------


def test_tasks_run_as_one_array_no_more_than_nj_at_a_time(recipe):
    (recipe.dir / "running").mkdir()
    script = 'cd "$0"; touch running/JOB; sleep 0.5; ls running | wc -l >seen.JOB; rm running/JOB'
    done = recipe.run(
        *("--nj", 2, "--name", "stage4", "JOB=1:5", recipe.dir / "t.JOB.log"),
        *("bash", "-c", script, recipe.dir),
    )
    assert done.returncode == 0, done.err
    seen = [int((recipe.dir / f"seen.{task}").read_text()) for task in range(1, 6)]
    assert max(seen) <= 2
    assert done.out.startswith("submitted job ")
    assert re.search(r"^\[progress\] stage4: [1-5] pending, [0-2] running, ", done.out, re.M)
    assert done.out.endswith("[progress] stage4: 0 pending, 0 running, 5 done, 0 failed\n")
    job = recipe.submission("stage4")["job"]
    assert f"# job: {job}_3\n" in recipe.log("t.3")
    assert recipe.log("t.3").endswith("# exit status: 0\n")


def test_a_failing_task_is_named_at_once_with_its_log_and_the_others_finish(recipe):
    script = (
        "[[ JOB == 2 ]] && echo chatter && echo 'error: a.yaml:3: found x' >&2 && exit 7; "
        'until [[ -e "$0" ]]; do sleep 0.1; done; echo table JOB'
    )
    process = recipe.start(
        *("--name", "stage4", "--show", "^table", "JOB=1:3", recipe.dir / "t.JOB.log"),
        *("bash", "-c", script, recipe.gate),
    )
    lines = []
    while not lines or "error: a.yaml" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], lines
    job = recipe.submission("stage4")["job"]
    assert (
        f"[job] stage4 task 2 (job {job}_2) failed with exit status 7; log: {recipe.dir}/t.2.log\n"
        in lines
    )
    recipe.gate.touch()
    finish(process)
    assert process.returncode == 7
    assert "table 1\n" in process.out and "table 3\n" in process.out
    assert process.out.endswith("[progress] stage4: 0 pending, 0 running, 2 done, 1 failed\n")
    assert f"1 of 3 tasks failed; see {recipe.dir}/t.2.log (exit status 7)" in process.err


def test_a_job_submitted_within_a_job_takes_nothing_over_from_it(recipe):
    done = recipe.run(
        *(recipe.dir / "t.log", "bash", "-c", 'echo "task ${SLURM_ARRAY_TASK_ID:-none}"'),
        **{"SLURM_ARRAY_JOB_ID": "99", "SLURM_ARRAY_TASK_ID": "5", "SLURM_JOB_ID": "104"},
    )
    assert done.returncode == 0, done.err
    assert f"# job: {recipe.submission('t')['job']}\n" in recipe.log("t")
    assert "task none\n" in recipe.log("t")


def test_threads_and_gpus_of_a_task_are_asked_for(recipe):
    conf = recipe.conf("[gpu]\ncpus-per-task = 3\n")
    done = recipe.run(
        *("--slurm-conf", conf, "--gpu", 2, "--num-threads", 2, recipe.dir / "t.log", "bash", "-c"),
        "echo $OMP_NUM_THREADS threads, $SLURM_CPUS_ON_NODE cpus, gpus $CUDA_VISIBLE_DEVICES",
    )
    assert done.returncode == 0, done.err
    assert "2 threads, 3 cpus, gpus 0,1\n" in recipe.log("t")


# --- being stopped ------------------------------------------------------------------------------


def test_a_warned_task_saves_is_requeued_and_goes_on_from_there(recipe):
    process = recipe.start("--name", "s", "JOB=1:2", recipe.dir / "t.JOB.log", *recipe.worker)
    recipe.wait_for("begins at 0", "t.1")
    recipe.wait_for("begins at 0", "t.2")
    job = recipe.submission("s")["job"]
    recipe.cluster.command("scancel", "--batch", "--signal=USR1", f"{job}_2")
    recipe.wait_for("begins at 1", "t.2")
    recipe.gate.touch()
    finish(process)
    assert process.returncode == 0, process.err
    assert recipe.log("t.1").count("# command:") == 1  # the other was left alone
    statuses = re.findall(r"# exit status: (\d+)|(begins at \d)", recipe.log("t.2"))
    assert statuses == [("", "begins at 0"), ("75", ""), ("", "begins at 1"), ("0", "")]
    assert "failed with" not in process.out


def test_a_task_that_somebody_requeues_goes_on_from_its_checkpoint(recipe):
    process = recipe.start("--name", "s", recipe.dir / "t.log", *recipe.worker)
    recipe.wait_for("begins at 0", "t")
    recipe.cluster.command("scontrol", "requeue", recipe.submission("s")["job"])
    recipe.wait_for("begins at 1", "t")
    recipe.gate.touch()
    finish(process)
    assert process.returncode == 0, process.err
    assert "[job]" not in process.out
    assert "begins at 0" in recipe.log("t")  # the log keeps its history


def test_a_killed_task_is_requeued_once_and_then_fails_with_a_hint(recipe):
    process = recipe.start("--name", "s", recipe.dir / "t.log", *recipe.worker)
    for run in (1, 2):
        recipe.wait_for("begins at 0", "t", count=run)
        pid = re.findall(r"# pid: (\d+)", recipe.log("t"))[-1]
        os.kill(int(pid), signal.SIGKILL)
    finish(process)
    assert process.returncode == 137
    assert "was killed (signal 9), twice; out of memory? raise mem-per-cpu in conf/slurm.conf" in (
        process.out
    )
    assert recipe.log("t").count("# exit status: 137\n") == 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_cancels_its_job_which_still_saves(recipe, number, status):
    process = recipe.start(
        *("--hold", recipe.dir / "tag", "--name", "s", recipe.dir / "t.log"), *recipe.worker
    )
    recipe.wait_for("begins at 0", "t")
    process.send_signal(number)
    finish(process)
    assert process.returncode == status
    assert f"scancel {recipe.submission('s')['job']} (s): waiting for its end" in process.out
    assert recipe.cluster.queue() == {}
    assert "stops with 15\n" in recipe.log("t")
    again = recipe.run("--hold", recipe.dir / "tag", recipe.dir / "u.log", "true")
    assert again.returncode == 0, again.err


def test_a_run_that_is_warned_itself_stops_its_job_and_says_that_it_is_not_done(recipe):
    process = recipe.start("--name", "s", recipe.dir / "t.log", *recipe.worker)
    recipe.wait_for("begins at 0", "t")
    process.send_signal(signal.SIGUSR1)
    finish(process)
    assert process.returncode == 75
    assert recipe.cluster.queue() == {}
    assert recipe.checkpoint.with_name("checkpoint.JOB").read_text() == "1"


def test_a_hung_up_run_leaves_its_job_running_and_says_how_to_look_at_it(recipe):
    process = recipe.start("--name", "s", recipe.dir / "t.log", *recipe.worker)
    recipe.wait_for("begins at 0", "t")
    process.send_signal(signal.SIGHUP)
    finish(process)
    job = recipe.submission("s")["job"]
    assert process.returncode == 129
    assert f"squeue -j {job}" in process.out
    assert recipe.cluster.queue() == {job: "RUNNING"}


# --- Slurm itself in trouble --------------------------------------------------------------------


def test_a_controller_that_is_away_for_a_while_is_waited_for(recipe):
    process = recipe.start("--name", "s", "JOB=1:2", recipe.dir / "t.JOB.log", *recipe.worker)
    recipe.wait_for("begins at 0", "t.2")
    recipe.cluster.kill("slurmctld")
    said = []
    while "does not answer" not in (said or [""])[-1]:
        said.append(process.stdout.readline())
        assert said[-1]
    recipe.cluster.start_controller()
    recipe.gate.touch()
    finish(process)
    assert process.returncode == 0, process.err
    assert process.out.count("Slurm's controller answers again\n") == 1
    assert "does not answer" not in process.out


def test_a_job_that_was_taken_although_sbatch_gave_up_is_not_submitted_again(recipe):
    earlier = recipe.run("--name", "s", recipe.dir / "t.log", "true")
    assert earlier.returncode == 0, earlier.err
    sbatch = recipe.dir / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        f'#!/bin/sh\n{shutil.which("sbatch", path=SEARCH_PATH)} "$@"\n'
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv' >&2\n"
        "exit 1\n"
    )
    sbatch.chmod(0o755)
    path = f"{sbatch.parent}:{recipe.env['PATH']}"
    done = recipe.run("--name", "s", "JOB=1:2", recipe.dir / "t.JOB.log", "true", PATH=path)
    assert done.returncode == 0, done.err
    assert f"submitted job {recipe.submission('s')['job']} (s, 2 tasks)\n" in done.out
    assert [recipe.log(f"t.{task}").count("# command:") for task in (1, 2)] == [1, 1]


def test_a_task_whose_node_fails_is_run_again_on_another(recipe):
    process = recipe.start("--name", "s", recipe.dir / "t.log", *recipe.worker)
    recipe.wait_for("begins at 0", "t")
    node = re.search(r"# host: (\S+)", recipe.log("t"))[1]
    if not recipe.cluster.names_resolve:
        node = recipe.cluster.command("squeue", "-h", "-o", "%N").strip()
    recipe.cluster.lose_node(node)
    try:
        recipe.wait_for("begins at 0", "t", count=2)
        recipe.gate.touch()
        finish(process)
    finally:
        recipe.cluster.return_node(node)
    assert process.returncode == 0, process.err
    assert recipe.log("t").count("# command:") == 2


def test_a_job_that_slurm_holds_back_is_not_waited_for_in_silence(recipe):
    process = recipe.start(
        *("--slurm-conf", recipe.conf("begin = now+60\n"), "--name", "s", recipe.dir / "t.log"),
        "true",
    )
    wait_until(recipe.cluster.queue)
    (job,) = recipe.cluster.queue()
    recipe.cluster.command("scontrol", "hold", job)
    lines = []
    while "is held" not in (lines or [""])[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1]
    assert f"[job] s (job {job}) is held: JobHeld" in lines[-1]
    assert f"scontrol release {job} lets it go on" in lines[-1]
    recipe.cluster.command("scancel", job)
    finish(process)
    assert process.returncode == 1
    assert f"[job] s (job {job}) was cancelled (scancel); log: " in process.out


def test_a_job_that_slurm_has_forgotten_counts_as_failed(recipe):
    process = recipe.start("--name", "s", recipe.dir / "t.log", *recipe.worker)
    recipe.wait_for("begins at 0", "t")
    recipe.cluster.kill("slurmctld")
    for path in (recipe.cluster.dir / "state").glob("job_state*"):
        path.unlink()
    recipe.cluster.start_controller()
    finish(process)
    assert process.returncode == 1
    assert "has left Slurm's queue without a result; was last seen running on" in process.out


# --- what cannot work ---------------------------------------------------------------------------


def test_a_refused_submission_gives_slurms_words_and_the_line_to_change(recipe):
    conf = recipe.conf("time = 5\n\npartition = nosuch # not ours\n")
    done = recipe.run("--slurm-conf", conf, "--name", "s", recipe.dir / "t.log", "true")
    assert done.returncode == 1
    assert "error: sbatch refuses s: sbatch: error: invalid partition specified: nosuch" in done.err
    assert f"  {conf}:3: partition = nosuch\n" in done.err
    assert "time = 5" not in done.err
    assert "Traceback" not in done.err
    assert list((recipe.dir / "slurm/s").iterdir()) == []
    assert recipe.cluster.queue() == {}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("time = 9-00:00:00", "Requested time limit is invalid"),
        ("mem-per-cpu = 900G", "Memory specification can not be satisfied"),
        ("constraint = zz", "Invalid feature specification"),
        ("gres = gpu:a100", "Requested node configuration is not available"),
        ("no-such-option = 3", "unrecognized option"),
    ],
)
def test_of_many_lines_the_refused_one_is_found(recipe, line, words):
    conf = recipe.conf(f"comment = x\nnice = 1\n{line}\n")
    done = recipe.run("--slurm-conf", conf, "--gpu", 1, recipe.dir / "t.log", "true")
    assert words in done.err
    assert f"{conf}:3: {line}\n" in done.err
    assert ":1: comment" not in done.err


def test_a_log_that_cannot_be_written_stops_the_run_before_anything_is_submitted(recipe):
    (recipe.dir / "log").write_text("a file where a directory should be")
    done = recipe.run(recipe.dir / "log/t.log", "true")
    assert done.returncode == 1
    assert re.search(r"error: .*/log.*: Not a directory; .*choose an --exp-dir", done.err)
    assert "submitted" not in done.out
    assert recipe.cluster.queue() == {}


def test_a_log_that_only_the_node_cannot_write_is_what_the_run_names(recipe):
    conf = recipe.conf("begin = now+2\n")
    process = recipe.start("--slurm-conf", conf, "--name", "s", recipe.dir / "log/t.log", "true")
    wait_until(lambda: (recipe.dir / "log/slurm/s/submission.json").exists())
    (recipe.dir / "log").rename(recipe.dir / "gone")
    (recipe.dir / "log").write_text("as if the disk were not mounted there")
    finish(process)
    assert process.returncode == 1
    assert f"its log could not be written there ({recipe.dir}/log/t.log)" in process.out


# --- chains -------------------------------------------------------------------------------------


def test_a_detached_chain_runs_in_its_order(recipe):
    first = recipe.run(
        *("--detach", "--name", "a", "--id-file", recipe.dir / "id", "JOB=1:2"),
        *(recipe.dir / "a.JOB.log", "bash", "-c", 'sleep 0.5; date +%s%N >"$0"/a.JOB', recipe.dir),
    )
    job = recipe.submission("a")["job"]
    assert first.returncode == 0, first.err
    assert first.out == f"submitted job {job} (a, 2 tasks)\n"
    assert (recipe.dir / "id").read_text() == f"{job}\n"
    script = 'cd "$0"; ls a.1 a.2 && date'
    second = recipe.run(
        *("--after", job, "--name", "b", recipe.dir / "b.log", "bash", "-c", script, recipe.dir)
    )
    assert second.returncode == 0, second.out


def test_what_comes_after_a_failed_link_is_not_run_and_says_why(recipe):
    recipe.run("--detach", "--name", "a", recipe.dir / "a.log", "false")
    job = recipe.submission("a")["job"]
    second = recipe.run("--after", job, "--name", "b", recipe.dir / "b.log", "true")
    assert second.returncode == 1
    assert "was not run, since a job that it comes after has failed" in second.out
    assert recipe.cluster.queue() == {}
    assert "# command" not in recipe.log("b")


def test_a_job_that_slurm_does_not_know_is_not_waited_for(recipe):
    done = recipe.run("--after", "99999", recipe.dir / "t.log", "true")
    assert done.returncode == 1
    assert "--after 99999: slurm_load_jobs error: Invalid job id specified" in done.err
    assert recipe.cluster.queue() == {}


# --- two runs on one directory ------------------------------------------------------------------


def test_a_second_run_is_refused_and_told_who_is_at_work(recipe):
    arguments = ("--hold", recipe.dir / "tag", "--name", "s", recipe.dir / "t.log")
    process = recipe.start(*arguments, *recipe.worker)
    recipe.wait_for("begins at 0", "t")
    job = recipe.submission("s")["job"]
    second = recipe.run(*arguments, *recipe.worker)
    assert second.returncode == 1
    assert f"pid {process.pid}, Slurm jobs {job}" in second.err

    process.kill()  # its job lives on, and so does the lock
    process.wait()
    third = recipe.run(*arguments, *recipe.worker)
    assert third.returncode == 1
    assert f"Slurm jobs {job}" in third.err

    recipe.gate.touch()
    wait_until(lambda: not recipe.cluster.queue())
    fourth = recipe.run(*arguments, *recipe.worker)
    assert fourth.returncode == 0, fourth.err


# --- several nodes ------------------------------------------------------------------------------


def test_a_task_of_two_nodes_runs_one_process_on_each(recipe):
    script = "echo node $SLURM_NODEID of $SLURM_STEP_NUM_NODES, $SLURM_NTASKS tasks"
    done = recipe.run("--num-nodes", 2, recipe.dir / "t.log", "bash", "-c", script)
    assert done.returncode == 0, done.err
    assert "node 0 of 2, 2 tasks\n" in recipe.log("t")
    assert "node 1 of 2, 2 tasks\n" in recipe.log("t")


def test_when_one_of_two_nodes_fails_the_other_does_not_go_on_alone(recipe):
    script = "[[ $SLURM_NODEID == 0 ]] && exit 3; sleep 300"
    began = time.monotonic()
    done = recipe.run("--num-nodes", 2, recipe.dir / "t.log", "bash", "-c", script)
    assert done.returncode != 0
    assert time.monotonic() - began < 60


def test_a_warned_task_of_two_nodes_is_requeued_and_goes_on(recipe):
    process = recipe.start("--num-nodes", 2, "--name", "s", recipe.dir / "t.log", *recipe.worker)
    recipe.wait_for("begins at 0", "t", count=2)
    recipe.cluster.command("scancel", "--batch", "--signal=USR1", recipe.submission("s")["job"])
    recipe.wait_for("begins at 1", "t", count=2)
    recipe.gate.touch()
    finish(process)
    assert process.returncode == 0, process.err


# --- the cluster of these tests -----------------------------------------------------------------


def _sleep(running):
    running.set()
    time.sleep(60)


def test_what_the_tests_fork_beside_a_cluster_ends_when_asked(cluster):
    context = multiprocessing.get_context("fork")
    running = context.Event()
    child = context.Process(target=_sleep, args=(running,))
    child.start()
    running.wait()
    child.terminate()
    child.join()
    assert child.exitcode == -signal.SIGTERM


def _term_is_ignored():
    sys.exit(0 if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN else 1)


def test_what_the_tests_fork_beside_a_cluster_inherits_any_other_handler(cluster):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        child = multiprocessing.get_context("fork").Process(target=_term_is_ignored)
        child.start()
        child.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert child.exitcode == 0


@pytest.fixture
def stopped_cluster(slurm_installed, tmp_path, monkeypatch):
    """A cluster that has not been started, made where TMPDIR is nobody else's."""
    (tmp_path / "own").mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "own"))
    cluster = Cluster()
    yield cluster
    cluster.stop()


def test_munge_needs_a_directory_that_others_can_reach(stopped_cluster):
    for directory in stopped_cluster.dir.parents:
        assert directory.stat().st_mode & 0o001, directory


def test_a_munge_that_does_not_stay_up_is_not_waited_for(stopped_cluster, monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda size: b"")  # munged refuses so short a key
    with pytest.raises(RuntimeError, match="munged did not stay up"):
        stopped_cluster.start()


# --- what Slurm is given to run -----------------------------------------------------------------


def test_the_python_that_run_sh_was_told_of_runs_the_tasks_too():
    code = (
        "from pathlib import Path; from ser.cluster.slurm import job_script; "
        "from ser.cluster.tasks import Tasks; "
        "print(job_script(Tasks('a.log', ['true'], 'a'), Path('/tmp/jobs')))"
    )
    env = os.environ | {"SER_PYTHON": "/opt/in a container"}
    command = [sys.executable, "-c", code]
    script = subprocess.run(command, env=env, cwd=ROOT, text=True, capture_output=True, check=True)
    assert "exec '/opt/in a container' -m ser task /tmp/jobs a.log true\n" in script.stdout


# --- the time limit, last since it takes more than a minute -------------------------------------


def test_at_the_time_limit_what_listens_goes_on_from_where_it_was(time_limited):
    recipe, process, _ = time_limited
    recipe.wait_for("begins at 1", "a", seconds=180)
    recipe.gate.touch()
    finish(process)
    assert process.returncode == 0, process.err
    assert "stops with 10\n" in recipe.log("a")


def test_at_the_time_limit_what_does_not_listen_fails_with_the_line_to_change(time_limited):
    recipe, _, process = time_limited
    finish(process, seconds=240)
    assert process.returncode == 143
    assert "reached its time limit (TimeLimit=00:01:00); raise time in conf/slurm.conf" in (
        process.out
    )
