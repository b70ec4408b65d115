"""Which ranks lie where: rank r is GPU r % gpus_per_node of node r // gpus_per_node, and stages follow each other."""

from typing import Any

from mai.hardware.cluster import Cluster
from mai.parallel.layout import Layout
from mai.plan.placement.topology import levels


def rank_map(layout: Layout, cluster: Cluster, *, gpus_booked: int) -> dict[str, Any]:
    """Of each pipeline stage, and of the booked nodes behind the last rank, as JSON values.

    Two neighbouring stages may share a node, a leaf, a pod.
    """
    node, ranks = cluster.gpus_per_node, layout.stage_ranks
    above = [level for level in levels(cluster) if level.gpus > node]
    used, booked = -(-layout.world_size // node), gpus_booked // node

    def place(first: int, last: int) -> dict[str, Any]:
        """Of so many GPUs in a row."""
        parts = [{"level": level.name, "first": first // level.gpus, "last": last // level.gpus} for level in above]
        return {"first_node": first // node, "last_node": last // node, "parts": parts}

    return {
        "gpus_per_node": node,
        "rails": cluster.scale_out.rails,
        "nodes": used,
        "levels": [{"level": level.name, "nodes": level.gpus // node} for level in above],
        "stages": [
            {"stage": stage, "first_rank": first, "last_rank": first + ranks - 1, **place(first, first + ranks - 1)}
            for stage, first in enumerate(range(0, layout.world_size, ranks))
        ],
        "spares": place(used * node, booked * node - 1) if booked > used else None,
    }
