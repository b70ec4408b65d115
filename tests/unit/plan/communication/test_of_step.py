"""Steps of recipes: all that mai ships are proved, and what nobody knows is refused. That the programs are what the
engine calls, tests/parity/test_programs_equal_engine.py holds."""

from dataclasses import replace

import pytest

from mai.errors import PlanError
from mai.model.shapes import parameters
from mai.parallel.layout import Layout
from mai.plan.communication.of_step import programs
from mai.plan.communication.rank_families import families
from mai.plan.proof.proof import prove
from mai.recipe import Recipe, load
from recipes.debug.every_axis import dense_every_axis
from tests.corpus import changed


def layout_of(recipe: Recipe) -> Layout:
    assert recipe.parallel.data is not None
    return Layout.of(recipe.parallel, recipe.parallel.model_ranks * recipe.parallel.data)


@pytest.mark.slow
@pytest.mark.parametrize("recipe_name", [name for name in load.names() if load.find(name)().parallel.data])
def test_a_shipped_recipe_is_proved(recipe_name: str) -> None:
    recipe = load.find(recipe_name)()
    layout = layout_of(recipe)
    of_stages = programs(recipe, layout)
    assert prove(families(layout), lambda rank: of_stages[layout.coordinates(rank).pipeline]).findings == ()


def test_the_calls_of_a_layer_of_ones_own_are_not_guessed() -> None:
    recipe = changed(dense_every_axis(), model={"layer": "mine.py:layer"})
    with pytest.raises(PlanError, match=r"model\.layer=mine\.py:layer: .*use model\.layer=none"):
        programs(recipe, layout_of(recipe))


def test_further_depths_on_context_ranks_are_refused() -> None:
    recipe = changed(dense_every_axis(), model={"multi_token_depths": 2})
    with pytest.raises(
        PlanError, match=r"multi_token_depths=2, parallel\.context=2: .*use parallel\.context=1, or model"
    ):
        programs(recipe, layout_of(recipe))


def test_every_rank_gathers_and_sums_each_weight_once_a_step() -> None:
    """One stage, one bucket: what is gathered is what the rank holds of all weights."""
    recipe = dense_every_axis()
    parallel = replace(
        recipe.parallel, tensor=1, sequence=False, context=1, pipeline=1, virtual_stages=1, stages="even"
    )
    recipe = replace(recipe, parallel=replace(parallel, sharding_ranks=None))
    (program,) = programs(recipe, layout_of(recipe))
    calls = [call for together in program for call in together]
    gathered = sum(2 * call.elements for call in calls if call.kind == "all_gather")
    summed = sum(call.elements for call in calls if call.kind == "reduce_scatter")
    assert gathered == summed
    padding = gathered - sum(parameter.num_elements for parameter in parameters(recipe.model))
    assert 0 <= padding < 128
