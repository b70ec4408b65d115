"""The groups of each family, and the smallest part of a cluster that holds each of them whole.

Each family here cuts the ranks alike: `ranks` of a group, each `stride` from the next, and as many groups side by side
as fit between two neighbours. So its ranks lie in blocks of ranks * stride, each block filled by its groups.
"""

from collections.abc import Iterator, Mapping

from mai.hardware.cluster import Cluster
from mai.parallel.layout import Layout
from mai.plan.communication.rank_families import AXES
from mai.plan.placement.topology import CLUSTER, Level
from mai.plan.time.network import Group

NAMES = ("tensor", "context", "data", "data_with_context", "pipeline", "expert_tensor", "expert", "expert_data")
"""What a scheduler is told of; the ranks of each lie equally far from each other."""


def families(layout: Layout) -> Mapping[str, Group]:
    """By the names of communication/rank_families.py; those of one rank are left out."""
    has_experts = layout.expert_tensor * layout.expert > 1
    firsts = {
        name: layout.first_alike_but_for(*AXES[name]) for name in NAMES if has_experts or not name.startswith("expert")
    }
    return {name: Group(len(ranks), ranks[1] - ranks[0]) for name, ranks in firsts.items() if len(ranks) > 1}


def block_ranks(group: Group) -> int:
    """Ranks in a row that hold whole groups and nothing else."""
    return group.ranks * group.stride


def members(group: Group, world_size: int) -> Iterator[range]:
    """The ranks of every group of a family."""
    block = block_ranks(group)
    for start in range(0, world_size, block):
        for first in range(start, start + group.stride):
            yield range(first, start + block, group.stride)


def stays_inside(group: Group, gpus: int, world_size: int) -> bool:
    """Whether no group reaches over the border between two parts of so many GPUs: no border cuts a block."""
    return world_size <= gpus or gpus % block_ranks(group) == 0


def level_of(group: Group, levels: tuple[Level, ...], world_size: int) -> str:
    """The smallest level whose parts hold each group whole, where ranks fill the cluster in their order."""
    return next((level.name for level in levels if stays_inside(group, level.gpus, world_size)), CLUSTER)


def most_parts(group: Group, gpus: int, world_size: int) -> int:
    """Parts of so many GPUs over which the most scattered of the groups is spread."""
    if stays_inside(group, gpus, world_size):
        return 1
    if group.stride >= gpus:
        return group.ranks
    return max(len({rank // gpus for rank in ranks}) for ranks in members(group, world_size))


def is_on_one_rail(group: Group, cluster: Cluster) -> bool | None:
    """Whether the ranks of each group hang on the same rail; None where the cluster names no rails."""
    rails = cluster.scale_out.rails
    return None if rails is None else group.stride % rails == 0
