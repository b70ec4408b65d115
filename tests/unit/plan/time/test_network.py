from dataclasses import replace

import pytest

from mai.hardware.cluster import Cluster, load_cluster
from mai.plan.time.network import Group, crossing_share_of_tokens, exchange_seconds, ring_seconds, send_seconds

LINK_SHARE = 0.82


@pytest.fixture
def cluster() -> Cluster:
    """Eight GPUs a node, 450 GB/s inside and 50 out, without latencies to speak of."""
    h100 = load_cluster("h100")
    return replace(
        h100,
        scale_up=replace(h100.scale_up, latency_microseconds=1e-9),
        scale_out=replace(h100.scale_out, latency_microseconds=1e-9),
    )


def test_a_group_inside_a_node_is_bound_by_nvlink(cluster: Cluster) -> None:
    seconds = ring_seconds(cluster, Group(8), 8e9)
    assert seconds == pytest.approx(7e9 / (450e9 * LINK_SHARE))


def test_a_group_with_one_rank_a_node_is_bound_by_one_adapter(cluster: Cluster) -> None:
    seconds = ring_seconds(cluster, Group(4, stride=8), 8e9)
    assert seconds == pytest.approx(6e9 / (50e9 * LINK_SHARE))


def test_each_rank_of_a_node_adds_its_adapter(cluster: Cluster) -> None:
    two_a_node = ring_seconds(cluster, Group(8, stride=4), 8e9)
    assert two_a_node == pytest.approx(7e9 / (100e9 * LINK_SHARE))


def test_hops_between_nodes_cost_their_latency() -> None:
    h100 = load_cluster("h100")
    near, far = (ring_seconds(h100, Group(nodes, stride=8), 0) for nodes in (2, 64))
    assert far - near == pytest.approx(62 * 14.0e-6)


def test_one_rank_exchanges_nothing(cluster: Cluster) -> None:
    assert ring_seconds(cluster, Group(1), 8e9) == 0
    assert exchange_seconds(cluster, Group(1), 8e9) == 0


def test_an_exchange_between_nodes_is_bound_by_what_leaves_the_node(cluster: Cluster) -> None:
    seconds = exchange_seconds(cluster, Group(32), 32e9)
    assert seconds == pytest.approx(24e9 / (50e9 * LINK_SHARE), rel=1e-6)


def test_a_token_that_crosses_once_to_a_node_sends_less(cluster: Cluster) -> None:
    # Two ranks of one other node on average, of four nodes: 3 * (1 - (3/4)**8) nodes for 6 ranks there.
    share = crossing_share_of_tokens(cluster, Group(32), ranks_per_token=8)
    assert share == pytest.approx(3 * (1 - 0.75**8) / 6)
    assert crossing_share_of_tokens(cluster, Group(8), ranks_per_token=8) == 1


def test_a_send_to_the_same_node_takes_nvlink(cluster: Cluster) -> None:
    assert send_seconds(cluster, 1e9, stride=4) == pytest.approx(1e9 / (450e9 * LINK_SHARE), rel=1e-6)
    assert send_seconds(cluster, 1e9, stride=8) == pytest.approx(1e9 / (50e9 * LINK_SHARE), rel=1e-6)


def test_a_last_node_that_is_not_full_is_a_hop_too(cluster: Cluster) -> None:
    far = replace(cluster, scale_out=replace(cluster.scale_out, latency_microseconds=14.0))
    assert ring_seconds(far, Group(12), 0) == pytest.approx(14e-6, rel=1e-3)
    assert crossing_share_of_tokens(cluster, Group(12), ranks_per_token=1) == 1
    assert crossing_share_of_tokens(cluster, Group(12), ranks_per_token=8) < 1
