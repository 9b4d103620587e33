"""Interrupted anywhere, a training ends as if nobody had touched it."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ser.cluster import preemption
from ser.stage import read_marker
from ser.training.checkpoint import (
    CHECKPOINT,
    EpochFiles,
    StepCheckpoints,
    displaces,
    random_state,
    set_random_state,
)
from ser.training.trainer import SERTrainer
from tests.support import ROOT
from tests.support.training import (
    SYSTEM,
    forked_processes,
    make_corpus,
    same,
    train,
    train_where_writing_takes_long,
    weights,
)

EPOCHS, BATCHES = 6, 5  # 16 utterances of training, 3 or 4 in a batch
LAST = f"{EPOCHS}epoch.pth"
# dropout everywhere, so that a random number drawn twice or never changes the weights
RANDOM = {
    **SYSTEM,
    "frontend_conf": {
        **SYSTEM["frontend_conf"],
        "config": {**SYSTEM["frontend_conf"]["config"], "hidden_dropout": 0.3},
    },
    "max_epoch": EPOCHS,
    "accum_grad": 2,
    "scheduler": "warmuplr",
    "scheduler_conf": {"warmup_steps": 5},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def system(corpus) -> Path:
    path = corpus / "random.yaml"
    path.write_text(yaml.safe_dump(RANDOM))
    return path


@pytest.fixture(scope="module")
def undisturbed(corpus, system, tmp_path_factory) -> Path:
    exp_dir = tmp_path_factory.mktemp("undisturbed")
    train(corpus, exp_dir, config=system)
    return exp_dir / "Ses01F"


def stop_after(monkeypatch, phase: str, epoch: int, batches: int, signum=signal.SIGUSR1) -> None:
    """Send this process a signal in the middle of a step."""
    from ser.models.model import SERModel

    forward, seen = SERModel.forward, {"train": 0, "valid": 0}

    def forward_and_signal(self, *args, **kwargs):
        now = "train" if self.training else "valid"
        seen[now] += 1
        per_epoch = BATCHES if now == "train" else 2
        if now == phase and seen[now] == (epoch - 1) * per_epoch + batches:
            os.kill(os.getpid(), signum)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(SERModel, "forward", forward_and_signal)


# Two batches make a step (accum_grad), and the fifth a step of its own, after which only the
# validation is left.
@pytest.mark.parametrize(
    ("phase", "epoch", "batches", "expected"),
    [("train", 1, 1, 2), ("train", 2, 3, 4), ("train", 2, 5, BATCHES), ("valid", 1, 2, BATCHES)],
)
def test_a_warned_training_stops_after_its_step_and_goes_on_to_the_same_result(
    corpus, system, undisturbed, tmp_path, monkeypatch, phase, epoch, batches, expected
):
    with monkeypatch.context() as patch:
        stop_after(patch, phase, epoch, batches)
        with pytest.raises(preemption.Stopped) as stop:
            train(corpus, tmp_path, config=system)
    assert stop.value.status == 75
    fold = tmp_path / "Ses01F"
    (kept,) = fold.glob("*step.pth")
    assert kept.name == f"{epoch}epoch.step.pth"
    state = torch.load(kept, weights_only=False)
    assert (state["batches"], state["trained"]) == (expected, expected == BATCHES)
    assert (tmp_path / "log/stage4.Ses01F.log").read_text().endswith("# exit status: 75\n")
    random.seed(99), np.random.seed(99), torch.manual_seed(99)  # another process, another state
    train(corpus, tmp_path, config=system)
    for name in (LAST, "valid.UA.best.pth"):
        assert same(weights(fold, name), weights(undisturbed, name)), name
    assert not list(fold.glob("*step.pth"))
    assert statistics(fold) == statistics(undisturbed)


def statistics(fold: Path) -> list[dict]:
    """The history without times."""
    history = json.loads((fold / "history.json").read_text())
    for entry in history:
        for phase in ("train", "valid"):
            times = [key for key in entry[phase] if key.endswith(("time", "seconds"))]
            for key in times:
                del entry[phase][key]
    return history


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_term_and_ctrl_c_leave_a_checkpoint_too(
    corpus, system, tmp_path, monkeypatch, signum, status
):
    stop_after(monkeypatch, "train", 1, 3, signum)
    with pytest.raises(preemption.Stopped) as stop:
        train(corpus, tmp_path, config=system)
    assert stop.value.status == status
    assert (tmp_path / "Ses01F/1epoch.step.pth").exists()


def test_a_damaged_checkpoint_within_an_epoch_costs_the_epoch_and_no_result(
    corpus, system, undisturbed, tmp_path, monkeypatch, caplog
):
    with monkeypatch.context() as patch:
        stop_after(patch, "train", 2, 3)
        with pytest.raises(preemption.Stopped):
            train(corpus, tmp_path, config=system)
    (tmp_path / "Ses01F/2epoch.step.pth").write_bytes(b"PK\3\4 garbage")
    train(corpus, tmp_path, config=system)
    assert same(weights(tmp_path / "Ses01F", LAST), weights(undisturbed, LAST))
    assert "2epoch.step.pth: cannot be read" in caplog.text


@pytest.fixture(scope="module")
def processes() -> BaseContext:
    return forked_processes()


@pytest.mark.parametrize(
    ("target", "extra_args"),
    [
        pytest.param(train, ["--checkpoint_seconds", "0"], id="after_every_step"),
        pytest.param(train, ["--background_checkpoints", "true"], id="in_the_background"),
        pytest.param(
            train_where_writing_takes_long, ["--background_checkpoints", "true"], id="only_held"
        ),
    ],
)
def test_killed_at_random_moments_a_fold_ends_with_the_same_weights(
    corpus, system, undisturbed, tmp_path, processes, target, extra_args
):
    """kill -9, several times, wherever it happens to hit; checkpoints are written in some way."""
    log = tmp_path / "log/stage4.Ses01F.log"
    options = {"config": system, "extra_args": extra_args}
    moments = random.Random(os.environ.get("SER_TEST_SEED", "kill"))
    kills = 0
    while read_marker(tmp_path / "Ses01F") is None:
        before = log.stat().st_size if log.exists() else 0
        process = processes.Process(target=target, args=(corpus, tmp_path), kwargs=options)
        process.start()
        while process.is_alive() and not (log.exists() and begun(log, before)):
            time.sleep(0.005)
        if kills < 6:
            time.sleep(moments.uniform(0, 0.3))
            process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills > 0, "every training ended before it could be killed"
    fold = tmp_path / "Ses01F"
    for name in (LAST, "valid.UA.best.pth"):
        assert same(weights(fold, name), weights(undisturbed, name)), name
    assert statistics(fold) == statistics(undisturbed)


def begun(log: Path, before: int) -> bool:
    """Whether training shows in what the log has gained."""
    return b"epoch started" in log.read_bytes()[before:]


def test_every_checkpoint_holds_all_random_states(undisturbed):
    state = torch.load(undisturbed / CHECKPOINT, weights_only=False)
    assert set(state["random"]) == {"python", "numpy", "torch", "cuda"}


def test_random_numbers_go_on_where_they_were():
    state = random_state()
    first = random.random(), np.random.rand(), torch.rand(1).item()
    set_random_state(state)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first


def test_a_resumed_run_takes_up_the_random_state_of_the_checkpoint(tmp_path, monkeypatch):
    torch.manual_seed(5)
    with EpochFiles(False, (), 1):
        torch.save({"model": {}}, tmp_path / CHECKPOINT)
    expected = torch.rand(1).item()
    monkeypatch.setattr("espnet2.train.trainer.Trainer.resume", staticmethod(lambda *a, **k: None))
    SERTrainer.resume(tmp_path / CHECKPOINT, optimizers=[])
    assert torch.rand(1).item() == expected


CRITERIA = (("valid", "UA", "max"),)


def epoch_state(*values: float) -> dict:
    """Of ESPnet's reporter after epochs with these validation UAs."""
    stats = {n: {"valid": {"UA": value}} for n, value in enumerate(values, start=1)}
    return {"epoch": len(values), "stats": stats}


