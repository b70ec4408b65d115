"""The plain version of where ranks lie: one rank at a time."""

from dataclasses import dataclass

from mai.hardware.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Place:
    """Of one rank; numbers count from 0. None where the cluster does not say how large such a part of it is."""

    node: int
    slot: int
    """Its GPU in the node."""
    scale_up: int
    """The network inside a node, a part of it, or a rack of nodes with NVLink."""
    rail: int | None
    leaf: int | None
    pod: int | None


def place_of(rank: int, cluster: Cluster) -> Place:
    """Where a rank lies in a cluster whose nodes are numbered leaf by leaf."""
    node, slot = divmod(rank, cluster.gpus_per_node)
    rails = cluster.scale_out.rails
    return Place(
        node=node,
        slot=slot,
        scale_up=rank // cluster.scale_up.gpus,
        rail=None if rails is None else slot % rails,
        leaf=None if cluster.leaf is None else node // cluster.leaf.nodes,
        pod=None if cluster.pod is None else node // cluster.pod.nodes,
    )
