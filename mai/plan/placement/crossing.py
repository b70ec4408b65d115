"""Which bytes of a step leave a node, a rack with NVLink, a leaf, a pod: those of every rank, family by family."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mai.parallel.layout import Layout
from mai.plan.hardware import Cluster
from mai.plan.placement.families import families, members, stays_inside
from mai.plan.placement.topology import levels
from mai.plan.time.network import Group

Pattern = Literal["ring", "all_to_all", "point_to_point"]
"""How a rank's bytes leave it: all to the next rank of its group, the last one's to the first; an equal part to each of
the others; half each to the ranks before and after, where the ends have one neighbour that gets all."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What each rank of a family sends in a step."""

    family: str
    """A name of `families`."""
    bytes_per_rank: float
    pattern: Pattern


@dataclass(frozen=True, slots=True)
class Crossing:
    """What of it leaves the parts of one level."""

    family: str
    level: str
    """`scale_up`, `node`, `leaf` or `pod`."""
    share: float
    """Of all bytes that the family sends, from 0 to 1."""
    bytes: float
    """Of all ranks, in a step."""


def crossing(layout: Layout, cluster: Cluster, sent: Iterable[Sent]) -> tuple[Crossing, ...]:
    """Of each family at each level that the cluster has, the smallest first; a family of single ranks sends nothing."""
    groups, world_size = families(layout), layout.world_size
    found = []
    for each in sent:
        if each.family not in groups:
            continue
        for level in levels(cluster):
            share = crossing_share(groups[each.family], each.pattern, gpus=level.gpus, world_size=world_size)
            found.append(Crossing(each.family, level.name, share, share * each.bytes_per_rank * world_size))
    return tuple(found)


def crossing_share(group: Group, pattern: Pattern, *, gpus: int, world_size: int) -> float:
    """Of what a family sends, what leaves parts of so many GPUs."""
    if stays_inside(group, gpus, world_size):
        return 0.0
    if group.stride >= gpus:
        return 1.0  # no two ranks of a group lie in the same part
    share = {"ring": _of_ring, "all_to_all": _of_all_to_all, "point_to_point": _of_line}[pattern]
    shares = [share([rank // gpus for rank in ranks]) for ranks in members(group, world_size)]
    return sum(shares) / len(shares)


def _of_ring(parts: list[int]) -> float:
    """Of one group, from the part that each of its ranks lies in."""
    following = parts[1:] + parts[:1]
    return sum(own != other for own, other in zip(parts, following, strict=True)) / len(parts)


def _of_all_to_all(parts: list[int]) -> float:
    ranks = len(parts)
    together = sum(parts.count(part) ** 2 for part in set(parts))
    return (ranks * ranks - together) / (ranks * (ranks - 1))


def _of_line(parts: list[int]) -> float:
    crosses = [own != other for own, other in pairwise(parts)]
    # Inside, a rank sends half each way; an end sends all over the one hop that it has.
    sent = sum(crosses) + (crosses[0] + crosses[-1]) / 2
    return sent / len(parts)
