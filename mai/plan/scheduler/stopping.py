"""What it costs to stop the run and start it again: work that is done twice, the save, and the restart."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mai.hardware.cluster import Cluster
from mai.plan.cost import cost
from mai.plan.goodput.failures import Restart
from mai.plan.published import AMONG_THE_OTHERS

MINUTES = (0, 5, 15, 30, 60)
"""After a save, or after the start where the run does not save in between."""


@dataclass(frozen=True, slots=True)
class StopCost:
    """None is unknown."""

    seconds: float | None
    gpu_hours: float | None
    money: float | None


@dataclass(frozen=True, slots=True)
class StopWithoutGrace:
    lost_seconds: float
    """Work that is done twice."""
    cost: StopCost = field(metadata=AMONG_THE_OTHERS)


@dataclass(frozen=True, slots=True)
class Stop:
    minutes: int
    """Since the last save."""
    without_grace: StopWithoutGrace
    """Nothing is saved."""
    with_grace: StopCost
    """Nothing is done twice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopping:
    save_interval_seconds: float | None
    """None: the run saves at its end alone."""
    load_seconds: float | None
    restart_seconds: float
    restart_items_seconds: Mapping[str, float]
    rows: list[Stop]


def stopping(
    cluster: Cluster,
    *,
    step_seconds: float,
    every_steps: int | None,
    save_seconds: float | None,
    load_seconds: float | None,
    gpus_in_use: int,
    gpus_booked: int,
) -> Stopping:
    """A row for each of MINUTES.

    The job has its nodes again: waiting in the queue is not in it. An unknown load takes what a budget assumes.
    """
    interval = None if every_steps is None else every_steps * step_seconds
    budget = Restart() if load_seconds is None else Restart(load_far_seconds=load_seconds)
    items = budget.steps(is_near=False, replaces=False, is_planned=True)
    restart = sum(items.values())

    def costs(seconds: float | None) -> StopCost:
        if seconds is None:
            return StopCost(None, None, None)
        found = cost(cluster, seconds=seconds, gpus_in_use=gpus_in_use, gpus_booked=gpus_booked)
        return StopCost(seconds, found.gpu_hours, found.money)

    with_grace = costs(None if save_seconds is None else save_seconds + restart)
    rows = []
    for minutes in MINUTES:
        lost = lost_seconds(60.0 * minutes, interval=interval, save_seconds=save_seconds or 0.0)
        rows.append(Stop(minutes, StopWithoutGrace(lost, costs(lost + restart)), with_grace))
    return Stopping(
        save_interval_seconds=interval,
        load_seconds=load_seconds,
        restart_seconds=restart,
        restart_items_seconds=items,
        rows=rows,
    )


def lost_seconds(after: float, *, interval: float | None, save_seconds: float) -> float:
    """Work that no checkpoint holds, so many seconds after a save ended; None saves never in between.

    While a save is written, the whole interval before it is not yet safe.
    """
    if interval is None:
        return after
    return min(after % (interval + save_seconds), interval)
