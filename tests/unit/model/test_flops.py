from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention, silu
from torch.utils.flop_counter import FlopCounterMode

from mai.model.flops import flops_per_token, forward_flops_per_token, seen_positions
from mai.model.shapes import layer_parameters, num_parameters, parameters
from mai.recipe import LatentAttention, MixtureOfExperts, ModelConfig
from tests.unit.model.published import DEEPSEEK_V3, LLAMA_3_405B

MODEL = ModelConfig(
    num_layers=3,
    hidden_size=96,
    ffn_hidden_size=160,
    num_heads=4,
    num_kv_heads=2,
    head_size=32,
    vocab_size=1000,
)
LATENT = LatentAttention(key_value_rank=24, query_rank=40, rotary_head_size=8, value_head_size=20)
EXPERTS = MixtureOfExperts(
    num_experts=6, experts_per_token=2, ffn_hidden_size=48, shared_ffn_hidden_size=56, num_dense_layers=1
)
LATENT_EXPERTS = replace(MODEL, num_kv_heads=4, attention=LATENT, feed_forward=EXPERTS)
SEQUENCE_LENGTH = 64


def test_it_is_palms_formula_with_half_the_attention() -> None:
    embedding_and_norms = MODEL.vocab_size * MODEL.hidden_size + (2 * MODEL.num_layers + 1) * MODEL.hidden_size
    weights = num_parameters(MODEL) - embedding_and_norms
    attention = 12 * MODEL.num_layers * MODEL.num_heads * MODEL.head_size * SEQUENCE_LENGTH
    assert flops_per_token(MODEL, SEQUENCE_LENGTH) == 6 * weights + attention // 2


def test_torch_counts_the_same_for_the_same_products() -> None:
    """Torch's counter takes attention for the whole square, whatever the mask: twice what mai counts."""
    weights = [each for each in parameters(MODEL) if len(each.shape) > 1 and not each.name.startswith("embedding")]
    heads_BHSD = torch.empty(1, MODEL.num_heads, SEQUENCE_LENGTH, MODEL.head_size)
    with FlopCounterMode(display=False) as products:
        for weight in weights:
            torch.empty(SEQUENCE_LENGTH, weight.shape[1]) @ torch.empty(weight.shape).T
    with FlopCounterMode(display=False) as attention, sdpa_kernel(SDPBackend.MATH):
        scaled_dot_product_attention(heads_BHSD, heads_BHSD, heads_BHSD)
    counted = products.get_total_flops() + MODEL.num_layers * attention.get_total_flops() // 2
    assert SEQUENCE_LENGTH * forward_flops_per_token(MODEL, SEQUENCE_LENGTH) == counted


def test_torch_counts_the_same_for_latent_attention_and_experts_written_out() -> None:
    """Matrices multiply as `mm`, queries with keys and weights with values as `bmm`, over the whole square."""
    model = LATENT_EXPERTS
    x_SE = torch.randn(SEQUENCE_LENGTH, model.hidden_size)
    with FlopCounterMode(display=False) as counter:
        for layer in range(model.num_layers):
            matrices = {
                each.name.removeprefix(f"decoder.layers.{layer}.").removesuffix(".weight"): torch.randn(each.shape)
                for each in layer_parameters(model, layer)
            }
            assert latent_attention(x_SE, matrices).shape == x_SE.shape
            feed_forward = mixture_of_experts(x_SE, matrices) if layer else gated(x_SE, matrices, "mlp")
            assert feed_forward.shape == x_SE.shape
        x_SE @ torch.empty(model.vocab_size, model.hidden_size).T
    counted = counter.get_flop_counts()["Global"]
    assert SEQUENCE_LENGTH * forward_flops_per_token(model, SEQUENCE_LENGTH) == (
        counted[torch.ops.aten.mm] + counted[torch.ops.aten.bmm] // 2
    )


def latent_attention(x_SE: Tensor, matrices: dict[str, Tensor]) -> Tensor:
    """Without norms and rotation, which are no matrix products."""
    weights = {name.removeprefix("self_attention."): matrix for name, matrix in matrices.items()}
    heads, size, rotary = LATENT_EXPERTS.num_heads, LATENT_EXPERTS.head_size, LATENT.rotary_head_size
    query_HSD = by_head(x_SE @ weights["linear_q_down_proj"].T @ weights["linear_q_up_proj"].T)
    latent_SR, rotary_key_SD = (x_SE @ weights["linear_kv_down_proj"].T).split([LATENT.key_value_rank, rotary], dim=1)
    key_HSD, value_HSD = by_head(latent_SR @ weights["linear_kv_up_proj"].T).split(
        [size, LATENT.value_head_size], dim=2
    )
    key_HSD = torch.cat([key_HSD, rotary_key_SD.expand(heads, -1, -1)], dim=2)
    attended_HSD = (query_HSD @ key_HSD.mT).softmax(2) @ value_HSD
    return attended_HSD.transpose(0, 1).flatten(1) @ weights["linear_proj"].T


