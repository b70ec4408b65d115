"""What mai's layers keep for the backward pass, with `kernels=auto` and nothing recomputed.

The formulas follow the modules (mai/engine/layers.py, grouped_query_attention.py, latent_attention.py, experts.py) and
what their operations save (mai/kernels); tests/parity/test_activations.py counts the bytes of the running engine.

Not in it: a mask with sinks or a window, which plain attention does not need, and gpt-oss's clamped activation.
"""

from dataclasses import dataclass

from mai.plan.architecture import Architecture, Attention, Experts, Layer, Network

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

    @property
    def tokens(self) -> int:
        """Of all its sequences, where tensor ranks work on the same ones."""
        return self.sequences * self.length // self.context

    @property
    def own_tokens(self) -> int:
        """Where no matrix is cut."""
        return self.tokens // self.tensor if self.sequence else self.tokens


def kept_bytes(architecture: Architecture, layer: Layer, cut: Cut) -> int:
    """Of one layer and micro-batch, on the context rank that keeps most. Of experts: where their tokens are spread
    evenly."""
    network, experts = layer.network, layer.experts
    kept = _of_residuals(architecture.hidden, layer, cut) + _of_attention(layer.attention, cut)
    if network is not None:
        numbers = _of_network(network)
        kept += cut.tokens * numbers * cut.element_bytes // cut.tensor
    if experts is not None:
        kept += _of_experts(experts, architecture.hidden, cut)
    return kept


def _of_residuals(hidden: int, layer: Layer, cut: Cut) -> int:
    """The input of both norms, and what each gives to the matrices behind it; a number a token to scale it by."""
    # A router alone keeps what it gets in fp32, which is not another tensor where all are.
    has_reader = layer.network is not None or cut.element_bytes == _FP32
    has_reader |= layer.experts is not None and bool(layer.experts.latent_products)
    return cut.own_tokens * ((4 if has_reader else 3) * hidden * cut.element_bytes + 2 * _FP32)


def _of_attention(attention: Attention, cut: Cut) -> int:
    output = attention.heads * attention.value_size
    keys_and_values = attention.key_heads * (attention.key_size + attention.value_size)
    # Queries, the output, which the projection behind it keeps as well, and keys and values of the whole sequence.
    numbers = attention.heads * attention.key_size + output + cut.context * keys_and_values
    kept = cut.tokens * (numbers * cut.element_bytes + attention.heads * _FP32) // cut.tensor
    if cut.context > 1:
        kept += cut.tokens * output * cut.element_bytes // cut.tensor + _of_context(attention, cut)
    if attention.is_latent:
        # Both latent vectors as they come out of their matrix, the rotary key with them, and normed.
        latents = 2 * attention.num_normed + attention.rotary_size
        norms = 2 if attention.has_query_latent else 1
        kept += cut.own_tokens * (latents * cut.element_bytes + norms * _FP32)
    elif attention.num_normed:
        kept += cut.tokens * attention.products[0].outputs * cut.element_bytes // cut.tensor
    return kept


def _of_context(attention: Attention, cut: Cut) -> int:
    """What a rank keeps besides because its queries are a part of the sequence (mai/engine/context.py): masks of its
    early and its late queries over the keys before them, and its part of the tables of positions."""
    parts = 2 * cut.context
    masks = cut.length // parts * (cut.length * (parts + 1) // parts) * cut.element_bytes
    if not attention.turns:
        return masks
    # cos and sin; of latent attention for queries and for the key.
    tables = 4 * attention.rotary_size if attention.is_latent else 2 * attention.key_size
    return masks + cut.length // cut.context * tables * _FP32


def _of_network(network: Network) -> int:
    """Numbers of a token: what the first matrix gives, and the activation."""
    return (3 if network.is_gated else 2) * network.width


def _of_experts(experts: Experts, hidden: int, cut: Cut) -> int:
    own, picked = cut.own_tokens, experts.per_token
    router_input = 0 if cut.element_bytes == _FP32 else hidden * _FP32
    # Picked logits; experts and rows of each; a share of each expert and their sum for the balancing loss.
    choice = picked * (_FP32 + 2 * _INT64) + (experts.number + 1) * _FP32
    network, latent = experts.network, experts.latent_products
    rows = own * picked * cut.expert_tensor
    of_row = (network.products[0].inputs + _of_network(network) // cut.expert_tensor) * cut.element_bytes + _FP32
    # What the sum of a token's experts gives to the matrix back from the latent vector.
    back = latent[1].inputs * cut.element_bytes if latent else 0
    return own * (router_input + choice + back) + rows * of_row
