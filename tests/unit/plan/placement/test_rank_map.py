"""A stage lies where each of its ranks lies."""

import pytest

from mai.hardware.cluster import Cluster, FabricLevel
from mai.parallel.layout import Layout
from mai.plan.placement.rank_map import LevelParts, Nodes, rank_map
from tests.unit.plan.placement.places import place_of
from tests.unit.plan.placement.test_family_span import LAYOUTS
from tests.unit.plan.placement.test_topology import cluster
from tests.unit.plan.placement.test_traffic import CLUSTERS


@pytest.mark.parametrize("made", [*CLUSTERS, cluster()], ids=["parts of a node", "a rack of nodes", "nodes alone"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_stage_reaches_from_its_first_part_to_its_last(layout: Layout, made: Cluster) -> None:
    found = rank_map(layout, made, gpus_booked=layout.world_size)
    assert [stage.stage for stage in found.stages] == list(range(layout.pipeline))
    for stage in found.stages:
        of_stage = [r for r in range(layout.world_size) if layout.coordinates(r).pipeline == stage.stage]
        assert list(range(stage.first_rank, stage.last_rank + 1)) == of_stage
        places = [place_of(rank, made) for rank in of_stage]
        assert (stage.nodes.first_node, stage.nodes.last_node) == (places[0].node, places[-1].node)
        for level, part in zip(found.levels, stage.nodes.parts, strict=True):
            reached = {getattr(place, part.level) for place in places}
            assert reached == set(range(part.first, part.last + 1))
            assert level.level == part.level
    assert found.nodes == len({place_of(rank, made).node for rank in range(layout.world_size)})


@pytest.mark.parametrize("made", CLUSTERS, ids=["parts of a node", "a rack of nodes"])
def test_a_node_lies_in_the_part_that_its_number_says(made: Cluster) -> None:
    levels = rank_map(LAYOUTS[0], made, gpus_booked=12).levels
    assert [level.level for level in levels] == (["scale_up", "leaf", "pod"] if made.pod else ["leaf"])
    for level in levels:
        for rank in range(100):
            place = place_of(rank, made)
            assert place.node // level.nodes == getattr(place, level.level)


def test_booked_nodes_behind_the_last_rank_are_spares() -> None:
    layout = Layout(tensor=2, pipeline=2, data=3)  # 12 ranks: three nodes of four
    made = cluster(leaf=FabricLevel(nodes=4, oversubscription=1))
    parts = [LevelParts("leaf", first=0, last=1)]
    assert rank_map(layout, made, gpus_booked=27).spares == Nodes(first_node=3, last_node=5, parts=parts)
    assert rank_map(layout, made, gpus_booked=12).spares is None
    assert rank_map(layout, cluster(node=8, scale_up=8), gpus_booked=12).spares is None, "a part of a node is none"
