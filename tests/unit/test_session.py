"""What makes tests of several processes one session: a thing is made once, and who wants to be alone is."""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.durations import merged, slowest
from tests.session import FromBothEnds, made_once, ranks_first, turn

FORK = multiprocessing.get_context("fork")


def together(work: Callable[..., None], folder: Path, values: list[Any]) -> None:
    """The work on each value, in processes of their own."""
    processes = [FORK.Process(target=work, args=(folder, value)) for value in values]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(values)


def make_slowly(folder: Path, number: int) -> None:
    def make(made: Path) -> None:
        made.mkdir()
        (made / str(number)).touch()
        time.sleep(0.2)
        (made / "whole").touch()

    assert (made_once(folder / "thing", make) / "whole").exists()


def test_what_several_want_is_made_once_and_nobody_sees_it_before_it_is_whole(tmp_path: Path) -> None:
    together(make_slowly, tmp_path, [1, 2, 3, 4])
    assert len(list((tmp_path / "thing").iterdir())) == 2


def test_what_failed_is_made_anew(tmp_path: Path) -> None:
    def fail(made: Path) -> None:
        made.mkdir()
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        made_once(tmp_path / "thing", fail)
    made_once(tmp_path / "thing", Path.mkdir)
    assert list((tmp_path / "thing").iterdir()) == []


def take_turns(folder: Path, alone: bool) -> None:  # noqa: FBT001 (a process gets values by position)
    for number in range(5):
        with turn(folder, alone=alone), (folder / "diary").open("a") as diary:
            began = time.monotonic_ns()
            time.sleep(0.02)
            diary.write(f"{began} {time.monotonic_ns()} {alone} {number}\n")


def test_who_is_alone_meets_nobody(tmp_path: Path) -> None:
    together(take_turns, tmp_path, [False, False, False, True, True])
    lines = [line.split() for line in (tmp_path / "diary").read_text().splitlines()]
    turns = [(int(began), int(ended), alone == "True") for began, ended, alone, _ in lines]
    met = [
        alone or other_alone
        for began, ended, alone in turns
        for other_began, other_ended, other_alone in turns
        if (began, ended) != (other_began, other_ended) and began < other_ended and other_began < ended
    ]
    assert len(turns) == 25
    assert not any(met)


def test_turns_that_are_not_alone_are_at_once(tmp_path: Path) -> None:
    with turn(tmp_path, alone=False), turn(tmp_path, alone=False):
        together(take_turns, tmp_path, [False])
    assert len((tmp_path / "diary").read_text().splitlines()) == 5


class Worker:
    """As xdist's scheduler sees one: it is sent tests by number, and told when there are no more."""

    shutting_down = False
    gateway = SimpleNamespace(id="worker")

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.num_done = 0

    def send_runtest_some(self, numbers: list[int]) -> None:
        self.sent += numbers

    def shutdown(self) -> None:
        self.shutting_down = True


def test_one_worker_takes_what_starts_ranks_and_the_other_the_rest_until_they_meet() -> None:
    files = ["tests/unit/a.py", "tests/parity/b.py", "tests/unit/c.py", "tests/fault/d.py", "tests/parity/e.py"]
    tests = sorted((f"{file}::test_{number}" for file in files for number in range(4)), key=ranks_first)
    asked = SimpleNamespace(getvalue=lambda _: ["popen"] * 2, option=SimpleNamespace(loadscopereorder=True))
    scheduler = FromBothEnds(asked)
    workers = [Worker(), Worker()]
    for worker in workers:
        scheduler.add_node(worker)
        scheduler.add_node_collection(worker, tests)
    scheduler.schedule()
    # The second is twice as fast.
    for worker in (workers[0], workers[1], workers[1]) * len(tests):
        if worker.num_done < len(worker.sent):
            scheduler.mark_test_complete(worker, worker.sent[worker.num_done])
            worker.num_done += 1
    first, second = ([tests[number].partition("::")[0] for number in worker.sent[::4]] for worker in workers)
    assert first == ["tests/parity/b.py", "tests/fault/d.py"]
    assert second == ["tests/unit/c.py", "tests/unit/a.py", "tests/parity/e.py"]
    assert [len(worker.sent) for worker in workers] == [8, 12], "files stay together"


def test_the_slowest_come_first_and_tests_that_did_not_run_keep_what_they_took() -> None:
    old = {"a.py::left_out": 4.0, "a.py::x": 1.0, "b.py::y": 5.0}
    seconds = merged(old, {"a.py::x": 2.0, "a.py::z": 3.0})
    assert seconds == {"a.py::left_out": 4.0, "b.py::y": 5.0, "a.py::x": 2.0, "a.py::z": 3.0}
    assert slowest(seconds, 2) == ["    5.0 s  b.py::y", "    4.0 s  a.py::left_out"]
