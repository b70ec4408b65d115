"""One session of tests in several processes (pytest-xdist): who runs what, what is made once, and whose turn it is."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
START_RANKS = ("tests/examples/", "tests/fault/", "tests/parity/")
"""Folders whose tests start several processes each, nearly all of them."""


class FromBothEnds(LoadFileScheduling):  # type: ignore[misc]
    """A worker takes one file after another, so that a module's fixtures are made once: the first worker from the
    front, where those are that start ranks, and the others from the back, until they meet. Tests that start ranks would
    take the cores from each other; when nothing else is left, two of them at once leave no core idle."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        # Else xdist sorts files by their number of tests.
        config.option.loadscopereorder = False

    def _assign_work_unit(self, node: WorkerController) -> None:
        if node is not self.nodes[0]:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


def ranks_first(test: str) -> bool:
    """The key by which tests are sorted."""
    return not test.startswith(START_RANKS)


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """Of the whole session: xdist gives each of its workers a folder inside it."""
    base = factory.getbasetemp()
    return base.parent if IS_WORKER else base


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder as `make` left it; the first who wants it makes it, and the others wait."""
    done = folder.with_name(f"{folder.name}.made")
    with held(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            # What a failed attempt left.
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


@contextlib.contextmanager
def held(lock: Path, *, shared: bool = False) -> Iterator[None]:
    """The lock is ours in the block, alone or with all who share it."""
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Not left to the closing: a forked child may hold the file open.
            fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """A test's turn on the machine: with those of the other workers, or `alone`."""
    with contextlib.ExitStack() as stack:
        # Who waits to be alone holds the door, so that the others' turns end.
        with held(folder / "door.lock"):
            stack.enter_context(held(folder / "machine.lock", shared=not alone))
        yield
