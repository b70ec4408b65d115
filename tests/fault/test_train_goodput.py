"""A run that is killed again and again: what it lost is measured, and the simulation over the same failures agrees."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mai.plan.goodput.replay import measured, predicted
from mai.recipe import Recipe
from mai.run_folder import RunFolder
from mai.run_folder.disk import read_lines
from tests.fault.small_run import train
from tests.jobs import Job

Launch = Callable[..., Job]
# The simulation may place a failure on the other side of a save: with one so often that is little of the run's time.
STEPS, EVERY_STEPS, KILLS = 600, 5, 3


def test_the_goodput_of_a_run_with_kills_is_predicted_from_its_failures(
    prepared: Recipe, tmp_path: Path, launch: Launch
) -> None:
    folder = tmp_path / "run"
    command = train(prepared, folder, f"train.steps={STEPS}", f"checkpoint.every_steps={EVERY_STEPS}")
    picked = random.Random(7)
    for kill in range(KILLS):
        job = launch(command, folder=folder)
        job.wait_for_step((kill + 1) * STEPS // (KILLS + 1) + picked.randrange(50))
        job.send(signal.SIGKILL)
        job.exit_code()
    assert launch(command, folder=folder).exit_code() == 0
    run = RunFolder(folder)
    found = measured(
        {attempt: list(run.read_events(attempt)) for attempt in run.attempts()}, list(read_lines(run.metrics))
    )
    assert len(found.failures) == KILLS + 1
    assert found.lost_seconds > 0
    assert sum(found.parts_seconds.values()) == pytest.approx(found.wall_seconds)
    assert 100 * predicted(found).goodput == pytest.approx(100 * found.goodput, abs=2)
