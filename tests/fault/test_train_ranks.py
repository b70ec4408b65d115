"""Ranks that others start: torchrun, or anything that sets RANK and its companions; and a folder that is taken."""

import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from mai.recipe import Recipe
from tests.fault.small_run import assert_failed_well, committed, resumed_at, train
from tests.jobs import Job, start_program, wait_until
from tests.ranks import port_of_own

Launch = Callable[..., Job]


def as_ranks(
    num_ranks: int, command: Callable[[int], list[str]], folder: Path, launch: Launch, *, port: int | None = None
) -> list[Job]:
    """The command of each rank, started as torchrun starts them."""
    port = port or port_of_own()
    environment = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        launch(
            command(rank),
            folder=folder,
            environment={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(num_ranks)
    ]


def test_torchrun_starts_the_ranks_and_all_of_them_train(prepared: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = train(prepared, folder, "train.steps=3", "optimizer.schedule.warmup_steps=1")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    # Without `--` torchrun takes mai's --run for the beginning of its own --run-path.
    words = [*torchrun, str(port_of_own()), "-m", "--", "mai", *command]
    job = start_program(words, folder=folder, log=tmp_path / "said")
    try:
        assert job.exit_code() == 0, job.stderr
        assert job.terminal.code == 0
        assert job.step() == 3
        assert committed(folder) == [3]
        assert job.left_behind() == []
    finally:
        job.end()


def test_a_world_that_the_layout_does_not_divide_is_refused_by_every_rank(
    prepared: Recipe, tmp_path: Path, launch: Launch
) -> None:
    folder = tmp_path / "run"
    for job in as_ranks(3, lambda _: train(prepared, folder, "parallel.tensor=2"), folder, launch):
        assert job.exit_code() == 80, job.stderr
        assert "3 ranks: must be a multiple of 2 (parallel.tensor=2 x parallel.pipeline=1); start 2 or 4" in job.stderr
    assert not folder.exists()


def test_a_rank_with_another_recipe_is_named_by_all(prepared: Recipe, tmp_path: Path, launch: Launch) -> None:
    folder = tmp_path / "run"
    jobs = as_ranks(2, lambda rank: train(prepared, folder, f"train.seed={rank}"), folder, launch)
    for job in jobs:
        assert job.exit_code() == 80, job.stderr
        assert "ranks 1 read another recipe than rank 0" in job.stderr
    assert (jobs[0].terminal.code, jobs[0].terminal.name) == (80, "CONFIG")
    assert committed(folder) == []


def test_a_rank_whose_peer_is_killed_says_so_and_the_run_goes_on_from_its_checkpoint(
    prepared: Recipe, tmp_path: Path, launch: Launch
) -> None:
    folder = tmp_path / "run"
    command = train(prepared, folder, "checkpoint.every_steps=2")
    first, second = as_ranks(2, lambda _: command, folder, launch)
    first.wait_for_step(3)
    second.send(signal.SIGKILL)
    assert first.exit_code() == 213, first.stderr
    assert "PEER_LOST (exit code 213)" in first.stderr
    assert first.terminal.code == 213
    assert first.terminal.last_committed_step in committed(folder)
    last = committed(folder)[-1]
    again = as_ranks(2, lambda _: [*command, "--stop-at", str(last + 1)], folder, launch)
    assert [job.exit_code() for job in again] == [87, 87]
    assert resumed_at(again[0]) == last


def test_a_port_that_another_program_holds_is_named(prepared: Recipe, tmp_path: Path, launch: Launch) -> None:
    folder = tmp_path / "run"
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        (job,) = as_ranks(1, lambda _: train(prepared, folder), folder, launch, port=port)
        assert job.exit_code() == 219, job.stderr
    assert f"did not meet the others at 127.0.0.1 port {port}" in job.stderr


def test_a_folder_that_a_live_run_owns_is_left_to_it(prepared: Recipe, tmp_path: Path, launch: Launch) -> None:
    folder = tmp_path / "run"
    command = train(prepared, folder, "parallel.data=2")
    first = launch(command, folder=folder)
    first.wait_for_step(2)
    files = visible(folder)

    second = launch(command, folder=folder)
    assert second.exit_code() == 85
    assert "BUSY (exit code 85)" in second.stderr
    assert f"{folder} belongs to a live process" in second.stderr
    (rank,) = as_ranks(1, lambda _: train(prepared, folder), folder, launch)
    assert rank.exit_code() == 85
    assert "belongs to a live process" in rank.stderr

    step = first.step()
    wait_until(lambda: first.step() > step + 1, seconds=60)
    assert visible(folder) == files
    first.send(signal.SIGTERM)
    assert_failed_well(first, 210, "PREEMPTED")
    assert first.attempt == 1
    assert committed(folder) == [first.step()]


def visible(folder: Path) -> list[str]:
    """Names in the folder; the hidden ones are files that are being written."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
