"""GLM-4 (THUDM/GLM-4-9B-0414 and 32B): half of each head is turned, by neighbours; biases on queries, keys and values;
norms before and after attention and network."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.shared_parts import (
    base_config,
    ends,
    grouped_query_attention,
    joined_network,
    norms,
    ours,
    same,
    sizes,
    theirs,
)
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import Rule
from mai.recipe import GroupedQueryAttention, ModelConfig

SIZES = {
    # Of THUDM/GLM-4-32B-0414, config.json.
    "32b": ModelConfig(
        num_layers=61,
        hidden_size=6144,
        ffn_hidden_size=23_040,
        num_heads=48,
        num_kv_heads=2,
        head_size=128,
        vocab_size=151_552,
        rotary_share=0.5,
        norm_epsilon=1e-5,
        norms="both",
    ),
}

DEFAULTS: dict[str, Any] = {
    # Of Glm4Config in transformers.
    "vocab_size": 151_552,
    "hidden_size": 4096,
    "intermediate_size": 13_696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 131_072,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1.5625e-07,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": True,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    return ModelConfig(**sizes(config), attention=attention_of(config), norms="both")


def attention_of(config: HfConfig) -> GroupedQueryAttention:
    has_biases = config.number("attention_bias", bool)
    return GroupedQueryAttention(biases="queries_keys_values" if has_biases else "none")


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **base_config(model, context=context),
        "model_type": "glm4",
        "architectures": ["Glm4ForCausalLM"],
        "attention_bias": model.has_query_biases,
        "partial_rotary_factor": model.rotary_share,
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    yield from ends(model)
    for layer in range(model.num_layers):
        yield from norms(layer)
        if model.has_output_norms:
            for name in ("post_self_attn_layernorm.weight", "post_mlp_layernorm.weight"):
                yield same(ours(layer, name), theirs(layer, name))
        yield from grouped_query_attention(model, layer, are_neighbours=True)
        yield from joined_network(ours(layer, "mlp"), theirs(layer, "mlp"))
