"""Floating-point operations of one token by the "model FLOPs" convention, for utilisation.

The convention is PaLM's (arXiv 2204.02311, appendix B): the matrix products that the model's mathematics asks for,
2 operations for each multiply-add, and twice the forward pass for the backward pass; nothing for recomputation, norms,
softmax, rotary positions, or the embedding, which is a lookup. PaLM counts attention over the whole square, 12 * L * H
* Q * T for a token; a causal model needs only the half below the diagonal, and mai counts that half: 6 * L * H * Q * T.
So mai's utilisation is lower than PaLM's for the same speed, the more so the longer the sequence.
"""

from mai.model.shapes import layer_parameters
from mai.recipe import ModelConfig

FLOP_CONVENTION = "model FLOPs: matrix products and half of attention's square, x 3, no recomputation"
"""What the numbers of this module count, for people."""

_OPERATIONS_PER_WEIGHT = 2


def forward_flops_per_token(model: ModelConfig, sequence_length: int) -> int:
    """One token's share of a forward pass over a full sequence."""
    matrices = [parameter for parameter in layer_parameters(model, 0) if len(parameter.shape) > 1]
    weights = sum(parameter.num_elements for parameter in matrices)
    # Queries with keys, and weights with values: two products with every one of the positions before, half on average.
    attention = 2 * _OPERATIONS_PER_WEIGHT * model.num_heads * model.head_size * sequence_length // 2
    output_layer = _OPERATIONS_PER_WEIGHT * model.vocab_size * model.hidden_size
    return model.num_layers * (_OPERATIONS_PER_WEIGHT * weights + attention) + output_layer


def flops_per_token(model: ModelConfig, sequence_length: int) -> int:
    """One token's share of a forward and backward pass; training runs tokens per second times this."""
    return 3 * forward_flops_per_token(model, sequence_length)
