"""What mai's layers keep for the backward pass, with `kernels=auto`, recomputed or not.

The formulas follow the modules (mai/engine/layers.py, grouped_query_attention.py, latent_attention.py, experts.py) and
what their operations save (mai/kernels); tests/parity/test_plan_equals_engine.py counts the bytes of the running engine
on a CPU. What a kernel of a GPU keeps differently is said where it is counted.

Left out, less than a thousandth of real sizes: counts of each expert's tokens, and the balancing loss's own numbers,
which are counted as if its scores were sigmoids.
"""

from collections.abc import Collection
from dataclasses import dataclass

from mai.plan.model.architecture import Architecture, Attention, Experts, Layer, Network
from mai.recipe.parallel import Recomputed

_FP32, _INT64 = 4, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """A rank's part of a micro-batch."""

    sequences: int
    length: int
    """Tokens of a whole sequence."""
    element_bytes: int
    context: int = 1
    tensor: int = 1
    sequence: bool = False
    """Tensor ranks also share out norms and residuals along the sequence."""
    expert: int = 1
    expert_tensor: int = 1
    imbalance: float = 1.0
    """Rows of the expert rank that gets most, over the mean."""

    @property
    def tokens(self) -> int:
        """Those of all its sequences, where tensor ranks work on the same ones."""
        return self.sequences * self.length // self.context

    @property
    def own_tokens(self) -> int:
        """Where no matrix is cut."""
        return self.tokens // self.tensor if self.sequence else self.tokens


def kept_bytes(architecture: Architecture, layer: Layer, cut: Cut, recompute: Collection[Recomputed] = ()) -> int:
    """Bytes that one layer keeps of a micro-batch, its input included, on the context rank that keeps most."""
    network, experts = layer.network, layer.experts
    # The dispatcher holds the rows of each token, kept or not, until its next micro-batch.
    kept = 0 if experts is None else cut.own_tokens * experts.per_token * _INT64
    if "layer" in recompute:
        return kept + cut.own_tokens * architecture.hidden * cut.element_bytes
    kept += _of_residuals(architecture.hidden, layer, cut, recompute) + _of_attention(layer.attention, cut, recompute)
    if architecture.has_zero_centred_norms:
        kept += _norm_factor_bytes(architecture, layer, cut, recompute)
    if network is not None and not _recomputes_network(layer, recompute):
        kept += cut.tokens * _of_network(network) * cut.element_bytes // cut.tensor
        if network.gate is not None:
            # What the network gives, and the share that it is multiplied with.
            kept += cut.own_tokens * (architecture.hidden + 1) * cut.element_bytes
    if experts is not None and "experts" not in recompute:
        kept += router_copy_bytes(experts, cut) + _of_choice(experts, cut) + _of_experts(experts, cut)
    return kept


def _norm_factor_bytes(architecture: Architecture, layer: Layer, cut: Cut, recompute: Collection[Recomputed]) -> int:
    """What norms multiply with, where that is not their weights; of those that are not computed once more."""
    norms = layer.num_output_norms + (0 if "norms" in recompute else layer.num_input_norms)
    of_heads = layer.attention.num_norm_parameters_on(cut.tensor)
    return (norms * architecture.num_norm_parameters + of_heads) * cut.element_bytes


def _recomputes_network(layer: Layer, recompute: Collection[Recomputed]) -> bool:
    names = {"feed_forward"} if layer.experts is None else {"experts", "shared_experts"}
    return not names.isdisjoint(recompute)


def _of_residuals(hidden: int, layer: Layer, cut: Cut, recompute: Collection[Recomputed]) -> int:
    """The input of both norms, and what each gives to the matrices behind it; a number a token to scale it by. Norms
    of what attention and network give keep that, and such a number."""
    outputs = layer.num_output_norms * (hidden * cut.element_bytes + _FP32)
    if "norms" in recompute or not layer.num_input_norms:
        return cut.own_tokens * (2 * hidden * cut.element_bytes + outputs)
    # A router alone keeps what it gets in fp32, which is not another tensor where all are.
    has_reader = layer.network is not None or cut.element_bytes == _FP32 or "experts" in recompute
    has_reader |= layer.experts is not None and bool(layer.experts.latent_products)
    return cut.own_tokens * ((4 if has_reader else 3) * hidden * cut.element_bytes + 2 * _FP32 + outputs)