def whole_checkpoint(model: torch.nn.Module, *values: float) -> dict:
    return {"model": model.state_dict(), "reporter": epoch_state(*values)}


@pytest.fixture
def slow_disk(monkeypatch) -> threading.Event:
    """Nothing is written before it is set."""
    save, ready = torch.save, threading.Event()

    def save_slowly(*args, **kwargs):
        assert ready.wait(60), "nobody let the disk go on"
        save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", save_slowly)
    return ready


def test_the_files_of_an_epoch_are_written_while_training_goes_on(tmp_path, slow_disk):
    model = torch.nn.BatchNorm1d(3)
    checkpoint = whole_checkpoint(model, 0.5)
    saved = {key: value.clone() for key, value in checkpoint["model"].items()}
    with EpochFiles(True, CRITERIA, 1):
        torch.save(checkpoint, tmp_path / CHECKPOINT)
        torch.save(checkpoint["model"], tmp_path / "1epoch.pth")
        assert not list(tmp_path.glob("*.pth"))
        with torch.no_grad():
            model.weight += 1.0  # the next epoch's first step
        slow_disk.set()
        written = torch.load(tmp_path / CHECKPOINT, weights_only=False)["model"]  # waits for it
    assert same(written, saved)
    assert same(torch.load(tmp_path / "1epoch.pth"), saved)
    assert written._metadata == checkpoint["model"]._metadata


