"""What it costs to stop the run and start it again: work that is done twice, the save, and the restart."""

from dataclasses import asdict
from typing import Any

from mai.hardware.cluster import Cluster
from mai.plan.cost import cost
from mai.plan.goodput.failures import Restart

MINUTES = (0, 5, 15, 30, 60)
"""After a save, or after the start where the run does not save in between."""


def stopping(
    cluster: Cluster,
    *,
    step_seconds: float,
    every_steps: int | None,
    save_seconds: float | None,
    load_seconds: float | None,
    gpus_in_use: int,
    gpus_booked: int,
) -> dict[str, Any]:
    """A row for each of MINUTES, as JSON values; without grace nothing is saved, with grace nothing is done twice.

    The job has its nodes again: waiting in the queue is not in it. An unknown load takes what a budget assumes.
    """
    interval = None if every_steps is None else every_steps * step_seconds
    budget = Restart() if load_seconds is None else Restart(load_far_seconds=load_seconds)
    items = budget.steps(is_near=False, replaces=False, is_planned=True)
    restart = sum(items.values())

    def costs(seconds: float | None) -> dict[str, float | None]:
        if seconds is None:
            return {"seconds": None, "gpu_hours": None, "money": None}
        found = asdict(cost(cluster, seconds=seconds, gpus_in_use=gpus_in_use, gpus_booked=gpus_booked))
        return {"seconds": seconds, "gpu_hours": found["gpu_hours"], "money": found["money"]}

    with_grace = None if save_seconds is None else save_seconds + restart
    rows = []
    for minutes in MINUTES:
        lost = lost_seconds(60.0 * minutes, interval=interval, save_seconds=save_seconds or 0.0)
        without = {"lost_seconds": lost, **costs(lost + restart)}
        rows.append({"minutes": minutes, "without_grace": without, "with_grace": costs(with_grace)})
    return {
        "save_interval_seconds": interval,
        "load_seconds": load_seconds,
        "restart_seconds": restart,
        "restart_items_seconds": items,
        "rows": rows,
    }


def lost_seconds(after: float, *, interval: float | None, save_seconds: float) -> float:
    """Work that no checkpoint holds, so many seconds after a save ended; None saves never in between.

    While a save is written, the whole interval before it is not yet safe.
    """
    if interval is None:
        return after
    return min(after % (interval + save_seconds), interval)
