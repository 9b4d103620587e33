"""ser/data/parallel.py: order, errors, and workers that the system kills."""

import os
import signal
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler

import pytest

from ser.data.parallel import parallel_map
from ser.errors import UserError
from tests.support import ROOT


def square(number):
    return number**2


def refuse_three(number):
    if number == 3:
        raise UserError("three: not wanted")
    return number


def killed_at_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def killed_at_three_of_a_pair(pair):
    return killed_at_three(pair[0])


@pytest.mark.parametrize("nj", [1, 2, 9])
def test_results_come_in_the_order_of_the_items(nj):
    assert list(parallel_map(square, range(5), nj)) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("nj", [1, 2])
def test_nothing_to_do_is_no_error(nj):
    assert list(parallel_map(square, [], nj)) == []


@pytest.mark.parametrize("nj", [1, 2])
def test_a_users_error_in_a_worker_reaches_the_caller(nj):
    with pytest.raises(UserError, match="three: not wanted"):
        list(parallel_map(refuse_three, range(5), nj))


def test_a_killed_worker_is_explained():
    with pytest.raises(UserError, match="worker process was killed.*--nj 1"):
        list(parallel_map(killed_at_three, range(5), 2))


@pytest.mark.parametrize("nj", [1, 2])
def test_neither_the_function_nor_the_items_are_pickled(nj):
    items = [lambda number=number: number for number in range(5)]
    assert list(parallel_map(lambda item: item() + 1, items, nj)) == [1, 2, 3, 4, 5]


def test_no_more_than_a_pipe_holds_is_sent_to_a_worker(monkeypatch):
    sizes = []
    plain = ForkingPickler.dumps

    def dumps(*args):
        data = plain(*args)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(ForkingPickler, "dumps", dumps)
    assert list(parallel_map(len, [b"x" * 200_000] * 5, 2)) == [200_000] * 5
    assert sizes and max(sizes) < 2000


def test_a_worker_killed_while_large_items_wait_is_explained():
    items = [(number, "x" * 200_000) for number in range(50)]
    with pytest.raises(UserError, match="worker process was killed"):
        list(parallel_map(killed_at_three_of_a_pair, items, 2))


def test_a_number_of_processes_below_one_is_refused():
    with pytest.raises(UserError, match="--nj: .* found 0"):
        list(parallel_map(square, [1], 0))


AFTER_TORCH = """
import torch
from ser.data.parallel import parallel_map

torch.set_num_threads(2)
torch.ones(2_000_000).exp()  # by two threads, one of which no worker has
print([float(x) for x in parallel_map(lambda n: torch.ones(2_000_000).exp().sum(), [1, 2], 2)])
"""


def test_workers_use_torch_although_their_parent_did_with_several_threads():
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", AFTER_TORCH], env=environment, capture_output=True, timeout=300
    )
    assert done.stdout.count(b"5436") == 2, done.stderr  # 2e6 e = 5436563.66
