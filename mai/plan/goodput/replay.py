"""What a run of our own lost, from the lines that it wrote, and the simulation over the very same failures.

The caller reads the run folder: each attempt's events and all lines of metrics.jsonl, undone steps included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from random import Random
from statistics import mean, median
from typing import Any

from mai.errors import PlanError
from mai.plan.goodput.course import Course
from mai.plan.goodput.failures import Restart
from mai.plan.goodput.simulation import Failure, Outcome, simulated_run

_COMMITTED, _STARTED, _RESUMED = "checkpoint committed", "started", "resumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One start of the run to its end, in seconds of the clock; it took a step at least."""

    started: float
    first_step: float
    """When its first step began."""
    stopped: float
    """The last word of it."""
    step_seconds: Sequence[float]
    saved_steps: Sequence[int]
    """Where it resumed, and where it saved."""
    num_saves: int

    @property
    def pause_seconds(self) -> float:
        """Time between its steps, and behind the last: saves, evaluations."""
        return max(0.0, self.stopped - self.first_step - sum(self.step_seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a run's time went to, and when it failed."""

    began: float
    """The first start of all."""
    attempts: Sequence[Attempt]
    """Those that took a step; one that took none made the restart longer."""
    useful_seconds: float
    """Of steps that the run stands on."""
    lost_seconds: float
    """Of steps that were computed again, or never again."""

    @property
    def wall_seconds(self) -> float:
        return self.attempts[-1].stopped - self.began

    @property
    def goodput(self) -> float:
        return self.useful_seconds / self.wall_seconds

    @property
    def failures(self) -> list[Failure]:
        """The start of the run, which costs as much as a restart, and every end of an attempt but the last."""
        ends = [self.began, *(attempt.stopped for attempt in self.attempts[:-1])]
        return [Failure(0.0), *(Failure(after - before) for before, after in pairwise(ends))]

    @property
    def parts_seconds(self) -> dict[str, float]:
        """All together the whole time; a step that a failure broke off counts as part of the restart."""
        relaunch, start = self.restarts_seconds
        pauses = sum(attempt.pause_seconds for attempt in self.attempts)
        return {
            "useful": self.useful_seconds,
            "saves": pauses,
            "lost_work": self.lost_seconds,
            "restart_relaunch": sum(relaunch),
            "restart_start": sum(start),
        }

    @property
    def restarts_seconds(self) -> tuple[list[float], list[float]]:
        """From the end of each attempt to the next one's start, and from each start to its first step."""
        ends = [self.began, *(attempt.stopped for attempt in self.attempts)]
        relaunch = [attempt.started - end for attempt, end in zip(self.attempts, ends, strict=False)]
        return relaunch, [attempt.first_step - attempt.started for attempt in self.attempts]

    @property
    def course(self) -> Course:
        """One tier, with this run's mean step, pause for a save, and restart."""
        relaunch, start = self.restarts_seconds
        each_step = [seconds for attempt in self.attempts for seconds in attempt.step_seconds]
        saves = sum(attempt.num_saves for attempt in self.attempts)
        between = [after - before for each in self.attempts for before, after in pairwise(each.saved_steps)]
        # A run that never saved loses all that it has.
        interval = median(between) * mean(each_step) if between else self.wall_seconds
        stall = sum(attempt.pause_seconds for attempt in self.attempts) / max(1, saves)
        return Course(
            near_interval_seconds=interval,
            saves_per_far_save=1,
            near_stall_seconds=stall,
            far_stall_seconds=stall,
            restart=Restart(
                detect_seconds=mean(relaunch),
                diagnose_seconds=0.0,
                replace_seconds=0.0,
                start_processes_seconds=mean(start),
                communicators_seconds=0.0,
                load_near_seconds=0.0,
                load_far_seconds=0.0,
                first_step_seconds=0.0,
            ),
            spare_nodes=0,
            repair_seconds=1.0,
        )


def measured(events: Mapping[int, Sequence[Mapping[str, Any]]], metrics: Sequence[Mapping[str, Any]]) -> Measured:
    """Of a run's events by attempt and all its metrics lines; raises PlanError where it took no step.

    Example:
        events = {attempt: list(folder.read_events(attempt)) for attempt in folder.attempts()}
        measured(events, list(read_lines(folder.metrics))).goodput
    """
    if not metrics:
        raise PlanError("metrics.jsonl: holds no step; there is no goodput to measure")
    starts = [_seconds(line) for lines in events.values() for line in lines if line["kind"] == _STARTED]
    steps = {number: [record for record in metrics if record["attempt"] == number] for number in sorted(events)}
    # The last word on a step counts, and none behind the step that the run stands at.
    kept = {record["step"]: record["step_seconds"] for record in metrics}
    useful = sum(seconds for step, seconds in kept.items() if step <= metrics[-1]["step"])
    return Measured(
        began=min(starts),
        attempts=[_attempt(events[number], records) for number, records in steps.items() if records],
        useful_seconds=useful,
        lost_seconds=sum(record["step_seconds"] for record in metrics) - useful,
    )


def _attempt(events: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]) -> Attempt:
    times = [_seconds(line) for line in (*events, *records)]
    saves = [line["step"] for line in events if line["kind"] == _COMMITTED]
    resumed = [line["step"] for line in events if line["kind"] == _RESUMED]
    return Attempt(
        started=next(_seconds(line) for line in events if line["kind"] == _STARTED),
        first_step=_seconds(records[0]) - records[0]["step_seconds"],
        stopped=max(times),
        step_seconds=[record["step_seconds"] for record in records],
        saved_steps=[*(resumed[-1:] or [0]), *saves],
        num_saves=len(saves),
    )


def _seconds(line: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()


def predicted(run: Measured) -> Outcome:
    """What the simulation makes of the same failures at the same times, with the means of this run.

    Its steps and saves are not at the very times of the run's: each failure's lost work may be off by one interval.
    """
    return simulated_run(run.course, iter(run.failures), wall_seconds=run.wall_seconds, random=Random(0))