def test_what_could_not_be_written_beside_training_stops_it_at_the_next_epoch(tmp_path):
    model = torch.nn.Linear(3, 3)
    missing = tmp_path / "removed by somebody" / CHECKPOINT
    with pytest.raises(OSError, match="removed by somebody"), EpochFiles(True, CRITERIA, 1):
        torch.save(whole_checkpoint(model, 0.5), missing)
        with pytest.raises(OSError, match="removed by somebody"):
            torch.save(whole_checkpoint(model, 0.5, 0.4), missing)
        torch.save(whole_checkpoint(model, 0.5, 0.4), missing)


@pytest.mark.parametrize(
    ("values", "keep", "written", "expected"),
    [
        ([0.5], 1, 0, False),
        ([0.5, 0.6], 1, 1, False),  # the first epoch's model can be made from its checkpoint
        ([0.5, 0.4, 0.6], 1, 2, True),  # the checkpoint before is the second epoch's
        ([0.5, 0.4, 0.3], 1, 2, False),
        ([0.5, 0.4, 0.5], 1, 2, False),  # the earlier of two equals stays
        ([0.5, 0.6, 0.4, 0.55], 2, 3, True),
        ([0.5, 0.6, 0.4, 0.55], 3, 3, False),  # ousts the third, which is in its checkpoint
        ([0.5, 0.4, 0.6, 0.7], 1, 1, False),  # all but the first are trained again
        ([0.5, 0.4, 0.3, 0.7], 1, 2, True),
        ([0.5, 0.4, 0.6, 0.7], 1, 0, False),
    ],
)
def test_a_model_is_displaced_that_the_checkpoint_before_does_not_hold(
    values, keep, written, expected
):
    assert displaces(epoch_state(*values), CRITERIA, keep, written) is expected


def test_training_waits_where_a_kill_could_cost_one_of_the_best_models(tmp_path):
    model = torch.nn.Linear(3, 3)
    torch.save(whole_checkpoint(model, 0.5, 0.4), tmp_path / CHECKPOINT)
    with EpochFiles(True, CRITERIA, 1) as files:
        torch.load(tmp_path / CHECKPOINT)  # from which a training goes on
        checkpoint = whole_checkpoint(model, 0.5, 0.4, 0.6)
        torch.save(checkpoint, tmp_path / CHECKPOINT)
        torch.save(checkpoint["model"], tmp_path / "3epoch.pth")
        assert not files.pending
        assert torch.load(tmp_path / CHECKPOINT, weights_only=False)["reporter"]["epoch"] == 3
        assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT, "3epoch.pth"}


def test_where_writing_takes_long_a_checkpoint_is_held_until_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("ser.training.checkpoint.WRITING", 1e-9)
    path = tmp_path / CHECKPOINT

    def on_disk() -> int:
        return plain_load(path, weights_only=False)["reporter"]["epoch"]

    plain_load = torch.load
    model = torch.nn.Linear(3, 3)
    with EpochFiles(True, CRITERIA, 1) as files:
        for epoch in (1, 2, 3):
            torch.save(whole_checkpoint(model, *[0.5] * epoch), path)
            files.wait()
            assert on_disk() == 1
        saved = {key: value.clone() for key, value in model.state_dict().items()}
        with torch.no_grad():
            model.weight += 1.0  # the next epoch's first step, in which it is asked to stop
        files.settle()
        assert on_disk() == 3
        assert same(plain_load(path, weights_only=False)["model"], saved)
        torch.save(whole_checkpoint(model, *[0.5] * 4), path)
        assert on_disk() == 3
    assert on_disk() == 4


