"""ser/parallel.py: order, errors, and workers that the system kills."""

import os
import signal

import pytest

from ser.errors import UserError
from ser.parallel import parallel_map


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


def test_a_number_of_processes_below_one_is_refused():
    with pytest.raises(UserError, match="--nj: .* found 0"):
        list(parallel_map(square, [1], 0))
