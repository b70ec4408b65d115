"""The same work in several processes: in order, in other processes, and with errors that arrive as they were."""

import os
import time

import pytest

from mai.errors import CheckpointError
from mai.workers import in_order


def slow_where_early(number: int) -> tuple[int, int]:
    time.sleep(0.2 if number == 0 else 0)
    return number, os.getpid()


def refuse(number: int) -> int:
    if number == 3:
        raise CheckpointError("number 3\nis damaged")
    return number


def test_answers_come_in_order_from_other_processes() -> None:
    answers = list(in_order(slow_where_early, range(12), workers=2))
    assert [number for number, _ in answers] == list(range(12))
    assert os.getpid() not in {process for _, process in answers}


def test_one_worker_or_one_thing_needs_no_other_process() -> None:
    assert list(in_order(slow_where_early, [0], workers=4)) == [(0, os.getpid())]
    assert list(in_order(slow_where_early, [1, 2], workers=1)) == [(1, os.getpid()), (2, os.getpid())]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_arrives_as_it_was_raised(workers: int) -> None:
    with pytest.raises(CheckpointError, match="number 3\nis damaged"):
        list(in_order(refuse, range(6), workers=workers))
