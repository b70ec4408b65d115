"""Every parameter of the model: its name, its whole shape, how ranks split it, and beside which layer it lives.

The names are mai's own for all layouts, and equal the keys that Megatron-Core's sharded state gives its GPTModel when
layers are counted over all stages.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from mai.recipe import GroupedQueryAttention, LatentAttention, MixtureOfExperts, ModelConfig


class Split(Enum):
    """What one of T tensor ranks holds of a parameter; of an expert's, one of T expert-tensor ranks."""

    NONE = "none"
    """All of it."""
    ROWS = "rows"
    """Every T-th part of the rows: whole heads, or hidden units."""
    GATE_AND_UP_ROWS = "gate_and_up_rows"
    """Its rows of the first half (gate) and of the second half (up)."""
    COLUMNS = "columns"
    """Every T-th part of the columns."""
    VOCABULARY_ROWS = "vocabulary_rows"
    """Its rows of the vocabulary."""


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    shape: tuple[int, ...]
    """Over all ranks; rows are outputs and columns are inputs, as in torch."""
    split: Split
    layer: int
    """Where it lives: the embedding with the first layer, final norm, output layer and further depths with the last."""
    is_expert: bool = False
    """The leading axis counts the layer's experts; expert ranks share them out, each an equal run of neighbours."""

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


_ShapesAndSplits = dict[str, tuple[tuple[int, ...], Split]]


def parameters(model: ModelConfig) -> Iterator[Parameter]:
    """All parameters in the order of the forward pass."""
    yield embedding(model)
    for layer in range(model.num_layers):
        yield from layer_parameters(model, layer)
    yield final_norm(model)
    for depth in range(model.multi_token_depths):
        yield from depth_parameters(model, depth)
    if not model.tied_embeddings:
        yield output_layer(model)


def embedding(model: ModelConfig) -> Parameter:
    vocabulary = (model.vocab_size, model.hidden_size)
    return Parameter("embedding.word_embeddings.weight", vocabulary, Split.VOCABULARY_ROWS, 0)


def final_norm(model: ModelConfig) -> Parameter:
    return Parameter("decoder.final_layernorm.weight", (model.hidden_size,), Split.NONE, model.num_layers - 1)


def output_layer(model: ModelConfig) -> Parameter:
    """Where it is not the embedding itself."""
    vocabulary = (model.vocab_size, model.hidden_size)
    return Parameter("output_layer.weight", vocabulary, Split.VOCABULARY_ROWS, model.num_layers - 1)


def buffers(model: ModelConfig) -> Iterator[Parameter]:
    """What a checkpoint holds beside the parameters, fp32 for every precision: no gradient and no moments move it."""
    experts = model.experts
    if experts is None or experts.bias_update_rate == 0:
        return
    for layer in filter(model.has_experts, range(model.num_layers)):
        name = f"decoder.layers.{layer}.mlp.router.expert_bias"
        yield Parameter(name, (experts.num_experts,), Split.NONE, layer)
    last = model.num_layers - 1
    for depth in range(model.multi_token_depths if model.has_experts(last) else 0):
        name = f"{depth_layer(depth)}.mlp.router.expert_bias"
        yield Parameter(name, (experts.num_experts,), Split.NONE, last)


def depth_parameters(model: ModelConfig, depth: int) -> Iterator[Parameter]:
    """What predicts one token further, counted from 0; its layer is like the model's last."""
    hidden, last, prefix = model.hidden_size, model.num_layers - 1, f"mtp.layers.{depth}"
    yield Parameter(f"{prefix}.enorm.weight", (hidden,), Split.NONE, last)
    yield Parameter(f"{prefix}.hnorm.weight", (hidden,), Split.NONE, last)
    # Its columns: the embedding of the token further on, then the hidden state.
    yield Parameter(f"{prefix}.eh_proj.weight", (hidden, 2 * hidden), Split.ROWS, last)
    yield from _layer_parameters(model, last, prefix=depth_layer(depth))
    yield Parameter(f"{prefix}.final_layernorm.weight", (hidden,), Split.NONE, last)


def depth_layer(depth: int) -> str:
    """The name of its layer."""
    return f"mtp.layers.{depth}.transformer_layer"


