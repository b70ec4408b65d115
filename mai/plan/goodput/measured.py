"""What a run of our own lost and when it failed, as values; run_record.py reads them off its run folder.

The run's clock stands still from an end that somebody asked for to the next start: nobody wanted it to run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median

from mai.errors import ExitCode
from mai.plan.goodput.course import Course
from mai.plan.goodput.failures import restart_of
from mai.plan.goodput.simulation import Failure

ASKED_FOR = frozenset({ExitCode.COMPLETE, ExitCode.STOPPED, ExitCode.PREEMPTED, ExitCode.PREEMPTED_UNSAVED})
"""Ends that are no failures. The last, a second signal, leaves work unsaved: that is measured as lost, and no
simulation knows of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One start of the run to its end, in seconds of the run's clock; it took a step at least."""

    ranks: int
    started: float
    """The first try: an attempt that took no step is one of the next that did."""
    first_step: float
    """When its first step began."""
    stopped: float
    """Its last step or save; from there to the next start is to detect what happened, and to launch."""
    interrupted_by: ExitCode | None
    """None if somebody asked for its end, or it still runs."""
    step_seconds: Sequence[float]
    began_at: int
    """The step that it resumed at, or 0."""
    saved_steps: Sequence[int]

    @property
    def pause_seconds(self) -> float:
        """Time between its steps, and that of a last save: saves, evaluations."""
        return max(0.0, self.stopped - self.first_step - sum(self.step_seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a run's time went to, and when it failed."""

    name: str
    """The name of its run folder."""
    attempts: Sequence[Attempt]
    useful_seconds: float
    """What the steps took that the run stands on."""
    lost_seconds: float
    """What undone steps took, whether they were computed again or not."""

    @property
    def wall_seconds(self) -> float:
        return self.attempts[-1].stopped - self.attempts[0].started

    @property
    def goodput(self) -> float:
        return self.useful_seconds / self.wall_seconds

    @property
    def interruptions(self) -> list[tuple[float, ExitCode]]:
        """When each came, in seconds since the run began, and what it was by."""
        began = self.attempts[0].started
        ends = [(attempt.stopped - began, attempt.interrupted_by) for attempt in self.attempts]
        return [(seconds, code) for seconds, code in ends if code is not None]

    @property
    def gpus(self) -> int:
        """Those of its largest attempt."""
        return max(attempt.ranks for attempt in self.attempts)

    @property
    def gpu_hours(self) -> float:
        """By the run's clock: with the time from an interruption to the next start."""
        begins = [self.attempts[0].started, *(attempt.stopped for attempt in self.attempts)]
        hours = [(each.stopped - begin) / 3600 for each, begin in zip(self.attempts, begins, strict=False)]
        return sum(each.ranks * spent for each, spent in zip(self.attempts, hours, strict=True))

    @property
    def relaunch_seconds(self) -> list[float]:
        """From each interruption to the next start."""
        both = pairwise(self.attempts)
        return [after.started - before.stopped for before, after in both if before.interrupted_by is not None]

    @property
    def start_seconds(self) -> list[float]:
        """From each start to the first step."""
        return [attempt.first_step - attempt.started for attempt in self.attempts]

    @property
    def stall_seconds(self) -> float | None:
        """What a save keeps the run waiting, evaluations included; None where it never saved."""
        saves = sum(len(attempt.saved_steps) for attempt in self.attempts)
        return sum(attempt.pause_seconds for attempt in self.attempts) / saves if saves else None

    @property
    def parts_seconds(self) -> dict[str, float]:
        """All together the whole time; a step that a failure broke off counts as part of the restart."""
        return {
            "useful": self.useful_seconds,
            "saves": sum(attempt.pause_seconds for attempt in self.attempts),
            "lost_work": self.lost_seconds,
            "restart_relaunch": sum(self.relaunch_seconds),
            "restart_start": sum(self.start_seconds),
        }

    @property
    def failures(self) -> list[Failure]:
        """The start of the run and every end of an attempt but the last; those that were asked for lose nothing."""
        began = self.attempts[0].started
        ends = [(attempt.stopped, attempt.interrupted_by is None) for attempt in self.attempts[:-1]]
        both = pairwise([(began, True), *ends])
        later = [Failure(now - before, is_asked=is_asked) for (before, _), (now, is_asked) in both]
        return [Failure(0.0, is_asked=True), *later]

    @property
    def course(self) -> Course:
        """One tier, with this run's mean step, pause for a save, and restart."""
        each_step = [seconds for attempt in self.attempts for seconds in attempt.step_seconds]
        saved = [[attempt.began_at, *attempt.saved_steps] for attempt in self.attempts]
        between = [after - before for steps in saved for before, after in pairwise(steps)]
        # A run that never saved loses all that it has.
        interval = median(between) * mean(each_step) if between else self.wall_seconds
        return Course(
            near_interval_seconds=interval,
            saves_per_far_save=1,
            near_stall_seconds=0.0,
            far_stall_seconds=self.stall_seconds or 0.0,
            restart=restart_of(
                detect_seconds=mean(self.relaunch_seconds or [0.0]), start_processes_seconds=mean(self.start_seconds)
            ),
            spare_nodes=0,
            repair_seconds=1.0,
        )
