"""Model FLOPs of one token for any architecture: what mai/model/flops.py counts for a recipe's model, by the same
convention, and beside it the count with the whole square of attention, which many publications print."""

from collections.abc import Callable

from mai.model.flops import seen_positions
from mai.plan.model.architecture import Architecture, Attention, Layer


def flops_per_token(architecture: Architecture, sequence_length: int) -> int:
    """One token's share of a forward and backward pass, in which a query attends to what it sees."""
    return _flops(architecture, sequence_length, lambda attention: seen_positions(attention.window, sequence_length))


def whole_square_flops_per_token(architecture: Architecture, sequence_length: int) -> int:
    """The same, in which every query attends to every position: 12 * L * H * Q * T for attention (PaLM, arXiv
    2204.02311, appendix B)."""
    return _flops(architecture, sequence_length, lambda _: sequence_length * sequence_length)


def _flops(architecture: Architecture, length: int, seen: Callable[[Attention], int]) -> int:
    """`seen`: positions, summed over all queries of a sequence."""

    def of_layer(layer: Layer) -> int:
        attention = layer.attention
        sizes = attention.heads * (attention.key_size + attention.value_size)
        return 2 * _active_weights(layer) + 2 * sizes * seen(attention) // length

    depths, output, matrix = architecture.depths, architecture.output, architecture.depth_matrix
    forward = sum(number * of_layer(layer) for layer, number in architecture.kinds().items())
    forward += depths * (2 * matrix.num_weights + of_layer(architecture.layers[-1]))
    return 3 * (forward + (1 + depths) * 2 * output.num_weights)


def _active_weights(layer: Layer) -> int:
    """Of the matrices that multiply one token."""
    weights = sum(product.num_weights for product in layer.products())
    if layer.experts is not None:
        of_one = sum(product.num_weights for product in layer.experts.network.products)
        weights += layer.experts.per_token * of_one
    return weights
