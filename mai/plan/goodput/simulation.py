"""One run after another, from event to event: what failures leave of the time, and what takes the rest.

Between two events a run trains and saves by the clock, so where it stands is arithmetic; no save is an event. Failures
hit training, saves and restarts alike. They do not come while a run waits for a node.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from heapq import heappop, heappush
from itertools import accumulate
from math import gamma, inf
from random import Random
from typing import NamedTuple

from mai.plan.goodput.course import Course, Stand
from mai.plan.goodput.failures import Failures, Restart

_MICROSECOND = 1e-6


class Failure(NamedTuple):
    after_seconds: float
    """Since the one before; time in which the run waits for nodes does not count."""
    broken_nodes: int = 0
    is_near: bool = False
    """Whether the newest copy, of either tier, is enough."""
    unnoticed_seconds: float = 0.0
    """That the numbers have been wrong: no copy younger than that is good."""
    is_asked: bool = False
    """No failure: somebody asked the run to stop. It has saved all work, and nothing is to be found out."""


def random_failures(failures: Failures, gpus: int, random: Random) -> Iterator[Failure]:
    """Without end: a renewal process of Weibull's law, each failure of a random cause."""
    causes = list(failures.causes.values())
    totals = list(accumulate(cause.count for cause in causes))
    nodes = [failures.broken_nodes(cause.breaks) for cause in causes]
    unnoticed = [cause.noticed_after_hours * 3600 for cause in causes]
    near = [failures.near_chance(cause) for cause in causes]
    shape = failures.weibull_shape
    # The mean of Weibull's law is its scale times this.
    scale = failures.mean_seconds(gpus) / gamma(1 + 1 / shape)
    numbers = range(len(causes))
    while True:
        (number,) = random.choices(numbers, cum_weights=totals)
        is_near = random.random() < near[number]
        yield Failure(random.weibullvariate(scale, shape), nodes[number], is_near, unnoticed[number])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run's time went to."""

    seconds: dict[str, float]
    """By part, all together the whole time: useful, saves, lost_work, slowdown, waiting_for_nodes, and each step of
    restarts under restart_<step>."""
    failures: int
    waits: int
    """How often no spare was there."""

    @property
    def goodput(self) -> float:
        return self.seconds["useful"] / sum(self.seconds.values())


def simulated_run(course: Course, failures: Iterator[Failure], *, wall_seconds: float, random: Random) -> Outcome:
    """One run of so much time over these failures; where they end, nothing fails any more."""
    return _Run(course, failures, wall_seconds, random).outcome()


