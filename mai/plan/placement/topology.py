"""From a rank to its node, slot, rail, leaf and pod: ranks fill the slots of a node, then the next node.

That is how torchrun numbers them, and Slurm under `--distribution=block`, the default where nobody changed it.
"""

from dataclasses import dataclass, field
from math import prod

from mai.hardware.cluster import Cluster, FabricLevel
from mai.plan.published import key

CLUSTER = "cluster"
"""Above every level that a cluster names."""

PLACES = {
    "gpu": "a GPU",
    "scale_up": "an NVLink domain",
    "node": "a node",
    "leaf": "a leaf",
    "pod": "a pod",
}
"""A part of each level, in words."""


@dataclass(frozen=True, slots=True)
class Level:
    """Equal parts of a cluster that ranks fill one after the other."""

    name: str = field(metadata=key("level"))
    """`scale_up`, `node`, `leaf` or `pod`."""
    gpus: int
    """How many GPUs each part has."""


def levels(cluster: Cluster) -> tuple[Level, ...]:
    """The smallest first; of two that are equally large, the one that a scheduler knows by name."""
    node = cluster.gpus_per_node
    found = {cluster.scale_up.gpus: "scale_up", node: "node"}
    # A pod of one leaf is that leaf.
    found = {part.nodes * node: name for name, part in _fabric(cluster)} | found
    return tuple(Level(found[gpus], gpus) for gpus in sorted(found))


def outward_gb_per_second(cluster: Cluster, level: Level) -> float | None:
    """What a part can send out of itself at most, one way: the links of its GPUs, over what its switches hold back.

    None where the part is smaller than the NVLink domain: what leaves it goes over two networks.
    """
    if level.gpus < cluster.scale_up.gpus:
        return None
    inside = [part for _, part in _fabric(cluster) if part.nodes * cluster.gpus_per_node <= level.gpus]
    return level.gpus * cluster.scale_out.gb_per_second / prod(part.oversubscription for part in inside)


def _fabric(cluster: Cluster) -> list[tuple[str, FabricLevel]]:
    return [(name, part) for name, part in (("pod", cluster.pod), ("leaf", cluster.leaf)) if part is not None]
