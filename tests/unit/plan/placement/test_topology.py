"""Ranks fill nodes in order, and a level is a run of ranks."""

from dataclasses import replace

import pytest

from mai.hardware.cluster import Cluster, FabricLevel, ScaleOut, ScaleUp, load_cluster
from mai.hardware.gpu import load_gpu
from mai.plan.placement.topology import Level, levels, outward_gb_per_second
from tests.unit.plan.placement.places import Place, place_of


def cluster(*, node: int = 4, scale_up: int = 4, rails: int | None = None, **fabric: FabricLevel) -> Cluster:
    return Cluster(
        name="small",
        gpu=load_gpu("h100"),
        gpus_per_node=node,
        scale_up=ScaleUp(gpus=scale_up, gb_per_second=450),
        scale_out=ScaleOut(gb_per_second=50, rails=rails),
        **fabric,
    )


def test_a_rank_of_the_shipped_h100s() -> None:
    assert place_of(8 * 32 + 8 + 3, load_cluster("h100")) == Place(
        node=33, slot=3, scale_up=33, rail=3, leaf=1, pod=None
    )


def test_trays_of_a_rack_share_its_scale_up_network() -> None:
    rack = load_cluster("gb200_nvl72")
    assert {place_of(rank, rack).scale_up for rank in range(72)} == {0}
    assert {place_of(rank, rack).node for rank in range(72)} == set(range(18))
    assert place_of(72, rack).scale_up == 1


def test_rails_repeat_where_a_node_has_more_gpus_than_rails() -> None:
    assert [place_of(rank, cluster(node=4, rails=2)).rail for rank in range(6)] == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (cluster(), [("node", 4)]),
        (cluster(scale_up=2), [("scale_up", 2), ("node", 4)]),
        (cluster(scale_up=8), [("node", 4), ("scale_up", 8)]),
        (
            cluster(leaf=FabricLevel(nodes=2, oversubscription=1), pod=FabricLevel(nodes=6, oversubscription=2)),
            [("node", 4), ("leaf", 8), ("pod", 24)],
        ),
    ],
)
def test_levels_are_named_once_the_smallest_first(made: Cluster, expected: list[tuple[str, int]]) -> None:
    assert levels(made) == tuple(Level(*one) for one in expected)


def test_a_pod_of_one_leaf_is_that_leaf() -> None:
    leaf = FabricLevel(nodes=2, oversubscription=1)
    assert [level.name for level in levels(replace(cluster(), leaf=leaf, pod=leaf))] == ["node", "leaf"]


def test_a_part_sends_what_its_gpus_can_over_what_its_switches_hold_back() -> None:
    made = cluster(
        leaf=FabricLevel(nodes=2, oversubscription=1.25), pod=FabricLevel(nodes=6, oversubscription=4)
    )  # 4 GPUs of 50 GB/s a node
    found = {level.name: outward_gb_per_second(made, level) for level in levels(made)}
    assert found == {"node": 200, "leaf": 400 / 1.25, "pod": 1200 / (1.25 * 4)}


def test_what_leaves_a_part_of_an_nvlink_domain_goes_over_two_networks() -> None:
    rack = load_cluster("gb200_nvl72")
    assert [outward_gb_per_second(rack, level) for level in levels(rack)] == [None, 72 * 50]
