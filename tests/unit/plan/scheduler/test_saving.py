"""Grace is a step and one and a half saves; what nobody knows of the storage leaves it unknown."""

from dataclasses import replace

import pytest

from mai.model.shapes import num_parameters
from mai.plan.hardware import Storage, load_cluster
from mai.plan.of_recipe import setting_of
from mai.plan.scheduler.saving import Grace, grace
from mai.plan.software import load_software
from mai.recipe import load

RECIPE = load.find("mai1_500b")()


def on(storage: Storage) -> Grace:
    cluster = replace(load_cluster("h100"), storage=storage)
    return grace(RECIPE, setting_of(RECIPE, cluster, load_software("mai")), 7.0)


def test_the_whole_checkpoint_goes_to_the_storage() -> None:
    found = on(Storage(write_gb_per_second=200))
    assert found.write_seconds == pytest.approx(12 * num_parameters(RECIPE.model) / 200e9)
    assert found.save_seconds == pytest.approx(found.copy_seconds + found.hash_seconds + found.write_seconds)
    assert found.seconds == pytest.approx(7.0 + 1.5 * found.save_seconds)


def test_nodes_that_send_less_than_the_storage_takes_set_the_pace() -> None:
    found = on(Storage(write_gb_per_second=5000, node_write_gb_per_second=0.1))
    assert found.write_seconds == pytest.approx(12 * num_parameters(RECIPE.model) / (1872 * 0.1e9))


@pytest.mark.parametrize("storage", [Storage(), Storage(node_write_gb_per_second=20), Storage(read_gb_per_second=100)])
def test_unknown_is_never_0(storage: Storage) -> None:
    found = on(storage)
    assert (found.write_seconds, found.save_seconds, found.seconds) == (None, None, None)


def test_the_largest_shard_is_no_less_than_an_even_share_of_the_checkpoint() -> None:
    even = 12 * num_parameters(RECIPE.model) / 14_976
    assert even <= on(Storage()).copy_seconds * 25e9 < 1.2 * even
