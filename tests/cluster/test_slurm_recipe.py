"""The recipe on a real Slurm cluster, as its users run it: nothing is replaced.

The corpus and its dump are made once, by the detached chain; later runs train into directories of
their own. All of them use one seed and one configuration, so that the predictions of a run that was
disturbed can be compared with those of one that was not.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ser.cluster.submissions import stage_jobs
from tests.support import ROOT
from tests.support.slurm_cluster import Cluster, wait_until

SHARED = ["--protocol", "kfold3"]
FOLDS = ["fold1", "fold2", "fold3"]  # of kfold3
BROKEN = "fold2"
REQUEUED = ["requeued_seed1", "requeued_seed2"]
EPOCHS = 12  # enough for a signal to arrive while they last
PATIENCE = 900  # seconds; only a hang takes so long, or a busy machine that imports ESPnet


class Site:
    """A cluster, and directories that the runs share."""

    def __init__(self, cluster: Cluster, root: Path):
        self.cluster, self.root = cluster, root
        self.env = cluster.env | {"SER_SLURM_POLL": "0.5", "OMP_NUM_THREADS": "1"}

    def options(self, tag: str, *options: str, backend: str = "slurm") -> list[str]:
        """What is behind run.sh."""
        directories = [f"--{kind}-dir={self.root / kind}" for kind in ("data", "dump", "exp")]
        own = ["--python", sys.executable, "--backend", backend, "--tag", tag, *directories]
        shorter = ["--", "--num_iters_per_epoch", "5"]
        return [*own, "--max-epoch", str(EPOCHS), *options, *shorter]

    def start(self, tag: str, *options: str) -> subprocess.Popen:
        """Begin ./run.sh; stdout and stderr come together."""
        return subprocess.Popen(
            [ROOT / "run.sh", *self.options(tag, *options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.env,
            cwd=self.root,
        )

    def run(self, tag: str, *options: str) -> tuple[int, str]:
        """(exit status, all that ./run.sh printed)."""
        process = self.start(tag, *options)
        output, _ = process.communicate()
        return process.returncode, output

    def status(self, tag: str, *options: str) -> str:
        """What --status prints."""
        status, output = self.run(tag, *options, "--status")
        assert status == 0, output
        return output

    def exp(self, tag: str) -> Path:
        return self.root / "exp/mini" / tag

    def log(self, tag: str, name: str) -> str:
        """A log so far; empty before it is there."""
        path = self.exp(tag) / "log" / name
        return path.read_text() if path.exists() else ""

    def predictions(self, tag: str, fold: str = "Ses01F") -> str:
        return (self.exp(tag) / fold / "predictions.tsv").read_text()

    def wait_for_epoch(self, tag: str, goes_on: Callable[[], bool]) -> None:
        """Poll until Ses01F of ``tag`` has trained an epoch; show its logs if it ends before."""

        def trained() -> bool:
            found = f"epoch 1/{EPOCHS} train" in self.log(tag, "stage4.Ses01F.log")
            assert found or goes_on(), self.explain(tag)
            return found

        wait_until(trained, lambda: self.explain(tag), PATIENCE)

    def wait_for_end(self, *tags: str) -> None:
        """Poll until the queue is empty."""
        wait_until(
            lambda: not self.cluster.queue(), lambda: "\n".join(map(self.explain, tags)), PATIENCE
        )

    def explain(self, tag: str) -> str:
        """The ends of all logs of ``tag``."""
        logs = sorted(self.exp(tag).glob("log/*.log"))
        return "\n".join(f"{log}: {log.read_text()[-800:]}" for log in logs)


@pytest.fixture(scope="module")
def chain(running_cluster, tmp_path_factory) -> tuple[Site, str]:
    """All stages for two seeds of one fold, detached, from nothing; and what run.sh printed.

    What the chain has made is the undisturbed run that others are compared with.
    """
    site = Site(running_cluster, tmp_path_factory.mktemp("site"))
    partition = ("scontrol", "update", "partitionname=main")
    running_cluster.command(*partition, "state=down")  # takes jobs, but begins none yet
    status, output = site.run("chain", "--detach", "--seed", "1 2", "--folds", "Ses01F")
    assert status == 0, output
    queued = running_cluster.queue()
    waiting = site.status("chain", "--seed", "1 2")
    running_cluster.command(*partition, "state=up")
    site.wait_for_end("chain_seed1", "chain_seed2")
    return site, output, queued, waiting


@pytest.fixture
def site(chain) -> Site:
    yield chain[0]
    chain[0].cluster.clear()


def test_a_detached_chain_goes_from_nothing_to_the_results_table(chain):
    site, output, _, _ = chain
    names = re.findall(r"submitted job \d+ \((stage\d), \d+ tasks?\)", output)
    assert names == [f"stage{number}" for number in range(1, 7)]
    for seed in (1, 2):
        scores = json.loads((site.exp(f"chain_seed{seed}") / "scores.json").read_text())
        assert list(scores["per_fold"]) == ["Ses01F"]
        assert scores["seed"] == seed
    assert "| 1, 2 |" in (site.root / "exp/RESULTS.md").read_text()
    assert site.predictions("chain_seed1") != site.predictions("chain_seed2")


def test_a_detached_run_returns_at_once_and_every_job_waits_for_the_one_before(chain):
    site, output, queued, waiting = chain
    ids = re.findall(r"submitted job (\d+)", output)
    assert f"scancel {' '.join(ids)}" in output
    assert list(queued.values()).count("PENDING") >= len(ids) - 1  # the first may have begun
    assert "no folds yet" in waiting
    # Slurm gives one of two reasons why it waits, so that it is asked what it waits for
    assert re.search(rf"stage6: job {ids[5]}: 1 pending \((Dependency|PartitionDown)\)", waiting)
    submitted = {
        job.submission.job: job.submission.sbatch for job in stage_jobs(site.exp("chain_seed1"))
    }
    for job, before in zip(ids[1:], ids, strict=False):
        assert f"--dependency=afterok:{before}" in submitted[job]


def test_the_status_of_a_finished_chain_is_all_scored_and_no_job(chain):
    site = chain[0]
    shown = site.status("chain", "--seed", "1 2")
    assert re.findall(r"Ses01F  (\w+) +(\d+/\d+)", shown) == [("scored", f"{EPOCHS}/{EPOCHS}")] * 2
    assert "job" not in shown


@pytest.fixture(scope="module")
def three(chain) -> tuple[int, str]:
    """Three folds as one array, one with a damaged checkpoint: run.sh's status and output."""
    site = chain[0]
    (site.exp("three") / BROKEN).mkdir(parents=True)
    (site.exp("three") / BROKEN / "checkpoint.pth").write_bytes(b"damaged")
    return site.run("three", *SHARED, "--stage", "3", "--max-epoch", "1")


