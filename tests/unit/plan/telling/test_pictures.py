"""The pictures' shapes stand where their numbers say."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from mai.hardware.cluster import load_cluster
from mai.parallel.layout import Layout
from mai.plan.memory.memory import Memory, RankMemory, memory
from mai.plan.report.plan_values import Gpus
from mai.plan.report.scaling import Point, Scaling
from mai.plan.setting.of_recipe import setting_of
from mai.plan.software import load_software
from mai.plan.telling.drawing import Scale
from mai.plan.telling.pictures import (
    drawn_micro_batches,
    memory_picture,
    scaling_picture,
    time_picture,
    timeline_picture,
)
from mai.plan.time.step_time import StageTime, StepTime
from mai.recipe import ParallelConfig, load

GIB = 2**30


def shapes(picture: str, kind: str) -> Iterator[Mapping[str, Any]]:
    """Every shape of this kind, numbers as numbers."""
    tree = ET.fromstring(f"<div>{picture}</div>")
    for element in tree.iter(kind):
        yield {
            name: float(value) if re.fullmatch(r"-?[0-9.]+", value) else value for name, value in element.items()
        } | {"text": "".join(element.itertext())}


def stage(number: int, **items_gib: float) -> RankMemory:
    items = {name: int(size * GIB) for name, size in items_gib.items()}
    allocated = sum(items.values())
    return RankMemory(number, items, allocated, GIB, allocated + GIB, host_during_save_bytes=0)


def on_a_gpu(gib: int, *stages: RankMemory) -> Memory:
    return Memory(usable_bytes=gib * GIB, most_bytes=gib * GIB, fits=True, largest_stage=0, stages=stages)


def test_memory_is_stacked_without_gaps_up_to_what_is_needed() -> None:
    memory = on_a_gpu(16, stage(0, weights=4, gradients=3), stage(1, weights=2, loss=5))
    bars = list(shapes(memory_picture(memory), "rect"))
    (limit,) = shapes(memory_picture(memory), "line")
    for_each_gib = (limit["x1"] - bars[0]["x"]) / 16
    for y, sizes in ((bars[0]["y"], [4, 3, 0, 1]), (bars[-1]["y"], [2, 0, 5, 1])):
        row = [bar for bar in bars if bar["y"] == y]
        assert [bar["width"] for bar in row] == pytest.approx([size * for_each_gib for size in sizes], abs=0.02)
        for left, right in pairwise(row):
            assert left["x"] + left["width"] == pytest.approx(right["x"], abs=0.02)


def test_an_item_has_the_same_colour_on_every_page() -> None:
    colours = [
        {bar["text"].split()[2]: bar["class"] for bar in shapes(memory_picture(memory), "rect") if bar["width"]}
        for memory in (
            on_a_gpu(80, stage(0, weights=4, optimizer=3, loss=2)),
            on_a_gpu(80, stage(0, gradients=4, loss=1)),
        )
    ]
    assert colours[0]["loss"] == colours[1]["loss"]
    both = colours[0] | colours[1]
    assert len(set(both.values())) == len(both) == 5


@pytest.mark.parametrize("name", ["llama3_8b", "mai1_500b", "mai1_500b_moe"])
@pytest.mark.parametrize("sharding", ["optimizer", "full"])
def test_every_item_of_memory_has_a_colour(name: str, sharding: str) -> None:
    recipe = load.find(name)()
    parallel = ParallelConfig(data=16, sharding=sharding)
    setting = setting_of(replace(recipe, parallel=parallel), load_cluster("h100"), load_software("mai"))
    for pipeline in (1, 2):
        cut = replace(setting, parallel=replace(parallel, pipeline=pipeline))
        for rank in memory(cut).stages:
            picture = memory_picture(on_a_gpu(80, rank))
            drawn = [bar for bar in shapes(picture, "rect") if bar["width"]]
            assert len(drawn) == len([size for size in rank.items_bytes.values() if size]) + 1


def test_a_rank_that_is_too_large_crosses_the_line() -> None:
    memory = on_a_gpu(16, stage(0, weights=16))
    (limit,) = shapes(memory_picture(memory), "line")
    last = list(shapes(memory_picture(memory), "rect"))[-1]
    assert last["x"] + last["width"] > limit["x1"]
    both = memory, replace(memory, usable_bytes=None)
    told = [[text["text"] for text in shapes(memory_picture(each), "text")][-1] for each in both]
    assert told == ["usable: 16.00 GiB", "sold with: 16.00 GiB"]


def layout(pipeline: int, virtual_stages: int = 1) -> Layout:
    return Layout(tensor=1, pipeline=pipeline, data=1, virtual_stages=virtual_stages)


@pytest.mark.parametrize("virtual_stages", [1, 2])
def test_turns_of_a_stage_never_overlap_and_leave_the_bubble_empty(virtual_stages: int) -> None:
    turns = list(shapes(timeline_picture(layout(4, virtual_stages), 8, [StageTime(1.0, 2.0)] * 4), "rect"))
    backgrounds = [turn for turn in turns if turn["class"] == "bubble"]
    assert len(backgrounds) == 4
    for background in backgrounds:
        row = [turn for turn in turns if turn["y"] == background["y"] and turn is not background]
        assert len(row) == 2 * 8 * virtual_stages
        for left, right in pairwise(row):
            assert left["x"] + left["width"] <= right["x"] + 0.02
        busy = sum(turn["width"] for turn in row) / background["width"]
        assert busy == pytest.approx(8 / (8 + 3 / virtual_stages), abs=1e-3)


def test_a_long_step_is_drawn_in_part_in_whole_rounds() -> None:
    assert drawn_micro_batches(layout(4), 8) == 8
    assert drawn_micro_batches(layout(16), 512) == 112
    assert drawn_micro_batches(layout(64, 8), 512) == 64  # one round is the least that interleaved stages take
    assert drawn_micro_batches(layout(1), 100_000) == 2000


def test_bars_of_time_are_as_long_as_their_items() -> None:
    items = {"tensor": 1.0, "products": 3.0, "host": 0.0}
    step = StepTime(seconds=4.0, items_seconds=items, stages=(), slowest_stage=0)
    bars = list(shapes(time_picture(step), "rect"))
    assert bars[0]["width"] == pytest.approx(3 * bars[1]["width"], abs=0.05)
    told = [text["text"] for text in shapes(time_picture(step), "text")]
    assert told == ["matrix products", "3.000 s, 75.0%", "tensor ranks", "1.000 s, 25.0%"]


OF_16 = Gpus(booked=40, in_use=16, spares=24, most_data=40), 1600.0


def test_the_plan_and_its_budget_are_marked() -> None:
    points = tuple(Point(gpus, 100.0 * gpus) for gpus in (8, 16, 32))
    picture = scaling_picture(Scaling(points, points), *OF_16)
    dots = list(shapes(picture, "circle"))
    (ring,) = [dot for dot in dots if dot["class"] == "plan"]
    assert (ring["cx"], ring["cy"]) in [(dot["cx"], dot["cy"]) for dot in dots if dot["class"] == "line0"]
    (budget,) = [each for each in shapes(picture, "line") if each["class"] == "limit"]
    assert budget["x1"] > max(dot["cx"] for dot in dots)
    assert {"this plan", "budget: 40", "GPUs", "tokens a second"} <= {told["text"] for told in shapes(picture, "text")}


def test_a_line_that_scales_perfectly_is_straight() -> None:
    straight = tuple(Point(gpus, 100.0 * gpus) for gpus in (8, 16, 32))
    dots = list(shapes(scaling_picture(Scaling(straight[:1], straight), *OF_16), "circle"))
    (x1, y1), (x2, y2), (x3, y3) = [(dot["cx"], dot["cy"]) for dot in dots if dot["class"] == "line1"]
    assert (y2 - y1) / (x2 - x1) == pytest.approx((y3 - y2) / (x3 - x2), rel=1e-3)


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (10.0, [0, 2, 4, 6, 8, 10]),
        (0.13, [0, 0.05, 0.1]),
        (31_000.0, [0, 10_000, 20_000, 30_000]),
        (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_are_round(most: float, ticks: list[float]) -> None:
    assert Scale(most, 0, 100).ticks() == pytest.approx(ticks)
