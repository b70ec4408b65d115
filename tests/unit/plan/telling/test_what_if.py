"""The pictures of what failures leave show the numbers of the answer, at their places."""

import re
from functools import cache

import pytest

from mai.plan.goodput.expected import PlannedRun
from mai.plan.goodput.failures import load_failures
from mai.plan.goodput.goodput import goodput_of
from mai.plan.goodput.goodput_values import Goodput
from mai.plan.goodput.levers import Lever
from mai.plan.telling.what_if import lever_picture, lost_picture, moves


@cache
def found() -> Goodput:
    run = PlannedRun(
        gpus=15_000,
        gpus_per_node=8,
        spare_nodes=25,
        step_seconds=9.0,
        useful_seconds=7_776_000.0,
        checkpoint_bytes=6 * 10**12,
        gpu_hour_price=2.0,
        currency="USD",
    )
    return goodput_of(load_failures("llama3"), run, runs=5)


def lever(name: str) -> Lever:
    return next(each for each in found().levers if each.name == name)


@pytest.mark.parametrize("name", ["restart", "stall", "spares", "size"])
def test_a_lever_is_drawn_point_by_point_with_a_ring_where_the_plan_stands(name: str) -> None:
    picture = lever_picture(lever(name))
    dots = re.findall(r'<circle class="line0" cx="([\d.]+)" cy="([\d.]+)" r="3.5">', picture)
    points = lever(name).points
    assert len(dots) == len(points)
    # Further right is more, further down is more lost, both by the same measure at every point.
    places = [(float(x), float(y)) for x, y in dots]
    (x0, y0), (x1, y1) = places[0], places[-1]
    first, last = points[0], points[-1]
    for (x, y), point in zip(places, points, strict=True):
        assert (x - x0) / (x1 - x0) == pytest.approx((point.at - first.at) / (last.at - first.at), abs=1e-3)
        share = (point.goodput - first.goodput) / (last.goodput - first.goodput)
        assert (y - y0) / (y1 - y0) == pytest.approx(share, abs=1e-3)
    assert picture.count('class="plan"') == 1
    assert "100%" in picture


def test_the_lost_time_is_shown_part_by_part_and_what_is_kept_is_not() -> None:
    picture = lost_picture(found())
    names = re.findall(r'text-anchor="end">([^<]+)</text>', picture)
    assert names[0] == "restarts"
    assert set(names) >= {"restarts", "computed again", "waiting for saves"}
    assert "kept" not in names


def test_the_moves_stand_in_their_order_with_points_and_money() -> None:
    rows = list(moves(found()))
    assert [row[0] for row in rows] == ["a restart in half the time", "saves in half the time", "16 spare nodes"]
    points = [float(row[2]) for row in rows]
    assert points == sorted(points, reverse=True)
    assert all(row[3].endswith("USD") for row in rows)
