"""A checkpoint is whole or it is not there: damage is found, told, and stepped back from; nothing starts over."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mai.recipe import Recipe
from tests.fault.small_run import assert_failed_well, committed, resumed_at, train
from tests.jobs import Job, ended_jobs

Launch = Callable[..., Job]


@pytest.fixture(scope="module")
def two_checkpoints(prepared: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks, stopped at step 4, with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    command = train(prepared, folder, "parallel.data=2", "checkpoint.every_steps=2", flags=["--stop-at", "4"])
    with ended_jobs() as start:
        job = start(command, folder=folder)
        assert job.exit_code() == 87, job.stderr
    assert committed(folder) == [2, 4]
    return folder


@pytest.fixture
def folder(two_checkpoints: Path, tmp_path: Path) -> Path:
    """A copy of that run's folder, to damage."""
    return Path(shutil.copytree(two_checkpoints, tmp_path / "run"))


def flip_a_byte(checkpoint: Path) -> None:
    path = checkpoint / "rank-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(checkpoint: Path) -> None:
    os.truncate(checkpoint / "rank-00001.safetensors", 1000)


def lose_a_ranks_file(checkpoint: Path) -> None:
    (checkpoint / "rank-00001.safetensors").unlink()


def lose_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def change_the_step_in_the_manifest(checkpoint: Path) -> None:
    path = checkpoint / "manifest.json"
    path.write_text(path.read_text().replace('"position": 16', '"position": 17'))


DAMAGES = [flip_a_byte, cut_short, lose_a_ranks_file, lose_the_manifest, change_the_step_in_the_manifest]


def newest(folder: Path) -> Path:
    return folder / "checkpoints" / f"step-{committed(folder)[-1]:010d}"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_stepped_back_from(
    damage: Callable[[Path], None], folder: Path, prepared: Recipe, launch: Launch
) -> None:
    damage(newest(folder))
    job = launch(train(prepared, folder, "parallel.data=2", flags=["--stop-at", "5"]), folder=folder)
    assert job.exit_code() == 87, job.stderr
    assert resumed_at(job) == 2
    (left_out,) = job.events("checkpoint left out")
    assert left_out["step"] == 4
    assert "step-0000000004" in left_out["damage"]
    assert "checkpoint of step 4 is left out" in job.stderr
    assert committed(folder)[-1] == 5
    assert [record["step"] for record in job.folder.read_metrics()] == [1, 2, 3, 4, 5]


def test_the_step_that_was_damaged_is_saved_anew_when_it_is_reached_again(
    folder: Path, two_checkpoints: Path, prepared: Recipe, launch: Launch
) -> None:
    flip_a_byte(newest(folder))
    job = launch(
        train(prepared, folder, "parallel.data=2", "checkpoint.every_steps=2", flags=["--stop-at", "4"]), folder=folder
    )
    assert job.exit_code() == 87, job.stderr
    assert committed(folder) == [2, 4]
    name = "rank-00001.safetensors"
    assert (newest(folder) / name).read_bytes() == (newest(two_checkpoints) / name).read_bytes()


def test_where_every_checkpoint_is_damaged_nothing_starts_over(folder: Path, prepared: Recipe, launch: Launch) -> None:
    for step in committed(folder):
        flip_a_byte(folder / "checkpoints" / f"step-{step:010d}")
    before = (folder / "metrics.jsonl").read_bytes()
    job = launch(train(prepared, folder, "parallel.data=2"), folder=folder)
    assert_failed_well(job, 82, "CHECKPOINT")
    assert "none of the 2 checkpoints" in job.stderr
    assert "start over in a new --run folder" in job.stderr
    assert resumed_at(job) is None
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_generation_steps_back_from_a_damaged_checkpoint_too(folder: Path, launch: Launch) -> None:
    flip_a_byte(newest(folder))
    job = launch(["generate", str(folder), "--json", "--tokens", "2", "--device", "cpu"], folder=folder)
    assert job.exit_code() == 0, job.stderr
    assert json.loads(job.stdout)["step"] == 2
    assert "checkpoint of step 4 is left out" in job.stderr


def test_a_recipe_that_trains_something_else_is_refused_by_its_field(
    folder: Path, prepared: Recipe, launch: Launch
) -> None:
    job = launch(train(prepared, folder, "parallel.data=2", "optimizer.learning_rate=0.5"), folder=folder)
    assert_failed_well(job, 80, "CONFIG")
    before = prepared.optimizer.learning_rate
    assert f"optimizer.learning_rate=0.5: this run was started with {before}" in job.stderr
    assert "another --run folder" in job.stderr
    assert json.loads((folder / "recipe.json").read_text())["optimizer"]["learning_rate"] == before
    assert committed(folder) == [2, 4]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds one checkpoint of the small run, and not two."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no right to mount a file system: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_ends_the_run_and_the_checkpoint_before_stands(
    prepared: Recipe, small_disk: Path, launch: Launch
) -> None:
    folder = small_disk / "run"
    command = train(prepared, folder, "parallel.data=2")
    assert launch([*command, "--stop-at", "2"], folder=folder).exit_code() == 87
    # At a stop, which nobody waits for but the exit code:
    job = launch([*command, "--stop-at", "4"], folder=folder)
    assert_failed_well(job, 216, "STORAGE")
    assert "checkpoint of step 4 was not saved" in job.stderr
    assert "No space left on device" in job.stderr
    assert committed(folder) == [2]
    assert list((folder / "checkpoints").glob(".tmp-*")) == []
    # In the middle of a run:
    job = launch([*command, "checkpoint.every_steps=3"], folder=folder)
    assert_failed_well(job, 216, "STORAGE")
    assert resumed_at(job) == 2
    assert committed(folder) == [2]
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    job = launch([*command, "--stop-at", "4"], folder=folder)
    assert job.exit_code() == 87, job.stderr
    assert resumed_at(job) == 2
    assert committed(folder) == [2, 4]
