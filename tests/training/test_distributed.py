"""One training in two processes, as srun starts them on two nodes; gloo on the CPU, no Slurm."""

import os
import signal
import socket
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml

from ser.data.tables import read_table, write_table
from ser.errors import UserError
from ser.training.distributed import Processes, this_process
from tests.support.training import SYSTEM, read_json, same, train, weights, write_system

# Plain gradient descent without clipping, so that weights show gradients; batches of 3 are divided
# into 2 and 1, half of the utterances have no words, and a third has no take.
EXACT = {
    "optim": "sgd",
    "optim_conf": {"lr": 0.05},
    "grad_clip": 1.0e9,
    "accum_grad": 1,
    "max_epoch": 2,
    "aux_conf": {
        "pr": {"type": "ctc", "weight": 1.0},
        "take": {
            "type": "label",
            "table": "utt2third",
            "weight": 1.0,
            "gradient_reversal": 0.5,
        },
    },
    "frontend_conf": {
        **SYSTEM["frontend_conf"],
        "config": {
            **SYSTEM["frontend_conf"]["config"],
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
            "feat_proj_dropout": 0.0,
        },
    },
}
STATISTICS = (
    *("loss", "loss_er", "loss_pr", "WA", "UA"),
    *("loss_take", "skipped_take", "correct_take", "accuracy_take"),
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def node(rank: int, port: int, signal_at: int | None, arguments: tuple, options: dict) -> None:
    """What srun's task on node ``rank`` does; with ``signal_at`` it is warned at that batch."""
    os.environ.update(
        SLURM_JOB_ID="12",
        SLURM_STEP_NUM_NODES="2",
        SLURM_NTASKS="2",
        SLURM_STEP_NODELIST="localhost",
        SLURM_NODEID=str(rank),
        SLURM_PROCID=str(rank),
        SLURM_LOCALID="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo",
    )
    if signal_at is not None:
        from ser.models.model import SERModel

        forward, seen = SERModel.forward, []

        def forward_and_signal(self, *args, **kwargs):
            seen.append(1)
            if len(seen) == signal_at:
                os.kill(os.getpid(), signal.SIGUSR1)
            return forward(self, *args, **kwargs)

        SERModel.forward = forward_and_signal
    try:
        train(*arguments, num_nodes=2, **options)
    except BaseException as err:
        raise SystemExit(getattr(err, "status", 1)) from err


@pytest.fixture(scope="module")
def train_on_two(processes):
    def run(*arguments, signal_at: int | None = None, **options) -> list[int]:
        """Exit statuses of both; only the second process is warned."""
        port = free_port()
        nodes = [
            processes.Process(
                target=node, args=(rank, port, signal_at if rank else None, arguments, options)
            )
            for rank in (0, 1)
        ]
        for process in nodes:
            process.start()
        for process in nodes:
            process.join(120)
        return [process.exitcode for process in nodes]

    return run


@pytest.fixture(scope="module")
def corpus(corpus) -> Path:
    write_system(corpus / "exact.yaml", **EXACT)
    utts = sorted(read_table(corpus / "dump/tones/utt2emo"))
    takes = {utt_id: f"take{utt_id[-1]}" for i, utt_id in enumerate(utts) if i % 3}
    write_table(corpus / "dump/tones/utt2third", takes)
    return corpus


@pytest.fixture(scope="module")
def two(corpus, tmp_path_factory, train_on_two) -> Path:
    exp_dir = tmp_path_factory.mktemp("two")
    assert train_on_two(corpus, exp_dir, config=corpus / "exact.yaml") == [0, 0]
    return exp_dir


def test_gradients_of_two_processes_are_those_of_the_joint_batch(corpus, two, tmp_path):
    train(corpus, tmp_path, config=corpus / "exact.yaml")
    one_process = weights(tmp_path / "Ses01F", "2epoch.pth")
    two_processes = weights(two / "Ses01F", "2epoch.pth")
    assert one_process.keys() == two_processes.keys()
    # without a learning rate the weights stay where they began
    extra = ["--optim_conf", "lr=0.0"]
    train(corpus, tmp_path / "begin", config=corpus / "exact.yaml", extra_args=extra)
    begin = weights(tmp_path / "begin/Ses01F", "2epoch.pth")
    for name in one_process:
        # each head has the gradient of its own loss alone, the rest of all together
        moved = (one_process[name] - begin[name]).abs().max()
        apart = (one_process[name] - two_processes[name]).abs().max()
        assert apart <= 2e-6 + 1e-4 * moved, name
    for head in ("emotion_head", "aux_heads.pr.linear", "aux_heads.take.linear"):
        moved = one_process[f"{head}.weight"] - begin[f"{head}.weight"]
        assert moved.abs().max() > 1e-2, head


@pytest.mark.slow
def test_layers_that_are_released_later_are_averaged_too(corpus, tmp_path, train_on_two):
    frontend = {**EXACT["frontend_conf"], "freeze": "all", "unfreeze_after": 1}
    decaying = {"lr": 0.05, "weight_decay": 0.1}  # moves what merely counts as trained
    system = {**EXACT, "optim_conf": decaying, "frontend_conf": frontend}
    options = {"config": write_system(tmp_path / "system.yaml", **system)}
    train(corpus, tmp_path / "one", **options)
    assert train_on_two(corpus, tmp_path / "two", **options) == [0, 0]
    one, two = (weights(tmp_path / run / "Ses01F", "2epoch.pth") for run in ("one", "two"))
    for name in one:
        assert torch.allclose(one[name], two[name], atol=5e-6), name


def test_statistics_are_those_of_the_joint_batches(corpus, two, tmp_path):
    train(corpus, tmp_path, config=corpus / "exact.yaml")
    for name in ("train", "valid"):
        entries = [read_json(exp_dir / "Ses01F/history.json") for exp_dir in (tmp_path, two)]
        for one, other in zip(*entries, strict=True):
            for key in STATISTICS:
                assert one[name][key] == pytest.approx(other[name][key], abs=1e-4), (name, key)


def test_one_process_keeps_the_books_and_both_have_logs(two):
    log = (two / "log/stage4.Ses01F.log").read_text()
    second = (two / "log/stage4.Ses01F.node2.log").read_text()
    assert log.endswith("# exit status: 0\n")
    assert second.endswith("# exit status: 0\n")
    assert read_json(two / "Ses01F/.done")["processes"] == 2


@pytest.mark.slow
def test_a_warning_to_one_process_stops_both_and_they_go_on_to_the_same_result(
    corpus, tmp_path, train_on_two
):
    options = {"config": write_system(tmp_path / "system.yaml", max_epoch=2)}
    assert train_on_two(corpus, tmp_path / "undisturbed", **options) == [0, 0]
    assert train_on_two(corpus, tmp_path / "warned", signal_at=3, **options) == [75, 75]
    (kept,) = (tmp_path / "warned/Ses01F").glob("*.step.pth")
    assert len(torch.load(kept, weights_only=False)["ranks"]) == 2
    assert train_on_two(corpus, tmp_path / "warned", **options) == [0, 0]
    folds = [tmp_path / run / "Ses01F" for run in ("warned", "undisturbed")]
    assert same(*(weights(fold, "2epoch.pth") for fold in folds))


def test_several_nodes_without_srun_are_refused(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NUM_NODES", raising=False)
    with pytest.raises(UserError, match=r"--num-nodes 2: srun .*--backend slurm --num-nodes 2"):
        this_process(num_nodes=2)


def test_settings_are_checked_where_there_is_only_one_node(corpus, tmp_path):
    train(corpus, tmp_path, num_nodes=2, check_only=True)
    assert yaml.safe_load((tmp_path / "run.yaml").read_text())["settings"]["processes"] == 2
    assert not (tmp_path / "Ses01F").exists()


def test_a_batch_too_small_for_all_processes_is_refused_before_anything_is_queued(corpus, tmp_path):
    size = SYSTEM["batch_size"]
    train(corpus, tmp_path / "fits", num_nodes=size, check_only=True)
    with pytest.raises(UserError, match=rf"batch_size: found {size} for {2 * size} processes"):
        train(corpus, tmp_path, num_nodes=size, ngpu=2, check_only=True)


def test_the_first_node_is_found_in_a_list_with_hyphens(monkeypatch, tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        '#!/bin/sh\n[ "$3" = "gpu-node[07-08]" ] && printf "gpu-node07\\ngpu-node08\\n"\n'
    )
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "123456")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "gpu-node[07-08]")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    args = mock.Mock(ngpu=2)
    Processes(num_nodes=2, node_rank=0).set_arguments(args)
    assert (args.dist_master_addr, args.dist_backend) == ("gpu-node07", "nccl")
    assert args.dist_launcher == "slurm"
    assert 20000 <= args.dist_master_port < 30000