def _of_attention(attention: Attention, cut: Cut, recompute: Collection[Recomputed]) -> int:
    # Queries, keys, values, and the output, which the projection behind it keeps as well.
    output = attention.heads * attention.value_size
    keys_and_values = attention.key_heads * (attention.key_size + attention.value_size)
    numbers = attention.heads * attention.key_size + keys_and_values + output
    if "attention_core" in recompute:
        kept = cut.tokens * numbers * cut.element_bytes // cut.tensor
    elif attention.has_sinks:
        kept = cut.tokens * output * cut.element_bytes // cut.tensor + _of_sinks(attention, cut)
    else:
        kept = cut.tokens * (numbers * cut.element_bytes + attention.heads * _FP32) // cut.tensor
        kept += _of_masks(attention, cut)
        if cut.context > 1:
            # Keys and values of the whole sequence, and the outputs of early and late queries joined.
            others = (cut.context - 1) * keys_and_values
            kept += cut.tokens * (others + output) * cut.element_bytes // cut.tensor
    if cut.context > 1 and attention.turns:
        kept += _of_tables(attention, cut)
    if attention.is_latent:
        # Both latent vectors as they come out of their matrix, the rotary key with them, and normed.
        latents = 2 * attention.num_normed + attention.rotary_size
        norms = 2 if attention.has_query_latent else 1
        kept += cut.own_tokens * (latents * cut.element_bytes + norms * _FP32)
    elif attention.norms_all_heads:
        # Step by step, in fp32: what is normed, and normed without its weight; a number a token for queries and one for
        # keys; the weights, where those are copies.
        kept += cut.tokens * (2 * attention.num_normed * _FP32 // cut.tensor + 2 * _FP32)
        kept += (cut.element_bytes != _FP32) * attention.num_norm_parameters_on(cut.tensor) * _FP32
    elif attention.num_normed:
        kept += cut.tokens * attention.products[0].outputs * cut.element_bytes // cut.tensor
    return kept


def _of_masks(attention: Attention, cut: Cut) -> int:
    """Which keys a query sees, of queries that do not see all before them: with a window, or because a rank's queries
    are a part of the sequence (mai/engine/context_attention.py), early ones and late ones over the keys before them."""
    if cut.context == 1:
        has_mask = attention.window is not None and attention.window < cut.length
        return has_mask * cut.length * cut.length * cut.element_bytes
    parts = 2 * cut.context
    return cut.length // parts * (cut.length * (parts + 1) // parts) * cut.element_bytes


def _of_tables(attention: Attention, cut: Cut) -> int:
    """cos and sin of the positions that a context rank has; of latent attention for queries and for the key."""
    tables = 4 if attention.is_latent else 2
    return cut.length // cut.context * tables * attention.turned_size * _FP32


def _of_sinks(attention: Attention, cut: Cut) -> int:
    """They are added to the logits, which fused kernels give no gradient of: torch computes step by step, in fp32, keys
    and values repeated for every head, and keeps the whole square of weights.

    Of a GPU's kernels the memory-efficient one may take it, if it lets heads share keys (torch, sdp_utils.cpp,
    can_use_mem_efficient_attention); it keeps the square in the compute format instead, and this is then too much."""
    heads = attention.heads // cut.tensor
    of_query = heads * attention.key_size
    of_key = heads * (attention.key_size + attention.value_size)
    if cut.context == 1:
        squares, keys = cut.length * (cut.length + 1), cut.length + 1
    else:
        parts = 2 * cut.context
        keys = cut.length * (parts + 1) // parts + 2
        squares = cut.length // parts * keys
    return (cut.tokens * of_query + cut.sequences * (keys * of_key + squares * heads)) * _FP32


def _of_network(network: Network) -> int:
    """Numbers of a token: what the first matrix gives, and the activation."""
    if network.activation == "clamped_swiglu":
        # Step by step: both halves, the gate cut off, its sigmoid, their product, the other half plus one.
        return 7 * network.width
    if network.activation == "geglu":
        # Step by step: both halves, the gate's gelu, their product.
        return 4 * network.width
    return (3 if network.is_gated else 2) * network.width


def router_copy_bytes(experts: Experts, cut: Cut) -> int:
    """The router's input and its matrix once more, in fp32: mai's router computes in it."""
    if cut.element_bytes == _FP32:
        return 0
    return (cut.own_tokens + experts.number) * experts.router.inputs * _FP32


def _of_choice(experts: Experts, cut: Cut) -> int:
    """Bytes that the router keeps besides its copies: picked logits and experts; a share of each expert and their sum
    for the balancing loss."""
    scores = experts.number * _FP32 if experts.keeps_scores else experts.per_token * _FP32
    return cut.own_tokens * (scores + experts.per_token * _INT64 + (experts.number + 1) * _FP32)


def _of_experts(experts: Experts, cut: Cut) -> int:
    """Rows that they get and their weights, and what their networks keep."""
    network, latent = experts.network, experts.latent_products
    numbers = _of_network(network)
    if network.activation != "swiglu":
        numbers += network.width  # before it is weighted
    of_row = (network.products[0].inputs + numbers // cut.expert_tensor) * cut.element_bytes + _FP32
    if experts.number > cut.expert and cut.expert * cut.expert_tensor > 1:
        of_row += _INT64  # where it is sorted to, among those that came from other ranks
    # What the sum of a token's experts gives to the matrix back from the latent vector.
    back = latent[1].inputs * cut.element_bytes if latent else 0
    rows = cut.own_tokens * experts.per_token * cut.expert_tensor * cut.imbalance
    return cut.own_tokens * back + int(rows * of_row)
