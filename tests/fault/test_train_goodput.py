"""A run that is killed again and again: what it lost is measured, and the simulation over the same failures agrees."""

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from mai.cli_plan import plan, record_of
from mai.errors import ExitCode
from mai.plan.goodput.replay import predicted
from mai.plan.goodput.run_record import measured
from mai.recipe import Recipe
from tests.fault.small_run import train
from tests.jobs import Job

Launch = Callable[..., Job]
# The simulation may place a failure on the other side of a save: with one so often that is little of the run's time.
STEPS, EVERY_STEPS, KILLS = 600, 5, 3


@pytest.mark.alone
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
    found = measured(record_of(folder))
    assert [code for _, code in found.interruptions] == KILLS * [ExitCode.PEER_LOST]
    assert found.lost_seconds > 0
    assert sum(found.parts_seconds.values()) == pytest.approx(found.wall_seconds)
    assert 100 * predicted(found).goodput == pytest.approx(100 * found.goodput, abs=2)
    words = ["tiny", "--hardware", "h100", "--gpus", "8", "--failures", str(folder), "--json"]
    planned = CliRunner().invoke(plan, words)
    assert planned.exit_code == 0, planned.output
    goodput = json.loads(planned.stdout)["goodput"]
    assert f"{KILLS} interruptions in " in goodput["failures"]["describes"]
    assert goodput["replayed"]["own_measured"] == found.goodput
    assert 0 < goodput["replayed"]["goodput"] < 1
