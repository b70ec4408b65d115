"""How long ranks take to exchange bytes: which link their group is bound by, and what each hop costs."""

from dataclasses import dataclass

from mai.plan.hardware import Cluster

_LINK_SHARE = 0.82
"""Of a link's rate that a collective reaches: eight H100s all-reduce at 370 of 450 GB/s (stas00/ml-engineering at
744d01e, network/benchmarks/README.md)."""

_INSIDE_MICROSECONDS, _BETWEEN_MICROSECONDS = 3.4, 14.0
"""Of a hop, where the cluster does not say: NVIDIA/nccl at 5067397, src/graph/tuning.cc, hwLatencies."""


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks that exchange something, each `stride` ranks from the next."""

    ranks: int
    stride: int = 1

    def inside(self, cluster: Cluster) -> int:
        """How many of them share the network inside a node."""
        return max(1, min(self.ranks, cluster.scale_up.gpus // self.stride))


def ring_seconds(cluster: Cluster, group: Group, num_bytes: float) -> float:
    """An all-gather or a reduce-scatter of so many bytes in all; an all-reduce is both.

    Each rank sends and receives all but its own part. Every rank of a node leads a ring of its own out of it, over its
    own adapter, so a group with more ranks a node leaves it faster.
    """
    if group.ranks == 1:
        return 0.0
    inside, away = group.inside(cluster), group.ranks > group.inside(cluster)
    rate = cluster.scale_up.gb_per_second
    microseconds = (inside - 1) * (cluster.scale_up.latency_microseconds or _INSIDE_MICROSECONDS)
    if away:
        rate = min(rate, cluster.scale_out.gb_per_second * inside)
        hops = group.ranks // inside - 1
        microseconds += hops * (cluster.scale_out.latency_microseconds or _BETWEEN_MICROSECONDS)
    sent = num_bytes * (group.ranks - 1) / group.ranks
    return sent / (rate * 1e9 * _LINK_SHARE) + microseconds * 1e-6


def exchange_seconds(cluster: Cluster, group: Group, num_bytes: float, *, crossing_share: float = 1.0) -> float:
    """An all-to-all: each rank holds so many bytes, an even part for every rank of the group.

    `crossing_share`: of the bytes for other nodes, those that have to cross the network (`crossing_share_of_tokens`).
    """
    if group.ranks == 1:
        return 0.0
    inside = group.inside(cluster)
    for_others = num_bytes * (group.ranks - inside) / group.ranks * crossing_share
    within = num_bytes * (inside - 1) / group.ranks
    up, out = cluster.scale_up, cluster.scale_out
    seconds = max(within / (up.gb_per_second * 1e9), for_others / (out.gb_per_second * 1e9)) / _LINK_SHARE
    microseconds = up.latency_microseconds or _INSIDE_MICROSECONDS
    if for_others:
        microseconds = out.latency_microseconds or _BETWEEN_MICROSECONDS
    return seconds + 2 * microseconds * 1e-6


def crossing_share_of_tokens(cluster: Cluster, group: Group, *, ranks_per_token: int) -> float:
    """Of what tokens send to ranks of other nodes, when a token crosses to each node once, whomever it goes to there.

    Its ranks are drawn evenly: of `nodes` other ones it reaches nodes * (1 - (1 - 1/all)^picks).
    """
    nodes = group.ranks // group.inside(cluster)
    if nodes == 1:
        return 1.0
    reached = (nodes - 1) * (1 - (1 - 1 / nodes) ** ranks_per_token)
    return reached / (ranks_per_token * (nodes - 1) / nodes)


def send_seconds(cluster: Cluster, num_bytes: float, *, stride: int) -> float:
    """From one rank to the one so many further."""
    link, microseconds = cluster.scale_out, cluster.scale_out.latency_microseconds or _BETWEEN_MICROSECONDS
    rate = link.gb_per_second
    if stride < cluster.scale_up.gpus:
        rate, microseconds = (
            cluster.scale_up.gb_per_second,
            cluster.scale_up.latency_microseconds or _INSIDE_MICROSECONDS,
        )
    return num_bytes / (rate * 1e9 * _LINK_SHARE) + microseconds * 1e-6
