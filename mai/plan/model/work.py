"""What a rank computes and moves for one micro-batch: matrix products, attention, bytes of memory.

Everything here is a forward pass, on one rank, of one module of a layer or of one end of the model. The bytes are those
of fused operations that read each input once and write each output once (docs/decisions/0013); `Pace.traffic` says how
much more a software moves.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from mai.model.shapes import Split
from mai.plan.model.activations import Cut
from mai.plan.model.architecture import Architecture, Attention, Experts, Layer, Network, Product


@dataclass(frozen=True, slots=True)
class Multiplication:
    """A matrix product: rows of tokens, and a rank's part of the matrix."""

    rows: int
    inner: int
    columns: int
    times: int = 1
    """So many matrices, each with its own rows."""
    is_grouped: bool = False
    """The product of experts, which multiplies all their matrices in one launch."""

    @property
    def flops(self) -> float:
        return 2.0 * self.rows * self.inner * self.columns * self.times


@dataclass(frozen=True, slots=True)
class Work:
    """What a forward pass computes and moves. The backward pass multiplies each product twice, and attention's 2.5
    times: its scores are computed again (FlashAttention-2, arXiv 2307.08691, section 3.1.2)."""

    products: tuple[Multiplication, ...] = ()
    attention_flops: float = 0.0
    """Operations of queries times keys and of weights times values, where a query sees only what comes before it."""
    square_flops: float = 0.0
    """The same where every query meets every key of its sequence, as it does behind a mask."""
    scores: int = 0
    """Queries times keys, those ahead too: numbers that an attention which is not fused writes down."""
    is_masked: bool = False
    """A window hides keys, or a sink stands beside them."""
    forward_bytes: int = 0
    backward_bytes: int = 0
    """Read and written between products."""

    @property
    def flops(self) -> float:
        return sum(product.flops for product in self.products) + self.attention_flops


def of_layer(architecture: Architecture, layer: Layer, cut: Cut) -> Mapping[str, Work]:
    """The work of each module, by the name that `parallel.recompute` has for it; `projections` are those around
    attention."""
    attention, experts, network = layer.attention, layer.experts, layer.network
    modules = {
        "norms": _of_norms(architecture.hidden, layer, cut),
        "projections": _of_projections(attention, cut),
        "attention_core": _of_core(attention, cut),
    }
    if network is not None:
        modules["feed_forward" if experts is None else "shared_experts"] = _of_network(network, cut)
    if experts is not None:
        modules["experts"] = _of_experts(experts, cut)
    return modules


def recomputed(modules: Iterable[str], recompute: Collection[str]) -> set[str]:
    """Which of a layer's modules its backward pass computes once more. Experts bring router and shared expert along
    (megatron/core/transformer/moe/moe_layer.py, MoELayer.forward)."""
    if "layer" in recompute:
        return set(modules)
    chosen: set[str] = {*recompute, "shared_experts"} if "experts" in recompute else set(recompute)
    return chosen.intersection(modules)


def of_output(architecture: Architecture, cut: Cut) -> Work:
    """The work of the last norm, the output layer and the cross entropy, which reads the logits and writes their
    gradient."""
    product = _multiplication(architecture.output, cut)
    logits, norm = cut.tokens * product.columns, cut.own_tokens * architecture.hidden
    return Work(
        products=(product,),
        forward_bytes=(2 * logits + 2 * norm) * cut.element_bytes,
        backward_bytes=(2 * logits + 3 * norm) * cut.element_bytes,
    )


def of_depth(architecture: Architecture, cut: Cut) -> Work:
    """The work of one further depth of multi-token prediction, besides its layer, its output layer and its look-up:
    three norms and the matrix that makes one hidden state of two."""
    numbers = cut.own_tokens * architecture.hidden
    return Work(
        products=(_multiplication(architecture.depth_matrix, cut),),
        forward_bytes=10 * numbers * cut.element_bytes,
        backward_bytes=9 * numbers * cut.element_bytes,
    )


def of_embedding(architecture: Architecture, cut: Cut) -> Work:
    """The work of the look-up, and of the sum of its gradient in fp32."""
    numbers = cut.tokens * architecture.hidden
    return Work(
        forward_bytes=2 * numbers * cut.element_bytes,
        backward_bytes=numbers * (cut.element_bytes + 2 * 4),
    )


