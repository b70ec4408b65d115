"""How long ranks take to exchange bytes: which link their group is bound by, and what each hop costs."""

from dataclasses import dataclass

from mai.hardware.cluster import Cluster
from mai.plan.setting.setting import Setting

_LINK_SHARE = 0.82
"""What a collective reaches of a link's rate: eight H100s all-reduce at 370 of 450 GB/s (stas00/ml-engineering at
744d01e, network/benchmarks/README.md)."""

_UP_MICROSECONDS, _OUT_MICROSECONDS = 3.4, 14.0
"""A hop up and a hop out, where the cluster does not say: NVIDIA/nccl at 5067397, src/graph/tuning.cc, hwLatencies."""


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks that exchange something, each `stride` ranks from the next."""

    ranks: int
    stride: int = 1

    def inside(self, cluster: Cluster) -> int:
        """How many of them share the network inside a node."""
        return max(1, min(self.ranks, cluster.scale_up.gpus // self.stride))

    def nodes(self, cluster: Cluster) -> int:
        """How many such networks they are spread over; the last may hold fewer of them."""
        return -(-self.ranks // self.inside(cluster))


def sharing_groups(setting: Setting) -> tuple[Group, Group]:
    """Ranks that share out one copy of the dense weights, and of the experts."""
    parallel, (shards, expert_shards) = setting.parallel, setting.shards
    return Group(shards, parallel.tensor), Group(expert_shards, parallel.expert * parallel.expert_tensor)


def between_copies_seconds(setting: Setting, sharing: Group, num_bytes: float) -> float:
    """Copies that hybrid sharding keeps equal sum their shards of so many bytes once more: an all-reduce."""
    copies = Group(setting.layout.sharding_copies, sharing.stride * sharing.ranks)
    return 2 * ring_seconds(setting.cluster, copies, num_bytes / sharing.ranks)


def ring_seconds(cluster: Cluster, group: Group, num_bytes: float) -> float:
    """An all-gather or a reduce-scatter of so many bytes in all; an all-reduce is both.

    Each rank sends and receives all but its own part. Every rank of a node leads a ring of its own out of it, over its
    own adapter, so a group with more ranks a node leaves it faster.
    """
    if group.ranks == 1:
        return 0.0
    inside, nodes = group.inside(cluster), group.nodes(cluster)
    rate = cluster.scale_up.gb_per_second
    if nodes > 1:
        rate = min(rate, cluster.scale_out.gb_per_second * inside)
    sent = num_bytes * (group.ranks - 1) / group.ranks
    hops = (inside - 1) * _up_hop_seconds(cluster) + (nodes - 1) * _out_hop_seconds(cluster)
    return sent / _bytes_per_second(rate) + hops


def exchange_seconds(cluster: Cluster, group: Group, num_bytes: float, *, crossing_share: float = 1.0) -> float:
    """An all-to-all: each rank holds so many bytes, an even part for every rank of the group.

    `crossing_share`: of the bytes for other nodes, those that have to cross the network (`crossing_share_of_tokens`).
    """
    if group.ranks == 1:
        return 0.0
    inside = group.inside(cluster)
    for_others = num_bytes * (group.ranks - inside) / group.ranks * crossing_share
    within = num_bytes * (inside - 1) / group.ranks
    seconds = max(
        within / _bytes_per_second(cluster.scale_up.gb_per_second),
        for_others / _bytes_per_second(cluster.scale_out.gb_per_second),
    )
    # Assumed: one hop to hear how many tokens come, one for the tokens.
    return seconds + 2 * (_out_hop_seconds(cluster) if for_others else _up_hop_seconds(cluster))


def crossing_share_of_tokens(cluster: Cluster, group: Group, *, ranks_per_token: int) -> float:
    """The share of what tokens send to ranks of other nodes that crosses to them, when a token crosses to each node
    once, whomever it goes to there.

    Its ranks are drawn evenly: of `nodes` other ones it reaches nodes * (1 - (1 - 1/all)^picks).
    """
    nodes = group.nodes(cluster)
    if nodes == 1:
        return 1.0
    reached = (nodes - 1) * (1 - (1 - 1 / nodes) ** ranks_per_token)
    return reached / (ranks_per_token * (nodes - 1) / nodes)


def send_seconds(cluster: Cluster, num_bytes: float, *, stride: int) -> float:
    """From one rank to the one so many further."""
    if stride < cluster.scale_up.gpus:
        return num_bytes / _bytes_per_second(cluster.scale_up.gb_per_second) + _up_hop_seconds(cluster)
    return num_bytes / _bytes_per_second(cluster.scale_out.gb_per_second) + _out_hop_seconds(cluster)


def _bytes_per_second(gb_per_second: float) -> float:
    """That a collective reaches of a link's rate."""
    return gb_per_second * 1e9 * _LINK_SHARE


def _up_hop_seconds(cluster: Cluster) -> float:
    return (cluster.scale_up.latency_microseconds or _UP_MICROSECONDS) * 1e-6


def _out_hop_seconds(cluster: Cluster) -> float:
    return (cluster.scale_out.latency_microseconds or _OUT_MICROSECONDS) * 1e-6
