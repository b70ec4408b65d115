"""The arithmetic of groups and levels is what counting rank by rank gives."""

import pytest

from mai.parallel.layout import Layout
from mai.plan.communication import rank_families
from mai.plan.placement.family_span import families, is_on_one_rail, level_of, members, most_parts, stays_inside
from mai.plan.placement.topology import Level
from tests.unit.plan.placement.places import place_of
from tests.unit.plan.placement.test_topology import cluster

LAYOUTS = [
    Layout(tensor=2, pipeline=2, data=3),
    Layout(tensor=2, context=2, pipeline=3, data=2),
    Layout(tensor=3, pipeline=1, data=8),
    Layout(tensor=2, pipeline=2, data=6, expert=3),
    Layout(tensor=2, context=2, pipeline=2, data=2, expert=4, expert_tensor=2),
    Layout(tensor=1, pipeline=1, data=1),
    Layout(tensor=4, pipeline=5, data=1),
]
SIZES = (2, 3, 4, 6, 8, 12, 100)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_families_are_those_that_call_together(layout: Layout) -> None:
    called = rank_families.families(layout)
    found = families(layout)
    for name, group in found.items():
        assert tuple(tuple(ranks) for ranks in members(group, layout.world_size)) == tuple(called[name].groups), name
    for name in (
        "tensor",
        "context",
        "data",
        "data_with_context",
        "pipeline",
        "expert_tensor",
        "expert",
        "expert_data",
    ):
        # Only what moves nothing is left out: single ranks, or copies of experts that are the data ranks themselves.
        is_single = len(called[name].groups[0]) == 1
        is_there_already = name == "expert_data" and layout.expert * layout.expert_tensor == 1
        assert (name in found) == (not is_single and not is_there_already)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_parts_that_groups_reach_into_are_counted_right(layout: Layout) -> None:
    for name, group in families(layout).items():
        for gpus in SIZES:
            reached = [{rank // gpus for rank in ranks} for ranks in getattr(layout, f"{name}_groups")]
            assert most_parts(group, gpus, layout.world_size) == max(map(len, reached)), (name, gpus)
            assert stays_inside(group, gpus, layout.world_size) == all(len(parts) == 1 for parts in reached)


def test_a_group_has_the_smallest_level_that_holds_all_of_its_kind() -> None:
    layout = Layout(tensor=2, context=2, pipeline=3, data=2)
    there = (Level("node", 4), Level("leaf", 12))
    found = {name: level_of(group, there, layout.world_size) for name, group in families(layout).items()}
    # The blocks of eight that hold the data ranks' groups do not divide a leaf of twelve.
    assert found == {
        "tensor": "node",
        "context": "node",
        "data": "cluster",
        "data_with_context": "cluster",
        "pipeline": "cluster",
    }


@pytest.mark.parametrize(("node", "rails"), [(4, 4), (4, 2), (8, 4)])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_one_rail_is_what_every_rank_of_a_group_hangs_on(layout: Layout, node: int, rails: int) -> None:
    made = cluster(node=node, scale_up=node, rails=rails)
    for name, group in families(layout).items():
        hangs = [{place_of(rank, made).rail for rank in ranks} for ranks in getattr(layout, f"{name}_groups")]
        assert is_on_one_rail(group, made) == all(len(on) == 1 for on in hangs), name
    assert all(is_on_one_rail(group, cluster()) is None for group in families(layout).values())
