"""A rank that holds a whole architecture has the parameters that mai/model/shapes.py lists, or that a paper counts."""

import pytest

from mai.model.shapes import Split, num_parameters
from mai.parallel.stages import all_virtual_stages
from mai.plan.model.architecture import Architecture, Attention, Layer, Network, Product, of_model
from mai.plan.model.weights import held
from mai.recipe import ParallelConfig, load


def num_parameters_of(model: Architecture) -> int:
    return held(model, all_virtual_stages(len(model.layers), ParallelConfig()), tensor=1, expert=1, expert_tensor=1).all


@pytest.mark.parametrize("recipe_name", load.names())
def test_a_recipes_architecture_has_its_parameters(recipe_name: str) -> None:
    model = load.find(recipe_name)().model
    assert num_parameters_of(of_model(model)) == num_parameters(model)


def test_a_gpt_with_biases_has_the_parameters_that_its_paper_counts() -> None:
    # Megatron-LM's GPT of 175 billion (Narayanan et al., arXiv 2104.04473, equation 2): 12 L h^2 (1 + 13 / (12 h) +
    # (V + s) / (12 L h)), whose 13 h of a layer hold the biases and norms.
    layers, hidden, vocabulary, positions = 96, 12288, 51200, 2048
    qkv = Product("linear_qkv", hidden, 3 * hidden, Split.ROWS, has_bias=True)
    out = Product("linear_proj", hidden, hidden, Split.COLUMNS, has_bias=True)
    up = Product("linear_fc1", hidden, 4 * hidden, Split.ROWS, has_bias=True)
    down = Product("linear_fc2", 4 * hidden, hidden, Split.COLUMNS, has_bias=True)
    attention = Attention(heads=96, key_heads=96, key_size=128, value_size=128, products=(qkv, out))
    layer = Layer(attention, Network(4 * hidden, is_gated=False, products=(up, down)))
    gpt = Architecture(
        hidden, vocabulary, (layer,) * layers, is_tied=True, norms_have_bias=True, num_positions=positions
    )
    last_norm = 2 * hidden  # which the paper leaves out
    assert (
        num_parameters_of(gpt) - last_norm
        == 12 * layers * hidden**2 + 13 * layers * hidden + (vocabulary + positions) * hidden
    )