def by_head(x_SF: Tensor) -> Tensor:
    return x_SF.unflatten(1, (LATENT_EXPERTS.num_heads, -1)).transpose(0, 1)


def mixture_of_experts(x_SE: Tensor, matrices: dict[str, Tensor]) -> Tensor:
    """Without the weights of the picked experts."""
    picked_SK = (x_SE @ matrices["mlp.router"].T).topk(EXPERTS.experts_per_token).indices
    y_SE = gated(x_SE, matrices, "mlp.shared_experts")
    for expert in range(EXPERTS.num_experts):
        tokens = (picked_SK == expert).any(dim=1).nonzero().flatten()
        of_expert = {name: matrix[expert] for name, matrix in matrices.items() if "experts.experts" in name}
        y_SE = y_SE.index_add(0, tokens, gated(x_SE[tokens], of_expert, "mlp.experts.experts"))
    return y_SE


def gated(x_SE: Tensor, matrices: dict[str, Tensor], name: str) -> Tensor:
    gate_SF, up_SF = (x_SE @ matrices[f"{name}.linear_fc1"].T).chunk(2, dim=1)
    return (silu(gate_SF) * up_SF) @ matrices[f"{name}.linear_fc2"].T


@pytest.mark.parametrize("model", [MODEL, LATENT_EXPERTS], ids=["dense", "latent_experts"])
def test_backward_is_twice_forward(model: ModelConfig) -> None:
    assert flops_per_token(model, SEQUENCE_LENGTH) == 3 * forward_flops_per_token(model, SEQUENCE_LENGTH)


def test_only_attention_grows_with_the_sequence() -> None:
    grown = flops_per_token(MODEL, 2 * SEQUENCE_LENGTH) - flops_per_token(MODEL, SEQUENCE_LENGTH)
    assert grown == 6 * MODEL.num_layers * MODEL.num_heads * MODEL.head_size * SEQUENCE_LENGTH
    deeper = replace(MODEL, num_layers=2 * MODEL.num_layers)
    assert flops_per_token(deeper, 2 * SEQUENCE_LENGTH) - flops_per_token(deeper, SEQUENCE_LENGTH) == 2 * grown


def test_a_further_depth_costs_a_layer_a_matrix_and_an_output_layer_once_more() -> None:
    deeper, shorter = (
        forward_flops_per_token(replace(LATENT_EXPERTS, **change), SEQUENCE_LENGTH)
        for change in ({"multi_token_depths": 2}, {"num_layers": LATENT_EXPERTS.num_layers + 2})
    )
    matrices = 2 * MODEL.hidden_size * (2 * MODEL.hidden_size + MODEL.vocab_size)
    assert deeper == shorter + 2 * matrices


def test_idle_experts_cost_their_line_in_the_router_and_no_more() -> None:
    more = replace(LATENT_EXPERTS, feed_forward=replace(EXPERTS, num_experts=2 * EXPERTS.num_experts))
    router = 2 * EXPERTS.num_experts * MODEL.hidden_size
    added = forward_flops_per_token(more, SEQUENCE_LENGTH) - forward_flops_per_token(LATENT_EXPERTS, SEQUENCE_LENGTH)
    assert added == router * (MODEL.num_layers - EXPERTS.num_dense_layers)


def test_published_utilisation_tables_count_the_same() -> None:
    """Megatron-Bridge's performance summary prints FLOP/s and tokens/s of a GPU; their quotient is what it counts.

    Llama 3.1 405B at 8192 tokens, and DeepSeek-V3 at 4096 in bf16 without multi-token prediction, of which it leaves
    the router out.
    """
    assert flops_per_token(LLAMA_3_405B, 8192) == pytest.approx(2646e12 / 1048, rel=5e-4)
    router = 6 * 58 * 256 * DEEPSEEK_V3.hidden_size
    assert flops_per_token(DEEPSEEK_V3, 4096) - router == pytest.approx(961e12 / 3848, rel=5e-4)


@pytest.mark.parametrize("window", [2, 8, 30, 32, None])
def test_a_query_sees_what_is_before_it_in_its_window_and_half_of_itself(window: int | None) -> None:
    length = 32
    width = length if window is None else window
    counted = sum(min(query + 1, width) for query in range(length))
    assert seen_positions(window, length) == counted - width // 2
