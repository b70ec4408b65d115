"""With the whole square of attention, a token has the FLOPs that papers print, and more than mai counts."""

from dataclasses import replace

import pytest

from mai.model.flops import flops_per_token
from mai.plan.model.architecture import of_model
from mai.plan.model.model_flops import whole_square_flops_per_token
from mai.recipe import load


@pytest.mark.parametrize("recipe_name", load.names())
def test_a_token_sees_as_much_of_its_square_as_of_half_of_one_twice_as_long(recipe_name: str) -> None:
    recipe = load.find(recipe_name)()
    model, length = replace(recipe.model, window=None), recipe.data.sequence_length
    assert whole_square_flops_per_token(of_model(model), length) == flops_per_token(model, 2 * length)


def test_llama_3_8b_has_the_flops_that_publications_print() -> None:
    # 6 for each weight of 7.504e9 that multiplies, and 12 * 32 layers * 4,096 * 8,192 positions.
    llama = of_model(load.find("llama3_8b")().model)
    weights = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336) + 128_256 * 4096
    assert whole_square_flops_per_token(llama, 8192) == 6 * weights + 12 * 32 * 4096 * 8192


def test_a_window_spares_nothing_of_the_whole_square() -> None:
    model = load.find("mistral_7b")().model
    assert model.window == 4096
    more = whole_square_flops_per_token(of_model(model), 32768) - flops_per_token(model, 32768)
    assert more == 3 * 2 * 32 * 32 * 256 * (32768 - (4096 - 4096**2 / (2 * 32768)))
