"""Every recipe that mai ships can be started as it stands."""

import pytest

from mai.hardware.cluster import load_cluster
from mai.plan.memory.memory import memory
from mai.plan.report.ranking import ranked
from mai.plan.setting.of_recipe import setting_of
from mai.plan.software import load_software
from mai.recipe import Recipe, load, rules
from tests.parity.trainer import num_ranks


@pytest.mark.parametrize("recipe_name", load.names())
def test_a_shipped_recipe_passes_its_own_rules(recipe_name: str) -> None:
    rules.check(load.find(recipe_name)())


WITH_A_LAYOUT = [name for name in load.names() if load.find(name)().parallel.data]


def imbalance_of(recipe: Recipe) -> float:
    """Tokens of the busiest expert rank over the mean: a router while it learns."""
    return 1.3 if recipe.model.experts else 1.0


@pytest.mark.parametrize("recipe_name", WITH_A_LAYOUT)
def test_a_recipe_with_a_layout_fits_the_h100s_that_it_is_for(recipe_name: str) -> None:
    recipe = load.find(recipe_name)()
    setting = setting_of(recipe, load_cluster("h100"), load_software("mai"), imbalance=imbalance_of(recipe))
    largest = memory(setting).largest
    assert memory(setting).fits, f"stage {largest.stage} needs {largest.needed_bytes / 2**30:.1f} GiB"


OTHER_REASONS = {
    "llama3_405b": "the layout of its paper",
    "deepseek_v3": "the layout of its paper",
    "quickstart": "shows axes on eight processes of a laptop",
    "dense_every_axis": "has every axis there is",
    "experts_every_axis": "has every axis there is",
    "latent_every_axis": "has every axis there is",
}
"""Recipes whose layout is not chosen for its speed."""
MOST = 1.03
"""Of the best layout's time: what is left for a simpler one, or for one of another pipeline."""


@pytest.mark.parametrize("recipe_name", [name for name in WITH_A_LAYOUT if name not in OTHER_REASONS])
def test_a_recipe_has_a_layout_that_the_search_would_choose_for_as_many_gpus(recipe_name: str) -> None:
    recipe = load.find(recipe_name)()
    h100, mai, gpus = load_cluster("h100"), load_software("mai"), num_ranks(recipe.parallel)
    found = ranked(recipe, h100, mai, gpus=gpus, imbalance=imbalance_of(recipe), number=1)
    assert found.own is not None
    behind = found.own.planned.step_seconds / found.best[0].step_seconds
    assert behind <= MOST, f"{behind:.2f} times as long as with {' '.join(found.best[0].overrides)}"
