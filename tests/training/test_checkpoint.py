"""Interrupted anywhere, a training ends as if nobody had touched it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ser.cluster import preemption
from ser.data.tables import read_table, write_table
from ser.stage import read_marker
from ser.training.checkpoint import (
    CHECKPOINT,
    ESPNET_KEYS,
    random_state,
    set_random_state,
)
from ser.training.trainer import SERTrainer
from tests.support import ROOT
from tests.support.training import SYSTEM, read_json, same, train, weights, write_system

EPOCHS, BATCHES = 6, 5  # 16 utterances of training, 3 or 4 in a batch
LAST = f"{EPOCHS}epoch.pth"
# dropout everywhere, so that a random number drawn twice or never changes the weights
RANDOM = {
    "frontend_conf": {
        **SYSTEM["frontend_conf"],
        "config": {**SYSTEM["frontend_conf"]["config"], "hidden_dropout": 0.3},
    },
    "aux_conf": {
        **SYSTEM["aux_conf"],
        "v": {"type": "value", "weight": 0.1, "table": "utt2num_samples"},
    },
    "max_epoch": EPOCHS,
    "accum_grad": 2,
    "scheduler": "warmuplr",
    "scheduler_conf": {"warmup_steps": 5},
}


@pytest.fixture(scope="module")
def system(corpus) -> Path:
    raters = {utt: f"{e} happy,{e}" for utt, e in read_table(corpus / "dump/tones/utt2emo").items()}
    write_table(corpus / "raters", raters)
    return write_system(corpus / "random.yaml", soft_targets=str(corpus / "raters"), **RANDOM)


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
    history = read_json(fold / "history.json")
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


@pytest.mark.slow
def test_killed_at_random_moments_a_fold_ends_with_the_same_weights(
    corpus, system, undisturbed, tmp_path, processes
):
    """kill -9, several times, wherever it happens to hit; checkpoints come after every step."""
    extra_args = ["--checkpoint_seconds", "0"]
    log = tmp_path / "log/stage4.Ses01F.log"
    options = {"config": system, "extra_args": extra_args}
    moments = random.Random(os.environ.get("SER_TEST_SEED", "kill"))
    kills = 0
    while read_marker(tmp_path / "Ses01F") is None:
        before = log.stat().st_size if log.exists() else 0
        process = processes.Process(target=train, args=(corpus, tmp_path), kwargs=options)
        process.start()
        while process.is_alive() and not (log.exists() and begun(log, before)):
            time.sleep(0.005)
        if kills < 4:
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
    state = {**dict.fromkeys(ESPNET_KEYS), "random": random_state()}
    torch.save(state, tmp_path / CHECKPOINT)
    expected = torch.rand(1).item()
    monkeypatch.setattr("espnet2.train.trainer.Trainer.resume", staticmethod(lambda *a, **k: None))
    SERTrainer.resume(tmp_path / CHECKPOINT, optimizers=[])
    assert torch.rand(1).item() == expected


@pytest.mark.slow
def test_a_signal_to_all_processes_leaves_the_data_loader_to_finish_the_step(
    corpus, system, tmp_path
):
    command = [sys.executable, "-m", "ser", "train", "--data-dir", str(corpus / "data/tones")]
    command += ["--dump-dir", str(corpus / "dump/tones"), "--exp-dir", str(tmp_path)]
    command += ["--config", str(system), "--folds", "Ses01F", "--max-epoch", "2000"]
    command += ["--share", "1/1", "--", "--num_workers", "2"]
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
