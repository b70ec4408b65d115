"""Every recipe that mai ships can be started as it stands."""

import pytest

from mai.hardware.cluster import load_cluster
from mai.plan.memory.memory import memory
from mai.plan.setting.of_recipe import setting_of
from mai.plan.software import load_software
from mai.recipe import load, rules


@pytest.mark.parametrize("recipe_name", load.names())
def test_a_shipped_recipe_passes_its_own_rules(recipe_name: str) -> None:
    rules.check(load.find(recipe_name)())


WITH_EXPERTS = 1.3
"""Tokens of the busiest expert rank over the mean: a router while it learns."""


@pytest.mark.parametrize("recipe_name", [name for name in load.names() if load.find(name)().parallel.data])
def test_a_recipe_with_a_layout_fits_the_h100s_that_it_is_for(recipe_name: str) -> None:
    recipe = load.find(recipe_name)()
    imbalance = WITH_EXPERTS if recipe.model.experts else 1.0
    setting = setting_of(recipe, load_cluster("h100"), load_software("mai"), imbalance=imbalance)
    largest = memory(setting).largest
    assert memory(setting).fits, f"stage {largest.stage} needs {largest.needed_bytes / 2**30:.1f} GiB"