def layer_parameters(model: ModelConfig, layer: int) -> Iterator[Parameter]:
    """One layer's parameters; a dense layer's differ from those of a layer of experts."""
    yield from _layer_parameters(model, layer, prefix=f"decoder.layers.{layer}")


def _layer_parameters(model: ModelConfig, layer: int, *, prefix: str) -> Iterator[Parameter]:
    for name, (shape, split) in _for_every_token(model, layer).items():
        yield Parameter(f"{prefix}.{name}", shape, split, layer)
    experts = model.experts
    if experts is not None and model.has_experts(layer):
        # Twice: the module, and what Megatron's SequentialMLP calls its list (mai/engine/experts.py).
        width = experts.latent_size or model.hidden_size
        network = _gated_network("mlp.experts.experts", width, experts.ffn_hidden_size, biases=model.biases)
        for name, (shape, split) in network.items():
            yield Parameter(f"{prefix}.{name}", (experts.num_experts, *shape), split, layer, is_expert=True)


def layer_kinds(model: ModelConfig) -> tuple[tuple[int, int], ...]:
    """One dense layer and one of experts, and how many are like it (perhaps none).

    Layers of a kind hold the same, so what all of them hold needs no walk over them."""
    expert_layers = [layer for layer in range(model.num_layers) if model.has_experts(layer)]
    dense_layers = [layer for layer in range(model.num_layers) if not model.has_experts(layer)]
    return tuple((layers[0], len(layers)) for layers in (dense_layers, expert_layers) if layers)


def num_parameters(model: ModelConfig) -> int:
    """Elements of all parameters."""
    layers = sum(
        num_layers * parameter.num_elements
        for layer, num_layers in layer_kinds(model)
        for parameter in layer_parameters(model, layer)
    )
    further = sum(
        parameter.num_elements
        for depth in range(model.multi_token_depths)
        for parameter in depth_parameters(model, depth)
    )
    return layers + further + _num_outside_layers(model)


def num_active_parameters(model: ModelConfig) -> int:
    """Elements that one token meets when the model speaks: all but the experts that the router did not pick, and
    nothing of further depths.

    The embedding counts, as in Mixtral's 12.9B (arXiv 2401.04088); DeepSeek-V3's 36.6B leave it out, as a lookup.
    """
    layers = sum(
        num_layers * num_active_elements(model, parameter)
        for layer, num_layers in layer_kinds(model)
        for parameter in layer_parameters(model, layer)
    )
    return layers + _num_outside_layers(model)


def num_active_elements(model: ModelConfig, parameter: Parameter) -> int:
    """Elements of one parameter that one token meets."""
    if parameter.is_expert and model.experts is not None:
        return parameter.num_elements // model.experts.num_experts * model.experts.experts_per_token
    return parameter.num_elements


def _num_outside_layers(model: ModelConfig) -> int:
    """Embedding, output layer and final norm."""
    matrices = 1 if model.tied_embeddings else 2
    return (matrices * model.vocab_size + 1) * model.hidden_size


def _for_every_token(model: ModelConfig, layer: int) -> _ShapesAndSplits:
    """What a layer holds besides its experts."""
    hidden, experts, latent = model.hidden_size, model.experts, model.latent_attention
    norm = ((hidden,), Split.NONE)
    attention = _grouped_query_attention(model) if latent is None else _latent_attention(model, latent)
    if experts is None or not model.has_experts(layer):
        feed_forward = _gated_network("mlp", hidden, model.ffn_hidden_size, biases=model.biases)
    else:
        feed_forward = _router_and_shared_expert(model, experts)
    before = [{f"{name}.weight": norm} if model.has_input_norms else {} for name in _INPUT_NORMS]
    after = [{f"{name}.weight": norm} if model.has_output_norms else {} for name in _OUTPUT_NORMS]
    # As Megatron's layer comes to have them: those behind attention and network last (mai/engine/layers.py).
    return {**before[0], **attention, **before[1], **feed_forward, **after[0], **after[1]}


_INPUT_NORMS = ("input_layernorm", "pre_mlp_layernorm")
_OUTPUT_NORMS = ("post_self_attn_layernorm", "post_mlp_layernorm")


