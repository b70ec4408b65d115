"""A run is as long as its ranks share a stage and all parts above a node, and says where they are."""

from itertools import pairwise

import pytest

from mai.parallel.layout import Layout
from mai.plan.hardware import Cluster, FabricLevel
from mai.plan.placement.rank_map import rank_map
from mai.plan.placement.topology import place_of
from tests.unit.plan.placement.test_families import LAYOUTS
from tests.unit.plan.placement.test_topology import cluster
from tests.unit.plan.placement.test_traffic import CLUSTERS


@pytest.mark.parametrize("made", [*CLUSTERS, cluster()], ids=["parts of a node", "a rack of nodes", "nodes alone"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_runs_are_the_places_of_their_ranks(layout: Layout, made: Cluster) -> None:
    found = rank_map(layout, made, gpus_booked=layout.world_size)
    runs = found["runs"]
    covered = [rank for run in runs for rank in range(run["first_rank"], run["last_rank"] + 1)]
    assert covered == list(range(layout.world_size))
    shared = [tuple(run[key] for key in ("stage", "scale_up", "leaf", "pod")) for run in runs]
    for run, of_run in zip(runs, shared, strict=True):
        ranks = range(run["first_rank"], run["last_rank"] + 1)
        places = [place_of(rank, made) for rank in ranks]
        rack = made.scale_up.gpus > made.gpus_per_node
        assert {
            (layout.coordinates(rank).pipeline, place.scale_up if rack else None, place.leaf, place.pod)
            for rank, place in zip(ranks, places, strict=True)
        } == {of_run}
        assert (places[0].node, places[-1].node) == (run["first_node"], run["last_node"])
        data = [layout.coordinates(rank).data for rank in ranks]
        assert (min(data), max(data)) == (run["first_data"], run["last_data"])
    assert all(one != other for one, other in pairwise(shared)), "two runs that are one"
    assert found["nodes"] == len({place_of(rank, made).node for rank in range(layout.world_size)})


def test_booked_nodes_behind_the_last_rank_are_spares() -> None:
    layout = Layout(tensor=2, pipeline=2, data=3)  # 12 ranks: three nodes of four
    leaf = FabricLevel(nodes=4, oversubscription=1)
    assert rank_map(layout, cluster(leaf=leaf), gpus_booked=27)["spares"] == [
        {"first_node": 3, "last_node": 3, "scale_up": None, "leaf": 0, "pod": None},
        {"first_node": 4, "last_node": 5, "scale_up": None, "leaf": 1, "pod": None},
    ]
    assert rank_map(layout, cluster(leaf=leaf), gpus_booked=12)["spares"] == []
    assert rank_map(layout, cluster(node=8, scale_up=8), gpus_booked=12)["spares"] == [], "a part of a node is none"