class _Run:
    """A run under way."""

    def __init__(self, course: Course, failures: Iterator[Failure], wall_seconds: float, random: Random) -> None:
        self._course, self._failures, self._random = course, failures, random
        self._now, self._end = 0.0, wall_seconds
        self._stand = Stand(0, 0.0, 0.0)
        self._stretches: list[tuple[float, float, Stand, float]] = []
        self._seconds = dict.fromkeys(("useful", "saves", "lost_work", "slowdown", "waiting_for_nodes"), 0.0)
        self._spares, self._repairs = course.spare_nodes, list[float]()
        self._num_failures, self._num_waits = 0, 0
        self._draw()
        self._be_at_full_speed()

    def outcome(self) -> Outcome:
        while self._now < self._end:
            seconds = min(self._left, self._pace_changes - self._now, self._end - self._now)
            self._train(seconds)
            self._left -= seconds
            if self._left <= 0:
                self._fail()
            elif self._now >= self._pace_changes:
                self._change_pace()
        self._seconds["useful"] = self._course.useful(self._stand)
        return Outcome(self._seconds, self._num_failures, self._num_waits)

    def _draw(self) -> None:
        self._coming = next(self._failures, Failure(inf))
        self._left = self._coming.after_seconds

    def _train(self, seconds: float) -> None:
        before, slowdown = self._stand, self._slowdown
        self._stand = self._course.after(before, seconds, slowdown=slowdown)
        useful = self._course.useful(self._stand) - self._course.useful(before)
        self._seconds["slowdown"] += (slowdown - 1) * useful
        self._seconds["saves"] += seconds - slowdown * useful
        self._stretches.append((self._now, self._now + seconds, before, slowdown))
        self._now += seconds

    def _fail(self) -> None:
        """Go back and start again, over and over where the next failure does not wait for the end of that."""
        is_near = True
        while self._left <= 0 and self._now < self._end:
            failure = self._coming
            self._num_failures += 1
            self._draw()
            is_near = is_near and failure.is_near
            self._go_back(failure)
            # What was noticed to be slow leaves with the next restart, whatever that is for.
            broken = failure.broken_nodes + self._is_noticed
            if self._is_noticed:
                self._be_at_full_speed()
            self._restart(broken, is_near=is_near, is_planned=failure.is_asked)

    def _restart(self, broken_nodes: int, *, is_near: bool, is_planned: bool) -> None:
        """Until the run trains again, or the next failure, or the end."""
        self._wait_for_nodes(broken_nodes)
        restart = self._course.restart
        for name, seconds in _steps(restart, is_near=is_near, replaces=broken_nodes > 0, is_planned=is_planned):
            taken = min(seconds, max(self._left, 0.0), self._end - self._now)
            self._seconds[name] = self._seconds.get(name, 0.0) + taken
            self._now += taken
            # Below 0 after a step that was broken off: the failure is there.
            self._left -= seconds

    def _go_back(self, failure: Failure) -> None:
        if failure.is_asked:
            self._stand = self._stand._replace(stall_seconds=0.0)
            return
        course = self._course
        saves = self._stand.saves
        if failure.unnoticed_seconds:
            saves = self._last_good(self._now - failure.unnoticed_seconds)
        elif not failure.is_near:
            saves = course.last_far(saves)
        copy = Stand(saves, 0.0, 0.0)
        self._seconds["lost_work"] += course.useful(self._stand) - course.useful(copy)
        self._stand = copy

    def _last_good(self, time: float) -> int:
        """The newest far save of then that the run still stands on."""
        saves = self._stand.saves
        for began, ended, stand, slowdown in reversed(self._stretches):
            if began <= time:
                saves = min(saves, self._course.after(stand, min(time, ended) - began, slowdown=slowdown).saves)
                return self._course.last_far(saves)
            saves = min(saves, stand.saves)
        return 0

    def _wait_for_nodes(self, broken: int) -> None:
        for _ in range(broken):
            heappush(self._repairs, self._now + self._random.expovariate(1 / self._course.repair_seconds))
        self._spares -= broken
        began = self._now
        while self._repairs and (self._repairs[0] <= self._now or self._spares < 0):
            self._now = min(self._end, max(self._now, heappop(self._repairs)))
            self._spares += 1
        self._num_waits += self._now > began
        self._seconds["waiting_for_nodes"] += self._now - began
        self._pace_changes += self._now - began

    def _be_at_full_speed(self) -> None:
        self._slowdown, self._is_noticed = 1.0, False
        mean = self._course.slow_node_mean_seconds
        self._pace_changes = inf if mean == inf else self._now + self._random.expovariate(1 / mean)

    def _change_pace(self) -> None:
        """A node becomes slow, is noticed, and is replaced after the next save, when nothing is lost."""
        course = self._course
        if self._slowdown == 1.0:
            self._slowdown = course.slowdown
            self._pace_changes = self._now + course.slow_unnoticed_seconds
        elif not self._is_noticed:
            self._is_noticed = True
            # A little more, or rounding leaves the save unfinished.
            seconds = course.seconds_to_save(self._stand, slowdown=self._slowdown) + _MICROSECOND
            self._pace_changes = self._now + seconds
        else:
            self._be_at_full_speed()
            self._go_back(Failure(0.0, is_near=True))
            self._restart(1, is_near=course.loads_near, is_planned=True)
            if self._left <= 0:
                self._fail()


@cache
def _steps(restart: Restart, *, is_near: bool, replaces: bool, is_planned: bool) -> tuple[tuple[str, float], ...]:
    steps = restart.steps(is_near=is_near, replaces=replaces, is_planned=is_planned)
    return tuple((f"restart_{name}", seconds) for name, seconds in steps.items())


@dataclass(frozen=True, slots=True)
class Simulated:
    """Many runs together."""

    goodput: float
    goodput_range: tuple[float, float]
    """That 90% of the runs are within."""
    shares: dict[str, float]
    """What each part takes of all time, by the names of `Outcome.seconds`."""
    failures: float
    """How many failures one run has, on average."""
    waiting_share: float
    """The share of runs that had no spare at least once."""


def simulate(
    course: Course, failures_of: Callable[[Random], Iterator[Failure]], *, wall_seconds: float, runs: int, seed: int
) -> Simulated:
    """So many runs of so much time; the same seed gives the same ones.

    Example:
        simulate(course, lambda random: random_failures(llama3, 15_000, random), wall_seconds=90 * 86_400, runs=200,
                 seed=0)
    """
    outcomes = []
    for number in range(runs):
        random = Random(f"{seed} {number}")
        outcomes.append(simulated_run(course, failures_of(random), wall_seconds=wall_seconds, random=random))
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.seconds)
    totals = {name: sum(outcome.seconds.get(name, 0.0) for outcome in outcomes) for name in names}
    ordered = sorted(outcome.goodput for outcome in outcomes)
    return Simulated(
        goodput=totals["useful"] / sum(totals.values()),
        goodput_range=(ordered[int(0.05 * (runs - 1))], ordered[round(0.95 * (runs - 1))]),
        shares={name: seconds / sum(totals.values()) for name, seconds in totals.items()},
        failures=sum(outcome.failures for outcome in outcomes) / runs,
        waiting_share=sum(outcome.waits > 0 for outcome in outcomes) / runs,
    )