def _grouped_query_attention(model: ModelConfig) -> _ShapesAndSplits:
    """The rows of `linear_qkv` go by key-value head: its query heads, then its key, then its value."""
    heads = model.num_heads * model.head_size
    rows = heads + 2 * model.num_kv_heads * model.head_size
    attention = model.attention
    assert isinstance(attention, GroupedQueryAttention)
    found = _linear("linear_qkv", (rows, model.hidden_size), Split.ROWS, biases=model.has_query_biases)
    if attention.qk_norm and attention.norm_over == "all_heads":
        found |= {
            f"{name}_layernorm.weight": ((count * model.head_size,), Split.ROWS)
            for name, count in (("q", model.num_heads), ("k", model.num_kv_heads))
        }
    elif attention.qk_norm:
        found |= {f"{name}_layernorm.weight": ((model.head_size,), Split.NONE) for name in "qk"}
    if attention.sinks:
        found["core_attention.sinks"] = ((model.num_heads,), Split.ROWS)
    found |= _linear("linear_proj", (model.hidden_size, heads), Split.COLUMNS, biases=model.has_output_biases)
    return {f"self_attention.{name}": shape_and_split for name, shape_and_split in found.items()}


def _latent_attention(model: ModelConfig, latent: LatentAttention) -> _ShapesAndSplits:
    """The rows of `linear_kv_down_proj`: the latent vector, then the rotary key.

    The rows of a query projection go by head: its part without position, then the rotary part; those of
    `linear_kv_up_proj` as well: its key, then its value.
    """
    hidden, heads = model.hidden_size, model.num_heads
    queries = heads * (model.head_size + latent.rotary_head_size)
    keys_and_values = heads * (model.head_size + latent.value_head_size)
    if latent.query_rank is None:
        query: _ShapesAndSplits = {"linear_q_proj": ((queries, hidden), Split.ROWS)}
    else:
        query = {
            "linear_q_down_proj": ((latent.query_rank, hidden), Split.NONE),
            "q_layernorm": ((latent.query_rank,), Split.NONE),
            "linear_q_up_proj": ((queries, latent.query_rank), Split.ROWS),
        }
    attention = {
        **query,
        "linear_kv_down_proj": ((latent.key_value_rank + latent.rotary_head_size, hidden), Split.NONE),
        "kv_layernorm": ((latent.key_value_rank,), Split.NONE),
        "linear_kv_up_proj": ((keys_and_values, latent.key_value_rank), Split.ROWS),
        "linear_proj": ((hidden, heads * latent.value_head_size), Split.COLUMNS),
    }
    return {f"self_attention.{name}.weight": shape_and_split for name, shape_and_split in attention.items()}


def _router_and_shared_expert(model: ModelConfig, experts: MixtureOfExperts) -> _ShapesAndSplits:
    found = _linear("mlp.router", (experts.num_experts, model.hidden_size), Split.NONE, biases=model.biases)
    if experts.latent_size is not None:
        found |= _linear("mlp.fc1_latent_proj", (experts.latent_size, model.hidden_size), Split.NONE, biases=False)
        found |= _linear("mlp.fc2_latent_proj", (model.hidden_size, experts.latent_size), Split.NONE, biases=False)
    if experts.shared_ffn_hidden_size == 0:
        return found
    shared = _gated_network("mlp.shared_experts", model.hidden_size, experts.shared_ffn_hidden_size, biases=False)
    gate = {"mlp.shared_experts.gate_weight": ((1, model.hidden_size), Split.NONE)} if experts.shared_gate else {}
    return {**found, **gate, **shared}


def _gated_network(name: str, hidden: int, ffn: int, *, biases: bool) -> _ShapesAndSplits:
    return {
        **_linear(f"{name}.linear_fc1", (2 * ffn, hidden), Split.GATE_AND_UP_ROWS, biases=biases),
        **_linear(f"{name}.linear_fc2", (hidden, ffn), Split.COLUMNS, biases=biases),
    }


def _linear(name: str, shape: tuple[int, int], split: Split, *, biases: bool) -> _ShapesAndSplits:
    """A matrix, and its bias, which is cut where the rows are."""
    found: _ShapesAndSplits = {f"{name}.weight": (shape, split)}
    if biases:
        found[f"{name}.bias"] = ((shape[0],), Split.NONE if split is Split.COLUMNS else split)
    return found
