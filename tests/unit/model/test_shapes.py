from dataclasses import replace

import pytest
import torch

from mai.model.shapes import Split, buffers, layer_parameters, num_active_parameters, num_parameters, parameters
from mai.recipe import LatentAttention, ModelConfig
from tests.unit.model.published import DEEPSEEK_V2, DEEPSEEK_V3, LLAMA_3_8B, LLAMA_3_405B, MIXTRAL_8X7B


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (LLAMA_3_8B, 8_030_261_248),
        (LLAMA_3_405B, 405_853_388_800),
        (MIXTRAL_8X7B, 46_702_792_704),
        (DEEPSEEK_V2, 235_741_434_880),
    ],
)
def test_published_models_have_the_published_number_of_parameters(model: ModelConfig, published: int) -> None:
    assert num_parameters(model) == published


def test_deepseek_v3_has_the_elements_that_its_checkpoint_holds_beside_multi_token_prediction() -> None:
    assert num_parameters(DEEPSEEK_V3) == 671_026_404_352
    assert num_parameters(DEEPSEEK_V3) + sum(each.num_elements for each in buffers(DEEPSEEK_V3)) == 671_026_419_200


def test_multi_token_prediction_adds_what_the_checkpoint_holds_of_its_own() -> None:
    """685B on Hugging Face, with copies of the embedding and of the output layer (README.md of DeepSeek-V3)."""
    with_it = replace(DEEPSEEK_V3, multi_token_depths=1)
    copies = 2 * DEEPSEEK_V3.vocab_size * DEEPSEEK_V3.hidden_size
    assert (num_parameters(with_it) + copies) / 1e9 == pytest.approx(685, abs=0.6)
    own = num_parameters(with_it) - num_parameters(DEEPSEEK_V3)
    layer = sum(each.num_elements for each in layer_parameters(DEEPSEEK_V3, 60))
    assert own == layer + 2 * 7168 * 7168 + 3 * 7168
    assert num_active_parameters(with_it) == num_active_parameters(DEEPSEEK_V3), "they do not speak"


def test_active_parameters_are_those_that_the_papers_name() -> None:
    assert num_active_parameters(MIXTRAL_8X7B) == 12_879_925_248  # "12.9B"
    assert num_active_parameters(DEEPSEEK_V2) == 21_375_800_320  # "21B"
    assert num_active_parameters(DEEPSEEK_V3) == 37_552_282_624  # "37B"; 36.6B in its README_WEIGHTS.md, as here:
    without_embedding = num_active_parameters(DEEPSEEK_V3) - DEEPSEEK_V3.vocab_size * DEEPSEEK_V3.hidden_size
    assert without_embedding == 36_625_603_584


def test_every_parameter_of_a_dense_model_is_active() -> None:
    assert num_active_parameters(LLAMA_3_405B) == num_parameters(LLAMA_3_405B)


@pytest.mark.parametrize("model", [LLAMA_3_8B, MIXTRAL_8X7B, DEEPSEEK_V3], ids=["dense", "experts", "both"])
@pytest.mark.parametrize("num_layers", [3, 4, 7])
def test_the_closed_form_counts_what_the_list_holds(model: ModelConfig, num_layers: int) -> None:
    """The three dense layers of DeepSeek-V3 alone among them."""
    model = replace(model, num_layers=num_layers, multi_token_depths=num_layers % 3)
    assert num_parameters(model) == sum(parameter.num_elements for parameter in parameters(model))


@pytest.mark.parametrize("model", [LLAMA_3_8B, DEEPSEEK_V3])
def test_names_are_unique_and_layers_counted_over_all_stages(model: ModelConfig) -> None:
    names = [parameter.name for parameter in parameters(model)]
    assert len(set(names)) == len(names)
    assert names[0] == "embedding.word_embeddings.weight"
    assert names[-2:] == ["decoder.final_layernorm.weight", "output_layer.weight"]
    assert f"decoder.layers.{model.num_layers - 1}.self_attention.linear_proj.weight" in names


def test_every_shape_and_split_of_a_dense_model_of_one_layer() -> None:
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


