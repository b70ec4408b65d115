"""What a save leaves survives a power cut: everything is on the disk before the name that says so.

No power is cut: a real run on two ranks writes down what it asks the kernel for, in the order of the machine's clock.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mai.recipe import Recipe
from tests.fault.small_run import committed, train
from tests.jobs import ended_jobs

DIARY = "MAI_TEST_DIARY"
"""The environment's name for the file that the run writes it down in."""


class Call(NamedTuple):
    nanoseconds: int
    """Of CLOCK_MONOTONIC, which all processes share."""
    what: str
    path: str
    more: str
    """Bytes of a synced file, where a renamed one goes."""


def write_down(*entry: object) -> None:
    line = "\t".join(map(str, (time.monotonic_ns(), *entry))) + "\n"
    diary = os.open(os.environ[DIARY], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(diary, line.encode())
    os.close(diary)


def keep_a_diary() -> None:
    """Runs in the launcher before it forks its ranks."""
    sync = os.fsync

    def told_sync(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        size = os.fstat(number).st_size
        sync(descriptor)
        write_down("sync", Path(f"/proc/self/fd/{number}").readlink(), size)

    def told_rename(event: str, values: tuple[Any, ...]) -> None:
        if event == "os.rename" and DIARY in os.environ:
            write_down("rename", *map(os.fspath, values[:2]))

    os.fsync = told_sync
    # No hook of ours can be taken back; the process ends with the run.
    sys.addaudithook(told_rename)


@pytest.fixture(scope="module")
def folder(prepared: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks that saved twice."""
    folder = tmp_path_factory.mktemp("durable") / "run"
    changes = ("parallel.data=2", "train.steps=4", "optimizer.schedule.warmup_steps=1", "checkpoint.every_steps=2")
    with ended_jobs() as start:
        diary = {DIARY: str(folder.parent / "diary")}
        job = start(train(prepared, folder, *changes), folder=folder, environment=diary, plant=keep_a_diary)
        assert job.exit_code() == 0, job.stderr
    assert committed(folder) == [2, 4]
    return folder


@pytest.fixture(scope="module")
def calls(folder: Path) -> Sequence[Call]:
    """All that was synced and renamed, oldest first."""
    lines = (folder.parent / "diary").read_text().splitlines()
    return sorted(Call(int(when), *words) for when, *words in (line.split("\t") for line in lines))


def synced(calls: Sequence[Call], path: Path) -> Call:
    """The one time that this was made durable."""
    (found,) = [call for call in calls if (call.what, call.path) == ("sync", str(path))]
    return found


def commit_of(calls: Sequence[Call], final: Path) -> Call:
    (found,) = [call for call in calls if (call.what, call.more) == ("rename", str(final))]
    return found


@pytest.mark.parametrize("step", [2, 4])
def test_every_file_of_a_checkpoint_is_durable_before_its_name_is(
    step: int, folder: Path, calls: Sequence[Call]
) -> None:
    final = folder / "checkpoints" / f"step-{step:010d}"
    rename = commit_of(calls, final)
    files = sorted(path.name for path in final.iterdir())
    assert files == ["manifest.json", "rank-00000.safetensors", "rank-00001.safetensors"]
    for name in files:
        file = synced(calls, Path(rename.path) / name)
        assert file.nanoseconds < rename.nanoseconds, name
        # All of it, nothing that a buffer still held.
        assert int(file.more) == (final / name).stat().st_size, name


@pytest.mark.parametrize("step", [2, 4])
def test_the_folder_is_durable_between_its_files_and_its_name_and_the_name_after_it(
    step: int, folder: Path, calls: Sequence[Call]
) -> None:
    final = folder / "checkpoints" / f"step-{step:010d}"
    rename = commit_of(calls, final)
    temporary = synced(calls, Path(rename.path))
    for name in ("manifest.json", "rank-00000.safetensors", "rank-00001.safetensors"):
        assert synced(calls, Path(rename.path) / name).nanoseconds < temporary.nanoseconds
    assert temporary.nanoseconds < rename.nanoseconds
    of_checkpoints = [call for call in calls if call.path.startswith(str(final.parent))]
    after = next(call for call in of_checkpoints if call.nanoseconds > rename.nanoseconds)
    assert (after.what, after.path) == ("sync", str(final.parent))
