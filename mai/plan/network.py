"""How long ranks take to exchange bytes: which link a group is bound by, and what each hop costs."""

from dataclasses import dataclass

from mai.plan.hardware import Cluster


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks that exchange something, `stride` ranks apart."""

    ranks: int
    stride: int = 1

    def neighbours_inside(self, domain: int) -> int:
        """How many of its ranks share a domain of so many GPUs."""
        return max(1, min(self.ranks, domain // self.stride))


_RING_SHARE = 0.82
"""Of a link's rate: an H100's 8 GPUs all-reduce at 370 of 450 GB/s (stas00/ml-engineering, network/benchmarks)."""
_LATENCY_MICROSECONDS = 3.4, 14.0
"""Inside and between, where the cluster does not know."""


def ring_seconds(cluster: Cluster, group: Group, num_bytes: float) -> float:
    """An all-gather, or a reduce-scatter, of so many bytes in all: each rank sends all but its own part once.

    An all-reduce is both.
    """
    if group.ranks == 1 or num_bytes == 0:
        return 0.0
    inside = group.neighbours_inside(cluster.scale_up.gpus)
    latency = cluster.scale_up.latency_microseconds or _LATENCY_MICROSECONDS[0]
    rate = cluster.scale_up.gb_per_second
    steps = (group.ranks - 1) * latency
    if inside < group.ranks:
        # Each rank of a node leads a ring of its own out of it, over its own adapter.
        rate = min(rate, cluster.scale_out.gb_per_second * inside)
        between = group.ranks // inside
        # NCCL's trees and rings in parallel: the hops between nodes are as many as nodes.
        steps = (inside - 1) * latency + between * (cluster.scale_out.latency_microseconds or _LATENCY_MICROSECONDS[1])
    sent = num_bytes * (group.ranks - 1) / group.ranks
    return sent / (rate * 1e9 * _RING_SHARE) + steps * 1e-6


def exchange_seconds(cluster: Cluster, group: Group, num_bytes: float) -> float:
    """An all-to-all: each rank holds so many bytes and keeps only its own part of them."""
    if group.ranks == 1 or num_bytes == 0:
        return 0.0
    inside = group.neighbours_inside(cluster.scale_up.gpus)
    away = group.ranks - inside
    over_node = num_bytes * (inside - 1) / group.ranks / (cluster.scale_up.gb_per_second * 1e9 * _RING_SHARE)
    over_network = num_bytes * away / group.ranks / (cluster.scale_out.gb_per_second * 1e9 * _RING_SHARE)
    latency = cluster.scale_out.latency_microseconds or _LATENCY_MICROSECONDS[1] if away else _LATENCY_MICROSECONDS[0]
    return max(over_node, over_network) + 2 * latency * 1e-6


def send_seconds(cluster: Cluster, stride: int, num_bytes: float) -> float:
    """From one rank to the one `stride` further."""
    is_inside = stride < cluster.scale_up.gpus
    rate = cluster.scale_up.gb_per_second if is_inside else cluster.scale_out.gb_per_second
    latency = _LATENCY_MICROSECONDS[0 if is_inside else 1]
    return num_bytes / (rate * 1e9 * _RING_SHARE) + latency * 1e-6
