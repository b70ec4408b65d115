"""A recorded run: what it lost is measured from its own files, and the simulation predicts it."""

from dataclasses import replace
from pathlib import Path

import pytest

from mai.cli_plan import record_of
from mai.errors import ExitCode, PlanError
from mai.plan.goodput.failures import restart_of
from mai.plan.goodput.own_failures import own_failures
from mai.plan.goodput.replay import predicted, replayed
from mai.plan.goodput.run_record import measured
from tests.unit.plan.goodput.recorder import STEP_SECONDS, Recorder


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "run")


def test_a_run_without_failures_loses_its_start_and_its_saves(recorder: Recorder) -> None:
    recorder.live(100)
    run = recorder.measured
    assert run.wall_seconds == pytest.approx(25 + 100 * 2 + 10 * 3)
    assert run.parts_seconds == pytest.approx(
        {"useful": 200, "saves": 30, "lost_work": 0, "restart_relaunch": 0, "restart_start": 25}
    )


def test_the_parts_are_all_of_the_time(recorder: Recorder) -> None:
    for steps in (37, 4, 0, 58):
        recorder.live(steps)
    run = recorder.measured
    assert sum(run.parts_seconds.values()) == pytest.approx(run.wall_seconds)
    # The start of the run is one of them; an attempt without a step makes a restart longer.
    assert len(run.failures) == 3


def test_steps_that_are_computed_again_are_lost(recorder: Recorder) -> None:
    recorder.live(37)
    recorder.live(40)
    run = recorder.measured
    # Steps 31 to 37 a second time.
    assert run.lost_seconds == pytest.approx(7 * STEP_SECONDS)
    assert run.useful_seconds == pytest.approx(70 * STEP_SECONDS)
    assert run.goodput == pytest.approx(70 * STEP_SECONDS / run.wall_seconds)


def test_steps_that_nobody_computed_again_are_lost_as_well(recorder: Recorder) -> None:
    recorder.live(37)
    recorder.live(3)
    assert recorder.measured.useful_seconds == pytest.approx(33 * STEP_SECONDS)


@pytest.mark.parametrize("lives", [(200,), (37, 4, 58), (12, 95, 33, 7, 61, 100), (5, 0, 5, 300)])
def test_the_simulation_over_the_same_failures_predicts_what_was_measured(
    recorder: Recorder, lives: tuple[int, ...]
) -> None:
    for steps in lives:
        recorder.live(steps)
    run = recorder.measured
    assert 100 * predicted(run).goodput == pytest.approx(100 * run.goodput, abs=2)


def test_a_stop_that_somebody_asked_for_loses_its_start_and_nothing_else(recorder: Recorder) -> None:
    recorder.live(37, code=ExitCode.PREEMPTED)
    recorder.rest(7 * 86_400)
    recorder.live(33, code=ExitCode.COMPLETE)
    run = recorder.measured
    assert (run.interruptions, run.lost_seconds) == ([], 0)
    # Saves after steps 10, 20, 30, 37, 40, 50, 60 and 70; nobody wanted it to run in that week.
    assert run.wall_seconds == pytest.approx(2 * 25 + 70 * 2 + 8 * 3)
    assert sum(run.parts_seconds.values()) == pytest.approx(run.wall_seconds)
    assert predicted(run).seconds["lost_work"] == 0
    assert 100 * predicted(run).goodput == pytest.approx(100 * run.goodput, abs=2)


def test_stops_and_failures_in_turn_are_predicted_too(recorder: Recorder) -> None:
    for steps, code in ((95, None), (64, ExitCode.STOPPED), (51, ExitCode.HANG), (78, ExitCode.PREEMPTED), (60, None)):
        recorder.live(steps, code=code)
        recorder.rest(500)
    run = recorder.measured
    assert len(run.interruptions) == 3
    assert 100 * predicted(run).goodput == pytest.approx(100 * run.goodput, abs=2)


def test_a_try_that_was_stopped_before_its_first_step_is_no_part_of_the_run(recorder: Recorder) -> None:
    recorder.live(37)
    recorder.live(0, code=ExitCode.PREEMPTED)
    recorder.rest(86_400)
    recorder.live(40, code=ExitCode.COMPLETE)
    assert recorder.measured.wall_seconds == pytest.approx(2 * 25 + 77 * 2 + 7 * 3)


def test_a_plan_is_interrupted_when_the_run_was(recorder: Recorder) -> None:
    for code in (ExitCode.HANG, ExitCode.PREEMPTED, ExitCode.NODE_BAD, ExitCode.COMPLETE):
        recorder.live(100, code=code)
    run = recorder.measured
    # Nothing is lost but the restarts: the plan saves all the time, for nothing.
    restart = restart_of(replace_seconds=10, first_step_seconds=5)
    free = replace(run.course, near_interval_seconds=1e-3, far_stall_seconds=0.0, restart=restart, spare_nodes=1)
    again = replayed(run, own_failures(run), free, seed=0)
    assert (again.interruptions, again.gpus) == (2, 16)
    assert again.days == pytest.approx(run.wall_seconds / 86_400)
    assert again.goodput == pytest.approx(1 - (5 + 15) / run.wall_seconds, abs=1e-5)
    assert again.own_measured == run.goodput
    assert 100 * again.own_predicted == pytest.approx(100 * run.goodput, abs=2)


def test_a_run_without_a_step_has_no_goodput(recorder: Recorder) -> None:
    recorder.live(0)
    with pytest.raises(PlanError, match="holds no step"):
        measured(record_of(recorder.folder.path))