def _of_norms(hidden: int, layer: Layer, cut: Cut) -> Work:
    """Sums with the norm behind them: two numbers in, two out, and the same with gradients; without that norm one out.
    A norm of what is added, or a factor on it: one in, one out."""
    of_each = 4 if layer.num_input_norms else 3
    of_each += 2 * (layer.num_output_norms > 0) + 2 * layer.scales_outputs
    numbers = 2 * of_each * cut.own_tokens * hidden
    return Work(forward_bytes=numbers * cut.element_bytes, backward_bytes=numbers * cut.element_bytes)


def _of_projections(attention: Attention, cut: Cut) -> Work:
    """With norms inside the attention and positions: queries, keys and values in and out."""
    keys_and_values = attention.key_heads * (attention.key_size + attention.value_size)
    turned = cut.tokens * (attention.heads * attention.key_size + keys_and_values) // cut.tensor
    numbers = 2 * (turned + (cut.own_tokens * attention.num_normed if attention.is_latent else 0))
    return Work(
        products=_multiplications(attention.products, cut),
        forward_bytes=numbers * cut.element_bytes,
        backward_bytes=numbers * cut.element_bytes,
    )


def _of_core(attention: Attention, cut: Cut) -> Work:
    heads, length, window = attention.heads // cut.tensor, cut.length, attention.window
    seen = length / 2 if window is None or window >= length else window - window * window / (2 * length)
    of_score = 2.0 * heads * (attention.key_size + attention.value_size) * cut.tokens
    return Work(
        attention_flops=of_score * seen,
        square_flops=of_score * length,
        scores=heads * cut.tokens * length,
        is_masked=attention.has_sinks or (window is not None and window < length),
    )


def _of_network(network: Network, cut: Cut) -> Work:
    forward, backward = _activation_numbers(network)
    gate = () if network.gate is None else (network.gate,)
    return Work(
        products=_multiplications((*network.products, *gate), cut),
        forward_bytes=cut.tokens * forward // cut.tensor * cut.element_bytes,
        backward_bytes=cut.tokens * backward // cut.tensor * cut.element_bytes,
    )


def _of_experts(experts: Experts, cut: Cut) -> Work:
    """Where tokens are spread evenly: a rank's experts get as many rows as its own tokens send away."""
    rows = cut.own_tokens * experts.per_token * cut.expert_tensor
    local = experts.number // cut.expert
    grouped = tuple(
        Multiplication(max(1, rows // local), *_part(product, cut.expert_tensor), times=local, is_grouped=True)
        for product in experts.network.products
    )
    forward, backward = _activation_numbers(experts.network)
    # Sorted by expert and back again, on the sending and on the receiving rank: read and written four times.
    moved = 8 * cut.own_tokens * experts.per_token * experts.network.products[0].inputs
    return Work(
        products=(*_multiplications((experts.router, *experts.latent_products), cut), *grouped),
        forward_bytes=(moved + rows * forward // cut.expert_tensor) * cut.element_bytes,
        backward_bytes=(moved + rows * backward // cut.expert_tensor) * cut.element_bytes,
    )


def _activation_numbers(network: Network) -> tuple[int, int]:
    """Numbers of a token, read and written: SwiGLU reads gate and up; its backward pass reads their product's gradient
    too, and writes both of theirs."""
    return (3 * network.width, 5 * network.width) if network.is_gated else (2 * network.width, 3 * network.width)


def _multiplications(products: Iterable[Product], cut: Cut) -> tuple[Multiplication, ...]:
    return tuple(_multiplication(product, cut) for product in products)


def _multiplication(product: Product, cut: Cut) -> Multiplication:
    rows = cut.own_tokens if product.split is Split.NONE else cut.tokens
    return Multiplication(rows, *_part(product, cut.tensor))


def _part(product: Product, ranks: int) -> tuple[int, int]:
    """What one of so many ranks has of a matrix: its inputs and outputs."""
    if product.split is Split.NONE:
        return product.inputs, product.outputs
    if product.split is Split.COLUMNS:
        return product.inputs // ranks, product.outputs
    return product.inputs, product.outputs // ranks
