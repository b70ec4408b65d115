"""Grace is a step and one and a half saves; what nobody knows of the storage is unknown."""

from dataclasses import replace

import pytest

from mai.hardware.cluster import Storage, load_cluster
from mai.model.shapes import num_parameters
from mai.plan.scheduler.saving import Grace, grace, load_seconds
from mai.plan.setting.of_recipe import setting_of
from mai.plan.setting.setting import Setting
from mai.plan.software import load_software
from mai.recipe import load

RECIPE = load.find("mai1_500b")()


def setting(storage: Storage) -> Setting:
    return setting_of(RECIPE, replace(load_cluster("h100"), storage=storage), load_software("mai"))


def on(storage: Storage) -> Grace:
    return grace(RECIPE, setting(storage), 7.0)


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


def test_a_load_reads_hashes_and_copies_what_a_save_wrote() -> None:
    storage = Storage(write_gb_per_second=200, read_gb_per_second=200, node_read_gb_per_second=1)
    assert load_seconds(RECIPE, setting(storage)) == on(storage).save_seconds
    slower = replace(storage, node_read_gb_per_second=0.1)
    assert load_seconds(RECIPE, setting(slower)) > on(storage).save_seconds
    assert load_seconds(RECIPE, setting(Storage(node_read_gb_per_second=20))) is None


def test_the_largest_shard_is_no_less_than_an_even_share_of_the_checkpoint() -> None:
    even = 12 * num_parameters(RECIPE.model) / 14_976
    assert even <= on(Storage()).copy_seconds * 25e9 < 1.2 * even
