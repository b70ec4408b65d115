"""Whatever ends a run, the exit code says so, no process stays, and the same command goes on from the checkpoint."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mai.recipe import Recipe
from tests.fault.small_run import assert_failed_well, committed, resumed_at, train
from tests.jobs import Job, is_alive, wait_until

Launch = Callable[..., Job]


def go_on(command: list[str], folder: Path, launch: Launch) -> Job:
    """The same command again, to 2 steps past what was committed."""
    last = committed(folder)[-1]
    job = launch([*command, "--stop-at", str(last + 2)], folder=folder)
    assert job.exit_code() == 87, job.stderr
    assert resumed_at(job) == last
    assert committed(folder)[-1] == last + 2
    return job


def test_control_c_saves_and_the_same_command_goes_on(prepared: Recipe, tmp_path: Path, launch: Launch) -> None:
    folder = tmp_path / "run"
    command = train(prepared, folder, "parallel.pipeline=2")
    job = launch(command, folder=folder)
    job.wait_for_step(3)
    os.killpg(job.pid, signal.SIGINT)  # as the terminal does: to the whole foreground group
    assert_failed_well(job, 87, "STOPPED")
    assert committed(folder) == [job.step()]
    go_on(command, folder, launch)


def test_a_save_on_demand_goes_on_and_a_stop_file_ends_the_run(
    prepared: Recipe, tmp_path: Path, launch: Launch
) -> None:
    folder = tmp_path / "run"
    command = train(prepared, folder, "parallel.data=2")
    job = launch(command, folder=folder)
    job.wait_for_step(2)
    job.send(signal.SIGUSR2)
    wait_until(lambda: len(committed(folder)) == 1, seconds=60)
    (saved,) = committed(folder)
    job.wait_for_step(saved + 2)
    (folder / "stop").touch()
    assert_failed_well(job, 87, "STOPPED")
    assert committed(folder) == [saved, job.step()]
    # Obeyed once: the next start is the operator's newer word.
    assert not (folder / "stop").exists()
    go_on(command, folder, launch)


@pytest.mark.alone
def test_a_killed_rank_is_named_and_its_survivors_end_within_seconds(
    prepared: Recipe, tmp_path: Path, launch: Launch
) -> None:
    folder = tmp_path / "run"
    command = train(prepared, folder, "parallel.pipeline=2", "parallel.tensor=2", "checkpoint.every_steps=2")
    job = launch(command, folder=folder)
    job.wait_for_step(3)
    pids = job.rank_pids()
    os.kill(pids[2], signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: not any(map(is_alive, pids)), seconds=15)
    assert time.monotonic() - killed < 15
    assert_failed_well(job, 213, "PEER_LOST")
    assert job.terminal.culprit is not None
    assert (job.terminal.culprit["rank"], job.terminal.culprit["pid"]) == (2, pids[2])
    assert f"rank 2 (pid {pids[2]}): killed by SIGKILL" in job.stderr
    assert job.terminal.last_committed_step in committed(folder)
    go_on(command, folder, launch)


@pytest.mark.alone
def test_a_killed_launcher_takes_its_ranks_along(prepared: Recipe, tmp_path: Path, launch: Launch) -> None:
    folder = tmp_path / "run"
    command = train(prepared, folder, "parallel.data=2", "checkpoint.every_steps=2")
    job = launch(command, folder=folder)
    job.wait_for_step(3)
    job.send(signal.SIGKILL)
    wait_until(lambda: job.left_behind() == [], seconds=5)
    assert job.exit_code() == -signal.SIGKILL
    go_on(command, folder, launch)


def test_while_modules_load_a_request_to_save_is_void_and_one_to_end_is_obeyed(
    prepared: Recipe, tmp_path: Path, launch: Launch
) -> None:
    folder = tmp_path / "run"
    job = launch(train(prepared, folder), folder=folder, cold=True)
    wait_until(lambda: ignores(job.pid, signal.SIGUSR2), seconds=60)
    job.send(signal.SIGUSR2)
    job.send(signal.SIGTERM)
    assert job.exit_code() == 211
    assert "PREEMPTED_UNSAVED (exit code 211): SIGTERM before the ranks ran" in job.stderr
    assert "next: start the same command again" in job.stderr
    assert job.left_behind() == []
    assert not folder.exists()


@pytest.mark.alone
def test_a_request_to_end_while_the_data_is_prepared_ends_that_too(
    prepared: Recipe, tmp_path: Path, launch: Launch
) -> None:
    folder, data = tmp_path / "run", tmp_path / "unprepared"
    command = train(prepared, folder, f"data.folder={data}")
    job = launch(command, folder=folder)
    wait_until(data.exists, seconds=60)
    job.send(signal.SIGTERM)
    assert job.exit_code() == 211
    wait_until(lambda: job.left_behind() == [], seconds=5)
    assert not (data / "dataset.json").exists()
    again = launch([*command, "--stop-at", "1"], folder=folder)
    assert again.exit_code() == 87, again.stderr


def test_a_request_to_end_while_the_ranks_start_is_obeyed(prepared: Recipe, tmp_path: Path, launch: Launch) -> None:
    folder = tmp_path / "run"
    command = train(prepared, folder, "parallel.data=2")
    job = launch(command, folder=folder)
    wait_until(lambda: job.attempt == 1 and len(job.rank_pids()) == 2, seconds=60)
    job.send(signal.SIGTERM)
    # Before a rank is ready to save it ends at once; afterwards it saves the first step.
    assert job.exit_code() in (210, 211)
    assert job.terminal.code == job.exit_code()
    assert job.left_behind() == []
    again = launch([*command, "--stop-at", "3"], folder=folder)
    assert again.exit_code() == 87, again.stderr


def test_a_loss_that_is_not_finite_skips_updates_and_then_ends_the_run(
    prepared: Recipe, tmp_path: Path, launch: Launch
) -> None:
    folder = tmp_path / "run"
    changes = ("optimizer.learning_rate=1e30", "optimizer.schedule.warmup_steps=0", "parallel.data=2")
    job = launch(train(prepared, folder, *changes), folder=folder)
    assert_failed_well(job, 86, "DIVERGED")
    assert "not finite in 3 steps in a row" in job.stderr
    skipped = [event["step"] for event in job.events("update skipped")]
    records = list(job.folder.read_metrics())
    assert [record["step"] for record in records if not record["kept"]] == skipped
    assert len(skipped) == 2
    assert committed(folder) == []


def ignores(pid: int, number: signal.Signals) -> bool:
    """Whether the process has said that the signal means nothing (proc(5), SigIgn)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(line.split()[1] for line in lines if line.startswith("SigIgn"))
    return bool(int(mask, 16) >> (number - 1) & 1)