def test_folds_are_one_array_whose_counts_are_shown(three, site):
    (job,) = [job for job in stage_jobs(site.exp("three")) if job.submission.name == "stage4"]
    assert "--array=1-3" in job.submission.sbatch
    assert "[progress] stage4: 0 pending, 0 running, 2 done, 1 failed" in site.log(
        "three", "stage4.log"
    )


def test_a_fold_that_fails_makes_the_run_fail_and_names_its_log_while_the_others_finish(
    three, site
):
    status, output = three
    assert status == 1
    assert f"log/stage4.{BROKEN}.log" in output
    assert "checkpoint.pth: cannot be read" in output
    assert "stage 4 (train): FAILED" in output
    assert "stage 5" not in output
    done = {fold: (site.exp("three") / fold / ".done").exists() for fold in FOLDS}
    assert done == {fold: fold != BROKEN for fold in FOLDS}
    assert re.search(rf"{BROKEN}  failed .*log/stage4.{BROKEN}.log", site.status("three", *SHARED))


def test_stage_5_scores_the_folds_that_are_there_and_says_so(three, site):
    status, output = site.run(
        "three", *SHARED, "--stage", "5", "--stop-stage", "5", "--max-epoch", "1"
    )
    assert status == 0, output
    assert f"PARTIAL: only 2 of 3 folds are scored; missing: {BROKEN}" in output


