"""What a rank computes and moves for one micro-batch: matrix products, attention, bytes of memory.

All numbers are of the forward pass of one layer, or of one end of the model, on one rank.
"""

from dataclasses import dataclass

from mai.model.shapes import Split
from mai.plan.activations import Cut
from mai.plan.architecture import Architecture, Attention, Layer, Network, Product


@dataclass(frozen=True, slots=True)
class Multiplication:
    """A matrix product: rows of tokens, and a rank's part of the matrix. `times`: as often as so many matrices."""

    rows: int
    inner: int
    columns: int
    times: int = 1

    @property
    def flops(self) -> float:
        return 2.0 * self.rows * self.inner * self.columns * self.times


@dataclass(frozen=True, slots=True)
class Work:
    """Of a forward pass. The backward pass multiplies each product twice, and attention's 2.5 times."""

    products: tuple[Multiplication, ...]
    grouped: tuple[Multiplication, ...] = ()
    """Products of experts: each of `times` matrices with its own rows."""
    attention_flops: float = 0.0
    """Of queries with keys and weights with values, where a query sees what is before it."""
    forward_bytes: float = 0.0
    backward_bytes: float = 0.0
    """Read and written by the operations between products."""


def of_layer(architecture: Architecture, layer: Layer, cut: Cut) -> Work:
    """Of one layer."""
    hidden = architecture.hidden
    products = [_of_product(product, cut) for product in layer.products()]
    attention = layer.attention
    forward = cut.own_tokens * 8 * hidden
    backward = cut.own_tokens * 8 * hidden
    heads = cut.tokens * _head_numbers(attention) // cut.tensor
    forward += 2 * heads
    backward += 2 * heads
    if layer.network is not None:
        of_network = cut.tokens * _network_numbers(layer.network) // cut.tensor
        forward += of_network
        backward += of_network * 5 // 3
    grouped: list[Multiplication] = []
    experts = layer.experts
    if experts is not None:
        # Rows of all experts of a rank: those of its own tokens, as many as it sends away.
        rows = cut.own_tokens * experts.per_token * cut.expert_tensor
        local = max(1, experts.number // cut.expert)
        for product in experts.network.products:
            one = _of_product(product, cut, ranks=cut.expert_tensor)
            grouped.append(Multiplication(max(1, rows // local), one.inner, one.columns, local))
        width = experts.network.products[0].inputs
        # Permuted and sorted, and back: a reading and a writing each of four times.
        forward += rows * (8 * width // cut.expert_tensor + _network_numbers(experts.network) // cut.expert_tensor)
        backward += rows * (
            8 * width // cut.expert_tensor + _network_numbers(experts.network) * 5 // 3 // cut.expert_tensor
        )
    return Work(
        products=tuple(products),
        grouped=tuple(grouped),
        attention_flops=_attention_flops(attention, cut),
        forward_bytes=float(forward * cut.element_bytes),
        backward_bytes=float(backward * cut.element_bytes),
    )


def of_output(architecture: Architecture, cut: Cut) -> Work:
    """Of the last norm, the output layer and the cross entropy."""
    product = _of_product(architecture.output, cut)
    logits = cut.tokens * product.columns
    return Work(
        products=(product,),
        forward_bytes=float((2 * logits + 2 * cut.own_tokens * architecture.hidden) * cut.element_bytes),
        backward_bytes=float((2 * logits + 3 * cut.own_tokens * architecture.hidden) * cut.element_bytes),
    )


def of_depth(architecture: Architecture, cut: Cut) -> Work:
    """Of one further depth of multi-token prediction, besides its layer, its output layer and its look-up: three norms
    and the matrix that makes one hidden state of two."""
    numbers = cut.own_tokens * architecture.hidden
    return Work(
        products=(_of_product(architecture.depth_matrix, cut),),
        forward_bytes=float(8 * numbers * cut.element_bytes),
        backward_bytes=float(12 * numbers * cut.element_bytes),
    )


def of_embedding(architecture: Architecture, cut: Cut) -> Work:
    """Of the look-up, and of its gradient's sum."""
    numbers = cut.tokens * architecture.hidden
    return Work(
        products=(),
        forward_bytes=float(2 * numbers * cut.element_bytes),
        backward_bytes=float(numbers * (cut.element_bytes + 8)),
    )


def _of_product(product: Product, cut: Cut, *, ranks: int | None = None) -> Multiplication:
    ranks = cut.tensor if ranks is None else ranks
    if product.split is Split.NONE:
        return Multiplication(cut.own_tokens, product.inputs, product.outputs)
    if product.split is Split.COLUMNS:
        return Multiplication(cut.tokens, product.inputs // ranks, product.outputs)
    return Multiplication(cut.tokens, product.inputs, product.outputs // ranks)


def _head_numbers(attention: Attention) -> int:
    """Of a token: queries, keys and values."""
    return attention.heads * attention.key_size + attention.key_heads * (attention.key_size + attention.value_size)


def _network_numbers(network: Network) -> int:
    """Of a token, read and written by the activation."""
    return (3 if network.is_gated else 2) * network.width


def _attention_flops(attention: Attention, cut: Cut) -> float:
    length, window = cut.length, attention.window
    seen = length / 2 if window is None or window >= length else window - window * window / (2 * length)
    return 2.0 * attention.heads // cut.tensor * (attention.key_size + attention.value_size) * seen * cut.tokens
