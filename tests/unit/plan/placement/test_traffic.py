"""What leaves each part of a cluster is what sending every message of every rank one by one gives."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from mai.hardware.cluster import Cluster, FabricLevel
from mai.parallel.layout import Group, Layout
from mai.plan.communication.of_step import programs
from mai.plan.communication.operation import Operation, Program
from mai.plan.communication.rank_families import families
from mai.plan.placement.topology import Level, levels
from mai.plan.placement.traffic import leaving
from mai.recipe import ParallelConfig, Recipe
from recipes.debug.every_axis import dense_every_axis, experts_every_axis, latent_every_axis
from tests.unit.plan.placement.places import place_of
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
ELEMENT_BYTES = {"bfloat16": 2, "float32": 4, "int32": 4, "float64": 8, "int64": 8}

EVERY_KIND = Layout(tensor=2, context=2, pipeline=3, data=2)


def every_kind(stage: int) -> Program:
    """Of a stage, which has its own sizes where it calls with nobody of another one."""
    size = 60 * (stage + 1)
    return (
        (Operation("all_reduce", "tensor", size, "bfloat16"),),
        (Operation("all_gather", "data_with_context", size, "float32"),),
        (Operation("reduce_scatter", "data_with_context", 4 * size, "float32"),),
        (Operation("all_to_all", "tensor_data_context", 8 * size, "bfloat16"),),
        (Operation("all_reduce", "world", 7, "float64"), Operation("broadcast", "pipeline", 5, "int32", peer=1)),
        (
            Operation("send", "pipeline", size, "bfloat16", peer=(stage + 1) % 3),
            Operation("receive", "pipeline", 99, "bfloat16", peer=(stage - 1) % 3),
        ),
    )


def of_recipe(recipe: Recipe, world_size: int, **axes: Any) -> tuple[Layout, tuple[Program, ...]]:
    parallel = ParallelConfig(data=None, **axes)
    parallel = replace(parallel, data=world_size // parallel.model_ranks)
    layout = Layout.of(parallel, world_size)
    return layout, programs(replace(recipe, parallel=parallel), layout)


STEPS = {
    "every kind": (EVERY_KIND, tuple(map(every_kind, range(3)))),
    "dense": of_recipe(dense_every_axis(), 16, tensor=2, pipeline=2, virtual_stages=2, context=2, sequence=True),
    "experts": of_recipe(experts_every_axis(), 8, tensor=2, sequence=True, expert=2, expert_tensor=2, pipeline=2),
    "hybrid sharding": of_recipe(latent_every_axis(), 16, tensor=2, sharding="full", sharding_ranks=4),
}


def messages(operation: Operation, group: Group, place: int) -> Iterator[tuple[int, Fraction]]:
    """To whom a rank at this place of the group sends, round by round, and how many bytes."""
    ranks, following = len(group), (place + 1) % len(group)
    size = Fraction(operation.elements * ELEMENT_BYTES[operation.dtype])
    rounds = ranks - 1
    match operation.kind:
        case "all_reduce":
            yield from ((group[following], size / ranks) for _ in range(2 * rounds))
        case "reduce_scatter":
            yield from ((group[following], size / ranks) for _ in range(rounds))
        case "all_gather":
            yield from ((group[following], size) for _ in range(rounds))
        case "all_to_all":
            yield from ((other, size / ranks) for other in group if other != group[place])
        case "broadcast" if following != operation.peer:
            yield group[following], size
        case "send":
            assert operation.peer is not None
            yield group[operation.peer], size


def plain(layout: Layout, of_stages: Sequence[Program], made: Cluster, level: str) -> dict[tuple[str, int], float]:
    """By family and part."""
    groups, left = families(layout), defaultdict[tuple[str, int], float](float)
    for rank in range(layout.world_size):
        for operation in [each for together in of_stages[layout.coordinates(rank).pipeline] for each in together]:
            family = groups[operation.group]
            for other, num_bytes in messages(operation, family.group_of(rank), family.place_of[rank]):
                own, its = getattr(place_of(rank, made), level), getattr(place_of(other, made), level)
                if own != its:
                    left[operation.group, own] += num_bytes
    return left


@pytest.mark.parametrize("made", CLUSTERS, ids=["parts of a node", "a rack of nodes"])
@pytest.mark.parametrize("name", STEPS)
def test_bytes_that_leave_every_part_of_every_level(name: str, made: Cluster) -> None:
    layout, of_stages = STEPS[name]
    there = levels(made)
    for level, found in zip(there, leaving(of_stages, layout, there), strict=True):
        expected = plain(layout, of_stages, made, level.name)
        for family, parts in found.items():
            wanted = [float(expected.pop((family, part), 0)) for part in range(len(parts))]
            assert parts == pytest.approx(wanted), (family, level)
        assert not expected, f"{level}: no such family or part"


@pytest.mark.parametrize("name", STEPS)
def test_less_leaves_a_larger_part_and_nothing_the_cluster(name: str) -> None:
    layout, of_stages = STEPS[name]
    found = leaving(of_stages, layout, [Level("", gpus) for gpus in (1, 2, 4, 8, layout.world_size)])
    assert not any(sum(parts) for parts in found[-1].values())
    for family in found[0]:
        sums = [sum(level[family]) for level in found]
        assert sums[0] > 0, family
        # By rounding: the sums are of fractions.
        assert all(larger <= smaller * (1 + 1e-12) for smaller, larger in pairwise(sums)), family
