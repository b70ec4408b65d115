"""The same work in several processes: in order, in other processes, and with errors that arrive as they were."""

import os
import time

import pytest

from mai.errors import CheckpointError
from mai.workers import Workers


def slow_where_early(number: int) -> tuple[int, int]:
    time.sleep(0.2 if number == 0 else 0)
    return number, os.getpid()


def refuse(number: int) -> int:
    if number == 3:
        raise CheckpointError("number 3\nis damaged")
    return number


def test_answers_come_in_order_from_other_processes() -> None:
    with Workers(2) as workers:
        answers = list(workers.in_order(slow_where_early, range(12)))
    assert [number for number, _ in answers] == list(range(12))
    assert os.getpid() not in {process for _, process in answers}


def test_one_worker_or_one_thing_needs_no_other_process() -> None:
    with Workers(4) as workers:
        assert list(workers.in_order(slow_where_early, [0])) == [(0, os.getpid())]
    with Workers(1) as workers:
        assert list(workers.in_order(slow_where_early, [1, 2])) == [(1, os.getpid()), (2, os.getpid())]


@pytest.mark.parametrize("number", [1, 2])
def test_an_error_arrives_as_it_was_raised(number: int) -> None:
    with pytest.raises(CheckpointError, match="number 3\nis damaged"), Workers(number) as workers:
        list(workers.in_order(refuse, range(6)))