def test_every_shape_and_split_of_a_layer_of_experts_with_latent_attention() -> None:
    found = {each.name: (each.shape, each.split, each.is_expert) for each in layer_parameters(DEEPSEEK_V3, 7)}
    attention, feed_forward = "decoder.layers.7.self_attention", "decoder.layers.7.mlp"
    assert found == {
        "decoder.layers.7.input_layernorm.weight": ((7168,), Split.NONE, False),
        f"{attention}.linear_q_down_proj.weight": ((1536, 7168), Split.NONE, False),
        f"{attention}.q_layernorm.weight": ((1536,), Split.NONE, False),
        f"{attention}.linear_q_up_proj.weight": ((128 * (128 + 64), 1536), Split.ROWS, False),
        f"{attention}.linear_kv_down_proj.weight": ((512 + 64, 7168), Split.NONE, False),
        f"{attention}.kv_layernorm.weight": ((512,), Split.NONE, False),
        f"{attention}.linear_kv_up_proj.weight": ((128 * (128 + 128), 512), Split.ROWS, False),
        f"{attention}.linear_proj.weight": ((7168, 128 * 128), Split.COLUMNS, False),
        "decoder.layers.7.pre_mlp_layernorm.weight": ((7168,), Split.NONE, False),
        f"{feed_forward}.router.weight": ((256, 7168), Split.NONE, False),
        f"{feed_forward}.shared_experts.linear_fc1.weight": ((2 * 2048, 7168), Split.GATE_AND_UP_ROWS, False),
        f"{feed_forward}.shared_experts.linear_fc2.weight": ((7168, 2048), Split.COLUMNS, False),
        f"{feed_forward}.experts.experts.linear_fc1.weight": ((256, 2 * 2048, 7168), Split.GATE_AND_UP_ROWS, True),
        f"{feed_forward}.experts.experts.linear_fc2.weight": ((256, 7168, 2048), Split.COLUMNS, True),
    }


def test_queries_without_a_latent_vector_come_from_the_hidden_state() -> None:
    attention = LatentAttention(key_value_rank=512, rotary_head_size=64, value_head_size=128)
    queries = {
        each.name.removeprefix("decoder.layers.0.self_attention."): each.shape
        for each in layer_parameters(replace(DEEPSEEK_V3, attention=attention), 0)
        if "q_" in each.name
    }
    assert queries == {"linear_q_proj.weight": (128 * (128 + 64), 7168)}


def test_the_first_layers_are_dense_where_the_recipe_says_so() -> None:
    names = {each.name for layer in (2, 3) for each in layer_parameters(DEEPSEEK_V3, layer)}
    assert "decoder.layers.2.mlp.linear_fc1.weight" in names
    assert not {"decoder.layers.2.mlp.router.weight", "decoder.layers.3.mlp.linear_fc1.weight"} & names


def test_the_router_without_a_shared_expert_has_none() -> None:
    assert not [each.name for each in layer_parameters(MIXTRAL_8X7B, 0) if "shared" in each.name]


def test_only_biased_routers_have_a_buffer() -> None:
    biases = list(buffers(DEEPSEEK_V3))
    assert [bias.layer for bias in biases] == list(range(3, 61))
    assert biases[0].name == "decoder.layers.3.mlp.router.expert_bias"
    assert {(bias.shape, bias.split) for bias in biases} == {((256,), Split.NONE)}
    assert not [*buffers(MIXTRAL_8X7B), *buffers(LLAMA_3_8B)]
    (further,) = set(buffers(replace(DEEPSEEK_V3, multi_token_depths=1))) - set(biases)
    assert further.name == "mtp.layers.0.transformer_layer.mlp.router.expert_bias"


def test_parameters_live_beside_their_layer() -> None:
    homes = {parameter.name: parameter.layer for parameter in parameters(MIXTRAL_8X7B)}
    assert homes["embedding.word_embeddings.weight"] == 0
    assert homes["decoder.layers.5.mlp.experts.experts.linear_fc1.weight"] == 5
    assert homes["output_layer.weight"] == homes["decoder.final_layernorm.weight"] == 31


def test_the_shapes_multiply_like_the_model() -> None:
    """Heads wider than the residual stream, and ungrouped ones: the products of one layer still fit each other."""
    model = replace(LLAMA_3_8B, num_layers=1, hidden_size=96, num_heads=4, num_kv_heads=4, head_size=64)
    weights = {each.name.split(".")[-2]: torch.empty(each.shape, device="meta") for each in parameters(model)}
    x_SE = torch.empty(5, 96, device="meta")
    assert (x_SE @ weights["linear_qkv"].T).shape == (5, 3 * 4 * 64)
    assert (torch.empty(5, 4 * 64, device="meta") @ weights["linear_proj"].T).shape == x_SE.shape
