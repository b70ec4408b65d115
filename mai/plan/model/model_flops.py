"""Model FLOPs of one token by the count that many publications print: with the whole square of attention.

mai's own count, with half of the square or what a window leaves of it, is in mai/model/flops.py.
"""

from mai.plan.model.architecture import Architecture, Layer


def whole_square_flops_per_token(architecture: Architecture, sequence_length: int) -> int:
    """FLOPs of a forward and backward pass in which every query attends to every position: 12 * L * H * Q * T for
    attention (PaLM, arXiv 2204.02311, appendix B)."""

    def of_layer(layer: Layer) -> int:
        attention = layer.attention
        square = attention.heads * (attention.key_size + attention.value_size) * sequence_length
        return 2 * (_active_weights(layer) + square)

    depths, output, matrix = architecture.depths, architecture.output, architecture.depth_matrix
    forward = sum(number * of_layer(layer) for layer, number in architecture.kinds().items())
    forward += depths * (2 * matrix.num_weights + of_layer(architecture.layers[-1]))
    return 3 * (forward + (1 + depths) * 2 * output.num_weights)


def _active_weights(layer: Layer) -> int:
    """Weights of the matrices that multiply one token."""
    weights = sum(product.num_weights for product in layer.products())
    if layer.experts is not None:
        of_one = sum(product.num_weights for product in layer.experts.network.products)
        weights += layer.experts.per_token * of_one
    return weights
