from dataclasses import replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from mai.model.flops import flops_per_token, forward_flops_per_token
from mai.model.shapes import num_parameters, parameters
from mai.recipe import ModelConfig

MODEL = ModelConfig(
    num_layers=3,
    hidden_size=96,
    ffn_hidden_size=160,
    num_heads=4,
    num_kv_heads=2,
    head_size=32,
    vocab_size=1000,
)
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


def test_backward_is_twice_forward() -> None:
    assert flops_per_token(MODEL, SEQUENCE_LENGTH) == 3 * forward_flops_per_token(MODEL, SEQUENCE_LENGTH)


def test_only_attention_grows_with_the_sequence() -> None:
    grown = flops_per_token(MODEL, 2 * SEQUENCE_LENGTH) - flops_per_token(MODEL, SEQUENCE_LENGTH)
    assert grown == 6 * MODEL.num_layers * MODEL.num_heads * MODEL.head_size * SEQUENCE_LENGTH
    deeper = replace(MODEL, num_layers=2 * MODEL.num_layers)
    assert flops_per_token(deeper, 2 * SEQUENCE_LENGTH) - flops_per_token(deeper, SEQUENCE_LENGTH) == 2 * grown
