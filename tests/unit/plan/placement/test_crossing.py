"""What crosses a level is what sending every message one by one gives."""

from collections import Counter

import pytest

from mai.parallel.layout import Layout
from mai.plan.hardware import Cluster, FabricLevel
from mai.plan.placement.crossing import Crossing, Pattern, Sent, crossing
from mai.plan.placement.families import families
from mai.plan.placement.topology import levels, place_of
from tests.unit.plan.placement.test_families import LAYOUTS
from tests.unit.plan.placement.test_topology import cluster

CLUSTERS = [
    cluster(node=4, scale_up=2, leaf=FabricLevel(nodes=2, oversubscription=1)),
    cluster(
        node=2,
        scale_up=6,
        leaf=FabricLevel(nodes=4, oversubscription=1),
        pod=FabricLevel(nodes=8, oversubscription=1),
    ),
]


def messages(ranks: tuple[int, ...], pattern: Pattern) -> list[tuple[int, int, float]]:
    """From, to, and how much of what the sender sends."""
    number = len(ranks)
    if pattern == "ring":
        return [(rank, ranks[(place + 1) % number], 1.0) for place, rank in enumerate(ranks)]
    if pattern == "all_to_all":
        return [(one, other, 1 / (number - 1)) for one in ranks for other in ranks if one != other]
    sent = []
    for place, rank in enumerate(ranks):
        neighbours = [ranks[other] for other in (place - 1, place + 1) if 0 <= other < number]
        sent += [(rank, neighbour, 1 / len(neighbours)) for neighbour in neighbours]
    return sent


@pytest.mark.parametrize("made", CLUSTERS, ids=["parts of a node", "a rack of nodes"])
@pytest.mark.parametrize("pattern", ["ring", "all_to_all", "point_to_point"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_bytes_that_cross_each_level(layout: Layout, pattern: Pattern, made: Cluster) -> None:
    for name in families(layout):
        crossed: Counter[str] = Counter()
        for ranks in getattr(layout, f"{name}_groups"):
            for one, other, share in messages(ranks, pattern):
                own, its = place_of(one, made), place_of(other, made)
                for level in ("scale_up", "node", "leaf", "pod"):
                    crossed[level] += 1000 * share * (getattr(own, level) != getattr(its, level))
        found = crossing(layout, made, [Sent(name, 1000, pattern)])
        assert [one.level for one in found] == [level.name for level in levels(made)]
        for one in found:
            assert one.bytes == pytest.approx(crossed[one.level]), (name, one.level)
            assert one.share == pytest.approx(crossed[one.level] / (1000 * layout.world_size))


def test_a_family_of_single_ranks_sends_nothing() -> None:
    sent = [Sent("tensor", 8, "ring"), Sent("pipeline", 3, "point_to_point")]
    assert crossing(Layout(tensor=1, pipeline=2, data=2), cluster(node=2, scale_up=2), sent) == (
        Crossing("pipeline", "node", 1.0, 12.0),
    )
