from dataclasses import replace

import torch

from mai.model.shapes import Split, num_parameters, parameters
from mai.recipe import ModelConfig

# Llama 3 8B (arXiv 2407.21783, table 3); its parameters are known to the last one.
LLAMA_3_8B = ModelConfig(
    num_layers=32,
    hidden_size=4096,
    ffn_hidden_size=14_336,
    num_heads=32,
    num_kv_heads=8,
    head_size=128,
    vocab_size=128_256,
)


def test_llama_3_8b_has_the_published_number_of_parameters() -> None:
    assert num_parameters(LLAMA_3_8B) == 8_030_261_248


def test_the_closed_form_counts_what_the_list_holds() -> None:
    for num_layers in (1, 2, 7):
        model = replace(LLAMA_3_8B, num_layers=num_layers)
        assert num_parameters(model) == sum(parameter.num_elements for parameter in parameters(model))


def test_names_are_unique_and_layers_counted_over_all_stages() -> None:
    names = [parameter.name for parameter in parameters(LLAMA_3_8B)]
    assert len(set(names)) == len(names) == 3 + 6 * 32
    assert names[0] == "embedding.word_embeddings.weight"
    assert names[-2:] == ["decoder.final_layernorm.weight", "output_layer.weight"]
    assert "decoder.layers.31.self_attention.linear_qkv.weight" in names


def test_every_shape_and_split_of_one_layer() -> None:
    model = replace(LLAMA_3_8B, num_layers=1)
    found = {parameter.name: (parameter.shape, parameter.split) for parameter in parameters(model)}
    assert found == {
        "embedding.word_embeddings.weight": ((128_256, 4096), Split.VOCABULARY_ROWS),
        "decoder.layers.0.input_layernorm.weight": ((4096,), Split.NONE),
        "decoder.layers.0.self_attention.linear_qkv.weight": ((4096 + 2 * 1024, 4096), Split.ROWS),
        "decoder.layers.0.self_attention.linear_proj.weight": ((4096, 4096), Split.COLUMNS),
        "decoder.layers.0.pre_mlp_layernorm.weight": ((4096,), Split.NONE),
        "decoder.layers.0.mlp.linear_fc1.weight": ((2 * 14_336, 4096), Split.GATE_AND_UP_ROWS),
        "decoder.layers.0.mlp.linear_fc2.weight": ((4096, 14_336), Split.COLUMNS),
        "decoder.final_layernorm.weight": ((4096,), Split.NONE),
        "output_layer.weight": ((128_256, 4096), Split.VOCABULARY_ROWS),
    }


def test_parameters_live_beside_their_layer() -> None:
    homes = {parameter.name: parameter.layer for parameter in parameters(LLAMA_3_8B)}
    assert homes["embedding.word_embeddings.weight"] == 0
    assert homes["decoder.layers.5.mlp.linear_fc1.weight"] == 5
    assert homes["output_layer.weight"] == homes["decoder.final_layernorm.weight"] == 31


def test_the_shapes_multiply_like_the_model() -> None:
    """Heads wider than the residual stream, and ungrouped ones: the products of one layer still fit each other."""
    model = replace(LLAMA_3_8B, num_layers=1, hidden_size=96, num_heads=4, num_kv_heads=4, head_size=64)
    weights = {each.name.split(".")[-2]: torch.empty(each.shape, device="meta") for each in parameters(model)}
    x_SE = torch.empty(5, 96, device="meta")
    assert (x_SE @ weights["linear_qkv"].T).shape == (5, 3 * 4 * 64)
    assert (torch.empty(5, 4 * 64, device="meta") @ weights["linear_proj"].T).shape == x_SE.shape
