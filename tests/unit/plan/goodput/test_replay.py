"""A recorded run: what it lost is measured from its own files, and the simulation predicts it."""

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from mai.errors import PlanError
from mai.plan.goodput.replay import Measured, measured, predicted
from mai.run_folder import RunFolder
from mai.run_folder.disk import plain_json, read_lines

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
STEP_SECONDS, SAVE_SECONDS, START_SECONDS, RELAUNCH_SECONDS = 2.0, 3.0, 25.0, 12.0
EVERY_STEPS = 10


def at(seconds: float) -> str:
    return (BEGIN + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


class Recorder:
    """Writes what a run would, by a clock of its own."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.now, self.saved, self.attempt = folder, 0.0, 0, 0
        folder.create()

    def live(self, steps: int) -> None:
        """An attempt that takes so many steps and dies in the middle of the next."""
        self.attempt = self.folder.begin_attempt()
        self._event("started")
        self.now += START_SECONDS
        if self.saved:
            self._event("resumed", step=self.saved)
        for step in range(self.saved + 1, self.saved + steps + 1):
            self.now += STEP_SECONDS
            self._step(step)
            if step % EVERY_STEPS == 0:
                self.now += SAVE_SECONDS
                self._event("checkpoint committed", step=step)
                self.saved = step
        self.now += STEP_SECONDS / 2 + RELAUNCH_SECONDS

    def _event(self, kind: str, **fields: Any) -> None:
        with (self.folder.path / f"events-{self.attempt}.jsonl").open("a") as file:
            file.write(plain_json({"time": at(self.now), "kind": kind, **fields}) + "\n")

    def _step(self, step: int) -> None:
        line = {"step": step, "step_seconds": STEP_SECONDS, "time": at(self.now), "attempt": self.attempt}
        with self.folder.metrics.open("a") as file:
            file.write(plain_json(line) + "\n")


def of(folder: RunFolder) -> Measured:
    events = {attempt: list(folder.read_events(attempt)) for attempt in folder.attempts()}
    return measured(events, list(read_lines(folder.metrics)))


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(RunFolder(tmp_path / "run"))


def test_a_run_without_failures_loses_its_start_and_its_saves(recorder: Recorder) -> None:
    recorder.live(100)
    run = of(recorder.folder)
    assert run.wall_seconds == pytest.approx(25 + 100 * 2 + 10 * 3)
    assert run.parts_seconds == pytest.approx(
        {"useful": 200, "saves": 30, "lost_work": 0, "restart_relaunch": 0, "restart_start": 25}
    )


def test_the_parts_are_all_of_the_time(recorder: Recorder) -> None:
    for steps in (37, 4, 0, 58):
        recorder.live(steps)
    run = of(recorder.folder)
    assert sum(run.parts_seconds.values()) == pytest.approx(run.wall_seconds)
    # The start of the run is one of them; an attempt without a step makes a restart longer.
    assert len(run.failures) == 3


def test_steps_that_are_computed_again_are_lost(recorder: Recorder) -> None:
    recorder.live(37)
    recorder.live(40)
    run = of(recorder.folder)
    # Steps 31 to 37 a second time.
    assert run.lost_seconds == pytest.approx(7 * STEP_SECONDS)
    assert run.useful_seconds == pytest.approx(70 * STEP_SECONDS)
    assert run.goodput == pytest.approx(70 * STEP_SECONDS / run.wall_seconds)


def test_steps_that_nobody_computed_again_are_lost_as_well(recorder: Recorder) -> None:
    recorder.live(37)
    recorder.live(3)
    assert of(recorder.folder).useful_seconds == pytest.approx(33 * STEP_SECONDS)


@pytest.mark.parametrize("lives", [(200,), (37, 4, 58), (12, 95, 33, 7, 61, 100), (5, 0, 5, 300)])
def test_the_simulation_over_the_same_failures_predicts_what_was_measured(
    recorder: Recorder, lives: tuple[int, ...]
) -> None:
    for steps in lives:
        recorder.live(steps)
    run = of(recorder.folder)
    assert 100 * predicted(run).goodput == pytest.approx(100 * run.goodput, abs=2)


def test_a_run_without_a_step_has_no_goodput(recorder: Recorder) -> None:
    recorder.live(0)
    with pytest.raises(PlanError, match="holds no step"):
        of(recorder.folder)
