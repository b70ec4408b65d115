"""Floating-point operations of one token by the "model FLOPs" convention, for utilisation.

The convention is PaLM's (arXiv 2204.02311, appendix B): the matrix products that the model's mathematics asks for,
2 operations for each multiply-add, and twice the forward pass for the backward pass; nothing for recomputation, norms,
softmax, rotary positions, or the embedding, which is a lookup. PaLM counts attention over the whole square, 12 * L * H
* Q * T for a token; a causal model needs only the half below the diagonal, and mai counts that half: 6 * L * H * Q * T.
So mai's utilisation is lower than PaLM's for the same speed, the more so the longer the sequence. With a window counts
what the band holds.

Of a mixture of experts count the router, the picked experts and the shared expert; no idle expert and no padding.
Latent attention counts as it is trained: all its projections, then products with keys of head size + rotary head
size, and with values of value head size. Every depth of multi-token prediction counts its matrix, its layer and the
output layer once more.
"""

from collections.abc import Iterable

from mai.model.shapes import Parameter, depth_parameters, layer_kinds, layer_parameters, num_active_elements
from mai.recipe import ModelConfig

FLOP_CONVENTION = "model FLOPs: matrix products and half of attention's square, x 3, no recomputation"
"""What the numbers of this module count, for people."""

_OPERATIONS_PER_WEIGHT = 2


def forward_flops_per_token(model: ModelConfig, sequence_length: int) -> int:
    """One token's share of a forward pass over a full sequence, in training."""
    depths, last = model.multi_token_depths, model.num_layers - 1
    weights = sum(
        num_layers * _active_weights(model, layer_parameters(model, layer)) for layer, num_layers in layer_kinds(model)
    )
    weights += sum(_active_weights(model, depth_parameters(model, depth)) for depth in range(depths))
    attention = sum(_attention_flops(model, layer, sequence_length) for layer in range(model.num_layers))
    attention += depths * _attention_flops(model, last, sequence_length)
    output_layers = (1 + depths) * _OPERATIONS_PER_WEIGHT * model.vocab_size * model.hidden_size
    return _OPERATIONS_PER_WEIGHT * weights + attention + output_layers


def flops_per_token(model: ModelConfig, sequence_length: int) -> int:
    """One token's share of a forward and backward pass; training runs tokens per second times this."""
    return 3 * forward_flops_per_token(model, sequence_length)


def _active_weights(model: ModelConfig, parameters: Iterable[Parameter]) -> int:
    """Elements of the matrices among these that multiply one token."""
    # Of experts, the first dim counts them: two are the biases.
    matrices = [parameter for parameter in parameters if len(parameter.shape) - parameter.is_expert > 1]
    return sum(num_active_elements(model, parameter) for parameter in matrices)


def _attention_flops(model: ModelConfig, layer: int, sequence_length: int) -> int:
    """One layer's queries with keys, and weights with values, of the positions that a query sees on average."""
    latent = model.latent_attention
    key_size = model.head_size if latent is None else model.head_size + latent.rotary_head_size
    value_size = model.head_size if latent is None else latent.value_head_size
    seen_in_all = seen_positions(model.window_of(layer), sequence_length)
    return _OPERATIONS_PER_WEIGHT * model.num_heads * (key_size + value_size) * seen_in_all // sequence_length


def seen_positions(window: int | None, length: int) -> int:
    """Summed over all queries of a sequence: half of the square, and of a band below the diagonal what is inside it."""
    if window is None or window >= length:
        return length * length // 2
    return window * length - window * window // 2
