"""A stop costs what is done twice and the restart; with grace, the save and the restart."""

from typing import Any

import pytest

from mai.hardware.cluster import load_cluster
from mai.plan.goodput.failures import Restart
from mai.plan.scheduler.stopping import MINUTES, StopCost, Stopping, lost_seconds, stopping


def table(**changed: Any) -> Stopping:
    given: dict[str, Any] = {"step_seconds": 6.0, "every_steps": 100, "save_seconds": 30.0, "load_seconds": None}
    given |= changed
    cluster = given.pop("cluster", load_cluster("h100"))
    return stopping(cluster, gpus_in_use=14_976, gpus_booked=15_000, **given)


def test_work_since_the_last_save_is_lost() -> None:
    lost = {row.minutes: row.without_grace.lost_seconds for row in table().rows}
    # Saves end every 630 s: 600 s of steps and 30 s of saving.
    assert lost == {0: 0.0, 5: 300.0, 15: 270.0, 30: 540.0, 60: 450.0}
    assert tuple(lost) == MINUTES


def test_a_save_that_is_not_done_yet_keeps_nothing() -> None:
    assert lost_seconds(615.0, interval=600.0, save_seconds=30.0) == 600.0
    assert lost_seconds(630.0, interval=600.0, save_seconds=30.0) == 0.0


def test_a_run_that_never_saves_in_between_loses_everything() -> None:
    found = table(every_steps=None)
    assert found.save_interval_seconds is None
    assert [row.without_grace.lost_seconds for row in found.rows] == [60.0 * minutes for minutes in MINUTES]


def test_costs_are_of_all_booked_gpus() -> None:
    found = table()
    assert found.restart_seconds == sum(found.restart_items_seconds.values()) == 260.0
    row = found.rows[1]
    assert row.without_grace.cost.gpu_hours == pytest.approx((300 + 260) / 3600 * 15_000)
    assert row.without_grace.cost.money == pytest.approx(row.without_grace.cost.gpu_hours * 2.35)
    assert row.with_grace.seconds == 30 + 260


def test_a_restart_is_that_of_goodput_and_loads_what_the_plan_loads() -> None:
    steps = Restart().steps(is_near=False, replaces=False, is_planned=True)
    assert table().restart_items_seconds == steps
    assert table(load_seconds=7.0).restart_items_seconds == steps | {"load_far": 7.0}


def test_unknown_is_never_0() -> None:
    assert table(save_seconds=None).rows[2].with_grace == StopCost(seconds=None, gpu_hours=None, money=None)
    assert table(cluster=load_cluster("b200")).rows[2].without_grace.cost.money is None