def test_of_ten_seconds_nine_go_into_training(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ser.training.checkpoint.time.monotonic", lambda: now[0])
    save = torch.save

    def save_in_two_seconds(*args, **kwargs):
        now[0] += 2.0
        save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", save_in_two_seconds)
    model = torch.nn.Linear(3, 3)
    written = []
    with EpochFiles(True, CRITERIA, 1) as files:
        for epoch in range(1, 8):
            torch.save(whole_checkpoint(model, *[0.5] * epoch), tmp_path / CHECKPOINT)
            files.wait()
            written.append(files.written)
            now[0] += 7.0
    # the first at 0 s takes 2, so that the next is due after 18 more
    assert written == [1, 1, 1, 4, 4, 4, 7]


def test_a_checkpoint_within_an_epoch_is_kept_until_that_of_its_end_is_written(tmp_path):
    within = tmp_path / "1epoch.step.pth"
    within.touch()
    seen = []
    steps = StepCheckpoints(
        tmp_path, None, (), (), 1, 600.0, settle=lambda: seen.append(within.exists())
    )
    steps.remove(keep=2)
    assert seen == [True]
    assert not within.exists()


def test_training_ends_with_the_same_models_whoever_writes_them(
    corpus, system, undisturbed, tmp_path
):
    train(corpus, tmp_path, config=system, extra_args=["--background_checkpoints", "true"])
    for name in (LAST, "valid.UA.best.pth"):
        assert same(weights(tmp_path / "Ses01F", name), weights(undisturbed, name)), name


def test_a_signal_to_all_processes_leaves_the_data_loader_to_finish_the_step(
    corpus, system, tmp_path
):
    command = [sys.executable, "-m", "ser", "train", "--share=1/1"]
    command += ["--data-dir", str(corpus / "data/tones")]
    command += ["--dump-dir", str(corpus / "dump/tones"), "--exp-dir", str(tmp_path)]
    command += ["--config", str(system), "--folds", "Ses01F", "--max-epoch", "2000"]
    command += ["--", "--num_workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    log = tmp_path / "log/stage4.Ses01F.log"
    while not (log.exists() and b"2/2000epoch started" in log.read_bytes()):
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == 143, log.read_text()
    assert (tmp_path / "Ses01F/checkpoint.pth").exists()
    with pytest.raises(ProcessLookupError):  # nobody is left of the group
        os.killpg(process.pid, 0)


def test_slurm_sends_term_several_times_at_once_and_the_step_is_still_finished():
    with preemption.listening():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.requested() == signal.SIGTERM


def test_processes_that_were_forked_pass_over_signals_until_they_are_ended_in_earnest():
    with preemption.listening():
        child = os.fork()
        if child == 0:
            for signum in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
                os.kill(os.getpid(), signum)
            preemption._first_term -= preemption.IN_EARNEST
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert preemption.requested() is None


def test_a_signal_is_passed_on_to_the_processes_of_the_other_gpus(processes):
    with preemption.listening():
        child = processes.Process(target=time.sleep, args=(60,))
        child.start()
        os.kill(os.getpid(), signal.SIGUSR1)
        child.join(20)
        assert child.exitcode == -signal.SIGUSR1
        assert preemption.requested() == signal.SIGUSR1


def test_a_second_ctrl_c_ends_the_process_at_once():
    program = """
import os, signal
from ser.cluster import preemption
with preemption.listening():
    os.kill(os.getpid(), signal.SIGINT)
    print(preemption.requested().name, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("not reached")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("SIGINT\n", -signal.SIGINT)


def test_signals_are_handled_as_before_once_nobody_listens():
    before = signal.getsignal(signal.SIGUSR1)
    with preemption.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        with preemption.listening(), pytest.raises(preemption.Stopped):
            preemption.check()
        assert preemption.requested() == signal.SIGUSR1
    assert preemption.requested() is None
    assert signal.getsignal(signal.SIGUSR1) == before