def test_the_failed_fold_is_trained_alone_and_completes_the_results(three, site):
    (site.exp("three") / BROKEN / "checkpoint.pth").unlink()  # as its message said
    options = [*SHARED, "--stage", "4", "--max-epoch", "1", "--folds", BROKEN]
    status, output = site.run("three", *options)
    assert status == 0, output
    assert "submitted job" in output
    assert "PARTIAL: " not in output
    assert list(json.loads((site.exp("three") / "scores.json").read_text())["per_fold"]) == FOLDS


@pytest.fixture(scope="module")
def requeued(chain) -> dict[str, object]:
    """A run whose two tasks are requeued while they train: what was to be seen meanwhile.

    One by scontrol requeue, as when a node is taken away; one by the warning signal.
    """
    site = chain[0]
    options = ["--seed", "1 2", "--folds", "Ses01F", "--stage", "4", "--stop-stage", "5"]
    process = site.start("requeued", *options)
    seen: dict[str, object] = {}
    for number, tag in enumerate(REQUEUED, start=1):
        site.wait_for_epoch(tag, lambda: process.poll() is None)
        if not seen:
            (job,) = stage_jobs(site.exp(tag))
            seen["job"] = job.submission.job
            seen["status"] = site.status("requeued", "--seed", "1 2")
        if number == 1:
            site.cluster.command("scontrol", "requeue", f"{seen['job']}_1")
        else:
            site.cluster.command("scancel", "--signal=USR1", "--batch", f"{seen['job']}_2")
    seen["second run"] = site.run("requeued", *options)
    seen["output"], _ = process.communicate()
    seen["exit status"] = process.returncode
    return seen


def test_folds_requeued_while_they_train_end_with_the_same_predictions(requeued, site):
    assert requeued["exit status"] == 0, requeued["output"]
    for seed, tag in enumerate(REQUEUED, start=1):
        assert site.log(tag, "stage4.Ses01F.log").count("# start: ") == 2
        assert site.predictions(tag) == site.predictions(f"chain_seed{seed}")


def test_the_status_of_a_run_names_node_job_and_process_of_each_training(requeued):
    pattern = rf"Ses01F  training \(on \S+, job {requeued['job']}_1, pid \d+\)  +\d+/{EPOCHS} "
    assert re.search(pattern, requeued["status"]), requeued["status"]


def test_a_second_run_on_the_same_tag_stops_and_says_who_holds_it(requeued):
    status, output = requeued["second run"]
    assert status == 1
    assert "requeued_seed1: another run is at work on it: host " in output
    assert f"Slurm jobs {requeued['job']}, since" in output
    assert f"squeue -j {requeued['job']}; scancel ends them" in output


def test_run_sh_may_itself_be_submitted_and_requeues_itself_when_warned(site):
    options = site.options(
        "batch", "--folds", "Ses01F", "--stage", "3", "--stop-stage", "5", backend="local"
    )
    output = site.root / "batch.out"
    command = ["sbatch", "--parsable", f"--output={output}", str(ROOT / "run.sh"), *options]
    job = subprocess.check_output(command, env=site.env, cwd=site.root, text=True).strip()
    site.wait_for_epoch("batch", lambda: job in site.cluster.queue())
    site.cluster.command("scancel", "--signal=USR1", "--batch", job)
    site.wait_for_end("batch")
    printed = output.read_text()
    assert f"stopped after 0:{printed.partition('stopped after 0:')[2][:2]} by a signal" in printed
    assert f"job {job} is requeued and goes on by itself" in printed
    assert "stage 5 (score): done" in printed.partition("is requeued")[2]
    assert site.log("batch", "stage4.Ses01F.log").count("# start: ") == 2
    assert site.predictions("batch") == site.predictions("chain_seed1")


def test_two_nodes_train_one_fold(site):
    options = ["--folds", "Ses01F", "--stage", "4", "--stop-stage", "4", "--max-epoch", "1"]
    status, output = site.run("nodes", "--num-nodes", "2", *options)
    assert status == 0, output
    assert "Ses01F  trained" in site.status("nodes")
    hosts = [
        re.search(r"# host: (\S+)", site.log("nodes", f"stage4.Ses01F{suffix}.log"))[1]
        for suffix in ("", ".node2")
    ]
    assert not site.cluster.names_resolve or sorted(hosts) == ["n1", "n2"]
