"""Which ranks lie where: rank r is GPU r % gpus_per_node of node r // gpus_per_node, and stages follow each other."""

from dataclasses import dataclass, field

from mai.hardware.cluster import Cluster
from mai.parallel.layout import Layout
from mai.plan.placement.topology import levels
from mai.plan.published import AMONG_THE_OTHERS


@dataclass(frozen=True, slots=True)
class LevelNodes:
    level: str
    nodes: int
    """How many nodes each of its parts has."""


@dataclass(frozen=True, slots=True)
class LevelParts:
    """Parts of a level in a row."""

    level: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Nodes:
    """In a row."""

    first_node: int
    last_node: int
    parts: list[LevelParts]
    """Which parts these nodes lie in, level by level above the node."""


@dataclass(frozen=True, slots=True)
class StageRanks:
    stage: int
    first_rank: int
    last_rank: int
    nodes: Nodes = field(metadata=AMONG_THE_OTHERS)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankMap:
    """The block `map` of a plan."""

    gpus_per_node: int
    rails: int | None
    nodes: int
    """In use."""
    levels: list[LevelNodes]
    """Those above the node."""
    stages: list[StageRanks]
    """Two neighbouring ones may share a node, a leaf, a pod."""
    spares: Nodes | None


def rank_map(layout: Layout, cluster: Cluster, *, gpus_booked: int) -> RankMap:
    """Where each pipeline stage lies, and the booked nodes behind the last rank."""
    node, ranks = cluster.gpus_per_node, layout.stage_ranks
    above = [level for level in levels(cluster) if level.gpus > node]
    used, booked = -(-layout.world_size // node), gpus_booked // node

    def nodes(first: int, last: int) -> Nodes:
        """Where GPUs in a row lie, from the first to the last."""
        parts = [LevelParts(level.name, first // level.gpus, last // level.gpus) for level in above]
        return Nodes(first // node, last // node, parts)

    return RankMap(
        gpus_per_node=node,
        rails=cluster.scale_out.rails,
        nodes=used,
        levels=[LevelNodes(level.name, level.gpus // node) for level in above],
        stages=[
            StageRanks(stage, first, first + ranks - 1, nodes(first, first + ranks - 1))
            for stage, first in enumerate(range(0, layout.world_size, ranks))
        ],
        spares=nodes(used * node, booked * node - 1) if booked > used else None,
    )
