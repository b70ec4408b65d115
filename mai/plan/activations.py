"""What mai's layers keep for the backward pass, with `kernels=auto` and nothing recomputed.

The formulas follow the modules (mai/engine/layers.py, grouped_query_attention.py, latent_attention.py, experts.py) and
what their operations save (mai/kernels); tests/parity/test_activations.py counts the bytes of the running engine.

Not in it: a mask with sinks or a window, which plain attention does not need, and gpt-oss's clamped activation.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from mai.model.shapes import Split
from mai.parallel.stages import Part
from mai.plan.architecture import Architecture, Attention, Experts, Layer, Network
from mai.recipe.parallel import Recomputed

_FP32, _INT64, _BOOL = 4, 8, 1


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
        """Of all its sequences, where tensor ranks work on the same ones."""
        return self.sequences * self.length // self.context

    @property
    def own_tokens(self) -> int:
        """Where no matrix is cut."""
        return self.tokens // self.tensor if self.sequence else self.tokens


def kept_bytes_of_part(
    architecture: Architecture,
    part: Part,
    cut: Cut,
    recompute: Collection[Recomputed] = (),
    *,
    keeps_logits: bool = False,
) -> int:
    """Of one micro-batch that a stage, or a virtual stage, has computed forward. `keeps_logits`: see `_of_loss`."""
    layers = Counter(architecture.layers[number] for number in part.layers)
    kept = sum(times * kept_bytes(architecture, layer, cut, recompute) for layer, times in layers.items())
    # What its last layer gives: the last norm reads it, or Megatron's schedule holds it until its gradient comes back
    # (model_parallel_config.py, deallocate_pipeline_outputs).
    kept += cut.own_tokens * architecture.hidden * cut.element_bytes
    if part.has_embedding and cut.tensor > 1:
        # Which row of its part of the vocabulary each token is, and whether it is there.
        kept += cut.tokens * (_INT64 + _BOOL)
    if part.has_loss:
        kept += _of_loss(architecture, cut, recompute, keeps_logits=keeps_logits)
    return kept


def gather_buffer_bytes(architecture: Architecture, part: Part, cut: Cut) -> int:
    """Of the one buffer of a process that the inputs of matrices are gathered into along the sequence, for all layers
    and micro-batches (tensor_parallel/layers.py, get_global_memory_buffer)."""
    if not cut.sequence:
        return 0
    layers = {architecture.layers[number] for number in part.layers}
    gathered = [
        product.inputs
        for layer in layers
        for product in layer.products()
        if product.split in (Split.ROWS, Split.GATE_AND_UP_ROWS)
    ]
    if part.has_loss and architecture.depths:
        gathered.append(architecture.depth_matrix.inputs)
    return cut.tokens * max(gathered, default=0) * cut.element_bytes


def kept_bytes(architecture: Architecture, layer: Layer, cut: Cut, recompute: Collection[Recomputed] = ()) -> int:
    """Of one layer and micro-batch, its input included, on the context rank that keeps most."""
    network, experts = layer.network, layer.experts
    # The dispatcher holds the rows of each token, kept or not, until its next micro-batch.
    kept = 0 if experts is None else cut.own_tokens * experts.per_token * _INT64
    if "layer" in recompute:
        return kept + cut.own_tokens * architecture.hidden * cut.element_bytes
    kept += _of_residuals(architecture.hidden, layer, cut, recompute) + _of_attention(layer.attention, cut, recompute)
    if network is not None and not _recomputes_network(layer, recompute):
        kept += cut.tokens * _of_network(network) * cut.element_bytes // cut.tensor
    if experts is not None and "experts" not in recompute:
        kept += _of_choice(experts, architecture.hidden, cut) + _of_experts(experts, cut)
    return kept


def _recomputes_network(layer: Layer, recompute: Collection[Recomputed]) -> bool:
    names = {"feed_forward"} if layer.experts is None else {"experts", "shared_experts"}
    return not names.isdisjoint(recompute)


def _of_residuals(hidden: int, layer: Layer, cut: Cut, recompute: Collection[Recomputed]) -> int:
    """The input of both norms, and what each gives to the matrices behind it; a number a token to scale it by."""
    if "norms" in recompute:
        return cut.own_tokens * 2 * hidden * cut.element_bytes
    # A router alone keeps what it gets in fp32, which is not another tensor where all are.
    has_reader = layer.network is not None or cut.element_bytes == _FP32 or "experts" in recompute
    has_reader |= layer.experts is not None and bool(layer.experts.latent_products)
    return cut.own_tokens * ((4 if has_reader else 3) * hidden * cut.element_bytes + 2 * _FP32)


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
    elif attention.num_normed:
        kept += cut.tokens * attention.products[0].outputs * cut.element_bytes // cut.tensor
    return kept


def _of_masks(attention: Attention, cut: Cut) -> int:
    """Which keys a query sees, of queries that do not see all before them: with a window, or because a rank's queries
    are a part of the sequence (mai/engine/context.py), early ones and late ones over the keys before them."""
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
    """No fused kernel gives the gradient of what is added to the logits where heads share keys: torch computes step by
    step, in fp32, keys and values repeated for every head, and keeps the whole square of weights."""
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
    if network.is_clamped:
        # Step by step: both halves, the gate cut off, its sigmoid, their product, the other half plus one.
        return 7 * network.width
    return (3 if network.is_gated else 2) * network.width


def _of_choice(experts: Experts, hidden: int, cut: Cut) -> int:
    """Of the router."""
    # Picked logits and experts; a share of each expert and their sum for the balancing loss.
    of_token = experts.per_token * (_FP32 + _INT64) + (experts.number + 1) * _FP32
    if cut.element_bytes == _FP32:
        return cut.own_tokens * of_token
    # What it computes with: its input and its matrix.
    return cut.own_tokens * (of_token + hidden * _FP32) + experts.number * hidden * _FP32


def _of_experts(experts: Experts, cut: Cut) -> int:
    """Rows that they get and their weights, and what their networks keep."""
    network, latent = experts.network, experts.latent_products
    numbers = _of_network(network)
    if network.is_clamped:
        numbers += network.width  # before it is weighted
    of_row = (network.products[0].inputs + numbers // cut.expert_tensor) * cut.element_bytes + _FP32
    if experts.number > cut.expert and cut.expert * cut.expert_tensor > 1:
        of_row += _INT64  # where it is sorted to, among those that came from other ranks
    # What the sum of a token's experts gives to the matrix back from the latent vector.
    back = latent[1].inputs * cut.element_bytes if latent else 0
    rows = cut.own_tokens * experts.per_token * cut.expert_tensor * cut.imbalance
    return cut.own_tokens * back + int(rows * of_row)


def _of_loss(architecture: Architecture, cut: Cut, recompute: Collection[Recomputed], *, keeps_logits: bool) -> int:
    """Of the last norm, the output layer and the cross entropy of every depth, and of what further depths compute.

    `keeps_logits`: with a loss of one's own or `sharding=full` their gradient is computed in the backward pass;
    otherwise, chunk by chunk, in the forward pass (mai/kernels/linear_cross_entropy.py)."""
    hidden, depths = architecture.hidden * cut.element_bytes, architecture.depths
    if keeps_logits:
        # What the cross entropy overwrites; what output layers and depths read, of which Megatron joins a copy.
        of_logits = cut.tokens * (architecture.vocabulary // cut.tensor) * cut.element_bytes
        kept = (1 + depths) * of_logits + cut.own_tokens * (1 + 2 * depths) * hidden
        if cut.tensor > 1:
            # Targets, and the logarithm of all ranks' sum.
            kept += (1 + depths) * cut.tokens * (_INT64 + _FP32)
    else:
        # The gradient of what output layers read, and what is foreseen for that of each loss; what depths read.
        kept = (1 + depths) * cut.tokens * (hidden + _FP32) + cut.own_tokens * depths * hidden
    kept += (1 + depths) * cut.tokens * _FP32 + cut.own_tokens * _FP32
    return kept + depths * _of_depth(architecture, cut, recompute)


def _of_depth(architecture: Architecture, cut: Cut, recompute: Collection[Recomputed]) -> int:
    """Of one further depth, up to its last norm (mai/engine/multi_token.py)."""
    hidden = architecture.hidden * cut.element_bytes
    # Its tokens and which are still there, and its layer; a recomputed one begins with the embedding of the tokens.
    kept = cut.tokens * (2 * _INT64 + (cut.tensor > 1) * _BOOL)
    kept += kept_bytes(architecture, architecture.layers[-1], cut, recompute)
    if "layer" in recompute:
        return kept
    # What its matrix gives is gathered whole, and its layer's input a view of that.
    kept += (cut.tokens - cut.own_tokens) * hidden
    # The embedding, both halves of what the matrix reads, and what the last norm reads; a number a token of each norm.
    return kept + cut.own_tokens * (4 * hidden + 3 * _FP32)
