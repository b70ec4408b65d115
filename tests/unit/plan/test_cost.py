"""Money, energy and carbon follow from what is stated, and are unknown where something is not."""

from dataclasses import replace

import pytest

from mai.data.dataset_manifest import token_type_of
from mai.hardware.cluster import Cluster, Site, load_cluster
from mai.model.shapes import num_parameters
from mai.plan.cost import cost, disk, gpu_watts, token_bytes, with_prices
from tests.unit.recipe.samples import small

H100 = load_cluster("h100")
STATED = with_prices(H100, gpu_hour=2.0, kilowatt_hour=None, carbon_grams=400.0)


def an_hour(cluster: Cluster) -> tuple[float | None, ...]:
    """Of ten GPUs, two of them spares."""
    found = cost(cluster, seconds=3600, gpus_in_use=8, gpus_booked=10)
    return found.gpu_hours, found.money, found.energy_kilowatt_hours, found.carbon_kilograms


def test_an_hour_of_a_node_and_two_spares() -> None:
    assert an_hour(STATED) == pytest.approx((10, 20.0, 6.85, 2.74))


def test_the_building_takes_its_share_where_it_is_known() -> None:
    cluster = replace(STATED, site=Site(power_usage_effectiveness=1.2, carbon_grams_per_kilowatt_hour=400.0))
    assert an_hour(cluster) == pytest.approx((10, 20.0, 1.2 * 6.85, 1.2 * 2.74))


def test_electricity_with_a_price_of_its_own_is_added() -> None:
    cluster = with_prices(H100, gpu_hour=2.0, kilowatt_hour=0.1, carbon_grams=None)
    assert an_hour(cluster)[1] == pytest.approx(20.0 + 0.685)


def test_what_nobody_states_is_unknown() -> None:
    b200 = load_cluster("b200")
    assert gpu_watts(b200) is None
    assert an_hour(b200) == (10, None, None, None)
    priced = with_prices(b200, gpu_hour=3.0, kilowatt_hour=None, carbon_grams=300.0)
    assert an_hour(priced) == (10, 30.0, None, None)
    # A sum of which one part is unknown is unknown.
    assert an_hour(with_prices(priced, gpu_hour=None, kilowatt_hour=0.1, carbon_grams=None))[1] is None


def test_a_measured_node_of_eight_says_nothing_of_another_node() -> None:
    assert gpu_watts(H100) == 6850 / 8
    assert gpu_watts(replace(H100, gpus_per_node=4)) is None


def test_free_electricity_without_carbon_is_known_to_be_nothing() -> None:
    cluster = with_prices(H100, gpu_hour=0.0, kilowatt_hour=0.0, carbon_grams=0.0)
    assert an_hour(cluster) == pytest.approx((10, 0.0, 6.85, 0.0))


def test_what_the_user_states_names_itself_as_the_source() -> None:
    assert STATED.sources["price.gpu_hour"] == "--price"
    assert STATED.sources["site.carbon_grams_per_kilowatt_hour"] == "--carbon"
    assert with_prices(H100, gpu_hour=None, kilowatt_hour=None, carbon_grams=None) == H100


def test_a_checkpoint_is_three_fp32_numbers_a_parameter_and_one_more_is_written_than_kept() -> None:
    recipe = small()
    found = disk(recipe)
    assert found.checkpoint_bytes == 12 * num_parameters(recipe.model)
    assert found.checkpoints_bytes == 3 * found.checkpoint_bytes  # keep=2
    assert found.data_bytes == 20 * 8 * 64 * 2


@pytest.mark.parametrize("vocabulary", [512, 2**16, 2**16 + 1, 200_064])
def test_a_token_takes_what_mais_shards_give_it(vocabulary: int) -> None:
    assert token_bytes(vocabulary) == token_type_of(vocabulary).itemsize
