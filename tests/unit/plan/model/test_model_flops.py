"""The planner counts a recipe's model FLOPs as mai/model/flops.py does, and what others print beside them."""

import pytest

from mai.model import flops
from mai.plan.model.architecture import of_model
from mai.plan.model.model_flops import flops_per_token, whole_square_flops_per_token
from mai.recipe import load


@pytest.mark.parametrize("recipe_name", load.names())
def test_a_recipes_flops_are_those_of_its_model(recipe_name: str) -> None:
    recipe = load.find(recipe_name)()
    length = recipe.data.sequence_length
    assert flops_per_token(of_model(recipe.model), length) == flops.flops_per_token(recipe.model, length)


def test_llama_3_8b_has_the_flops_that_either_convention_prints() -> None:
    # 6 for each weight of 7.504e9 that multiplies, and 12 or 6 * 32 layers * 4,096 * 8,192 positions.
    llama = of_model(load.find("llama3_8b")().model)
    weights = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336) + 128_256 * 4096
    square = 12 * 32 * 4096 * 8192
    assert whole_square_flops_per_token(llama, 8192) == 6 * weights + square
    assert flops_per_token(llama, 8192) == 6 * weights + square // 2


def test_a_window_spares_nothing_of_the_whole_square() -> None:
    mistral = of_model(load.find("mistral_7b")().model)
    assert mistral.layers[0].attention.window == 4096
    more = whole_square_flops_per_token(mistral, 32768) - flops_per_token(mistral, 32768)
    assert more == 3 * 2 * 32 * 32 * 256 * (32768 - (4096 - 4096**2 / (2 * 32768)))
