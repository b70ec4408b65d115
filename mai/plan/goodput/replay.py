"""The failures of a run of our own once more, as they came: over itself, and over a planned run."""

from dataclasses import dataclass
from itertools import pairwise
from random import Random

from mai.plan.goodput.course import Course
from mai.plan.goodput.failures import Failures
from mai.plan.goodput.measured import Measured
from mai.plan.goodput.simulation import Failure, Outcome, simulated_run


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """What the interruptions of a measured run leave of a planned course."""

    run: str
    """Its folder."""
    gpus: int
    days: float
    interruptions: int
    goodput: float
    own_measured: float
    """Goodput of that run itself."""
    own_predicted: float
    """The same by simulation."""


def predicted(run: Measured) -> Outcome:
    """What the simulation makes of the same failures at the same times, with the means of this run.

    Its steps and saves are not at the very times of the run's: each failure's lost work may be off by one interval.
    """
    return simulated_run(run.course, iter(run.failures), wall_seconds=run.wall_seconds, random=Random(0))


def replayed(run: Measured, failures: Failures, course: Course, *, seed: int) -> Replayed:
    """What the run's interruptions leave of a planned course; `failures` is `own_failures` of the run.

    They come when they came, however many GPUs the plan has: a rate can be scaled, what happened cannot.
    """
    times = [0.0, *(seconds for seconds, _ in run.interruptions)]
    broken = [failures.broken_nodes(failures.causes[code.name.lower()].breaks) for _, code in run.interruptions]
    again = [Failure(after - before, nodes) for (before, after), nodes in zip(pairwise(times), broken, strict=True)]
    outcome = simulated_run(course, iter(again), wall_seconds=run.wall_seconds, random=Random(seed))
    return Replayed(
        run=run.name,
        gpus=run.gpus,
        days=run.wall_seconds / 86_400,
        interruptions=len(again),
        goodput=outcome.goodput,
        own_measured=run.goodput,
        own_predicted=predicted(run).goodput,
    )
