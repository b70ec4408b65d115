"""Which ranks lie where, as runs: ranks in a row that share a pipeline stage and every part larger than a node.

Over all of them, rank r is GPU r % gpus_per_node of node r // gpus_per_node.
"""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from mai.parallel.layout import Layout
from mai.plan.hardware import Cluster
from mai.plan.placement.topology import levels, place_of


@dataclass(frozen=True, slots=True)
class Nodes:
    """In a row, inside one part of every level above them; None is a level that the cluster does not state."""

    first_node: int
    last_node: int
    scale_up: int | None
    """The NVLink domain, where several nodes share one."""
    leaf: int | None
    pod: int | None


@dataclass(frozen=True, slots=True)
class Run:
    """Ranks in a row of one stage; its first and last node may hold ranks of the runs beside it."""

    stage: int
    first_rank: int
    last_rank: int
    first_data: int
    last_data: int
    """Data ranks; those of two neighbouring runs are the same where a border cuts through one."""
    nodes: Nodes


def rank_map(layout: Layout, cluster: Cluster, *, gpus_booked: int) -> dict[str, Any]:
    """All runs and, behind them, the booked nodes that hold no rank, as JSON values."""
    gpus_per_node = cluster.gpus_per_node
    used = -(-layout.world_size // gpus_per_node)
    spare = range(used * gpus_per_node, gpus_booked // gpus_per_node * gpus_per_node)
    return {
        "gpus_per_node": gpus_per_node,
        "nodes": used,
        "runs": [_flat(run) for run in runs(layout, cluster)],
        "spares": [asdict(_nodes(each, cluster)) for each in _cut(spare, _sizes(cluster))],
    }


def runs(layout: Layout, cluster: Cluster) -> Iterator[Run]:
    """In the order of the ranks, none left out."""
    for ranks in _cut(range(layout.world_size), [layout.stage_ranks, *_sizes(cluster)]):
        first, last = layout.coordinates(ranks[0]), layout.coordinates(ranks[-1])
        yield Run(first.pipeline, ranks[0], ranks[-1], first.data, last.data, _nodes(ranks, cluster))


def _sizes(cluster: Cluster) -> list[int]:
    """GPUs of what is larger than a node."""
    return [level.gpus for level in levels(cluster) if level.gpus > cluster.gpus_per_node]


def _cut(ranks: range, sizes: Collection[int]) -> Iterator[range]:
    """At every multiple of every size."""
    borders = {border for size in sizes for border in range(0, ranks.stop, size) if border in ranks}
    starts = sorted({*ranks[:1], *borders})
    yield from (range(start, stop) for start, stop in pairwise([*starts, ranks.stop]))


def _nodes(ranks: range, cluster: Cluster) -> Nodes:
    first, last = place_of(ranks[0], cluster), place_of(ranks[-1], cluster)
    is_above_node = cluster.scale_up.gpus > cluster.gpus_per_node
    return Nodes(first.node, last.node, first.scale_up if is_above_node else None, first.leaf, first.pod)


def _flat(run: Run) -> dict[str, Any]:
    values = asdict(run)
    nodes = values.pop("nodes")
    return {**values, **nodes}
