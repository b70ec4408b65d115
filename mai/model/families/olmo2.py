"""OLMo 2 (arXiv 2501.00656): norms behind attention and network instead of before them, and of all heads' queries and
keys."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.shared_parts import (
    attention_biases,
    base_config,
    ends,
    gated_network,
    grouped_query_attention,
    ours,
    same,
    sizes,
    theirs,
)
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import Rule
from mai.recipe import GroupedQueryAttention, ModelConfig

SIZES = {
    # Of allenai/OLMo-2-1124-7B and allenai/OLMo-2-0325-32B, config.json.
    "7b": ModelConfig(
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=11_008,
        num_heads=32,
        num_kv_heads=32,
        head_size=128,
        vocab_size=100_352,
        rotary_base=500_000.0,
        norm_epsilon=1e-6,
        norms="after",
        attention=GroupedQueryAttention(qk_norm=True, norm_over="all_heads"),
    ),
    "32b": ModelConfig(
        num_layers=64,
        hidden_size=5120,
        ffn_hidden_size=27_648,
        num_heads=40,
        num_kv_heads=8,
        head_size=128,
        vocab_size=100_352,
        rotary_base=500_000.0,
        norm_epsilon=1e-6,
        norms="after",
        attention=GroupedQueryAttention(qk_norm=True, norm_over="all_heads"),
    ),
}

DEFAULTS: dict[str, Any] = {
    # Of Olmo2Config in transformers.
    "vocab_size": 50_304,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": False,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    return ModelConfig(**sizes(config), norms="after", attention=attention_of(config))


def attention_of(config: HfConfig) -> GroupedQueryAttention:
    return GroupedQueryAttention(qk_norm=True, norm_over="all_heads", biases=attention_biases(config))


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **base_config(model, context=context),
        "model_type": "olmo2",
        "architectures": ["Olmo2ForCausalLM"],
        "attention_bias": model.has_query_biases,
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    yield from ends(model)
    for layer in range(model.num_layers):
        yield same(ours(layer, "post_self_attn_layernorm.weight"), theirs(layer, "post_attention_layernorm.weight"))
        yield same(ours(layer, "post_mlp_layernorm.weight"), theirs(layer, "post_feedforward_layernorm.weight"))
        yield from grouped_query_attention(model, layer)
        yield from gated_network(ours(layer, "mlp"), theirs(layer, "mlp"))
