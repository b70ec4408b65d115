"""What most families have in common: embedding and norms, grouped-query attention, gated networks, and their config."""

from collections.abc import Iterator, Mapping
from typing import Any

from mai.model.hf_config import HfConfig, rotary_parameters
from mai.model.hf_rules import Rule, Same, Source, Stacked, StackedByHead, Target
from mai.recipe import GroupedQueryAttention, ModelConfig


def sizes(config: HfConfig) -> dict[str, Any]:
    """The fields of ModelConfig that every family's config.json calls the same."""
    config.must_be("hidden_act", ["silu"])
    heads = config.number("num_attention_heads", int)
    hidden = config.number("hidden_size", int)
    return {
        "num_layers": config.number("num_hidden_layers", int),
        "hidden_size": hidden,
        "ffn_hidden_size": config.number("intermediate_size", int),
        "num_heads": heads,
        "num_kv_heads": config.optional("num_key_value_heads") or heads,
        "head_size": config.optional("head_dim") or hidden // max(heads, 1),
        "vocab_size": config.number("vocab_size", int),
        "rotary_base": config.rotary_base(),
        "positions": config.positions(),
        "norm_epsilon": config.number("rms_norm_eps", float, default=1e-6),
        "init_std": config.number("initializer_range", float, default=0.02),
        "tied_embeddings": config.number("tie_word_embeddings", bool, default=False),
    }


def base_config(model: ModelConfig, *, context: int) -> dict[str, Any]:
    """The same the other way."""
    return {
        "hidden_act": "silu",
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_size,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": context,
        "rope_parameters": rotary_parameters(model.rotary_base, model.positions),
        "rms_norm_eps": model.norm_epsilon,
        "initializer_range": model.init_std,
        "tie_word_embeddings": model.tied_embeddings,
        "attention_bias": model.biases,
    }


def ends(model: ModelConfig) -> Iterator[Rule]:
    """Embedding, final norm, output layer."""
    yield same("embedding.word_embeddings.weight", "model.embed_tokens.weight")
    yield same("decoder.final_layernorm.weight", "model.norm.weight")
    if not model.tied_embeddings:
        yield same("output_layer.weight", "lm_head.weight")


def norms(layer: int) -> Iterator[Rule]:
    yield from norms_below(ours(layer, ""), theirs(layer, ""))


def norms_below(our: str, their: str) -> Iterator[Rule]:
    """Rules of the norms of a layer, by what its names begin with."""
    yield same(f"{our}input_layernorm.weight", f"{their}input_layernorm.weight")
    yield same(f"{our}pre_mlp_layernorm.weight", f"{their}post_attention_layernorm.weight")


def grouped_query_attention(model: ModelConfig, layer: int) -> Iterator[Rule]:
    for state in ("weight", "bias") if model.biases else ("weight",):
        query, key, value = (Source(theirs(layer, f"self_attn.{name}_proj.{state}")) for name in "qkv")
        heads = StackedByHead(query, key, value, model.num_kv_heads, model.head_size)
        yield Rule(Target(ours(layer, f"self_attention.linear_qkv.{state}")), heads)
        yield same(ours(layer, f"self_attention.linear_proj.{state}"), theirs(layer, f"self_attn.o_proj.{state}"))
    assert isinstance(model.attention, GroupedQueryAttention)
    if model.attention.qk_norm:
        for name in "qk":
            yield same(
                ours(layer, f"self_attention.{name}_layernorm.weight"), theirs(layer, f"self_attn.{name}_norm.weight")
            )
    if model.attention.sinks:
        yield same(ours(layer, "self_attention.core_attention.sinks"), theirs(layer, "self_attn.sinks"))


def gated_network(
    target: str, source: str, *, expert: int | None = None, names: Mapping[str, str] | None = None
) -> Iterator[Rule]:
    """`names`: what the family calls gate, up and down projection."""
    called = {name: f"{name}_proj" for name in ("gate", "up", "down")} if names is None else names
    gate, up, down = (Source(f"{source}.{called[name]}.weight") for name in ("gate", "up", "down"))
    yield Rule(Target(f"{target}.linear_fc1.weight", expert), Stacked(gate, up))
    yield Rule(Target(f"{target}.linear_fc2.weight", expert), Same(down))


def same(target: str, source: str) -> Rule:
    return Rule(Target(target), Same(Source(source)))


def ours(layer: int, name: str) -> str:
    return f"decoder.layers.{layer}.{name}"


def theirs(layer: int, name: str) -> str:
    return f"model.layers.{layer}.{name}"
