"""Seed-OSS: Llama with biases on queries, keys and values."""

from typing import Any

from mai.model.families.llama import rules
from mai.model.families.shared_parts import base_config, sizes
from mai.model.hf_config import HfConfig
from mai.recipe import GroupedQueryAttention, ModelConfig

__all__ = ["ALIASES", "DEFAULTS", "SIZES", "config_of", "model_of", "rules"]

SIZES = {
    # Of ByteDance-Seed/Seed-OSS-36B-Base, config.json.
    "36b": ModelConfig(
        num_layers=64,
        hidden_size=5120,
        ffn_hidden_size=27_648,
        num_heads=80,
        num_kv_heads=8,
        head_size=128,
        vocab_size=155_136,
        rotary_base=1e7,
        norm_epsilon=1e-6,
        attention=GroupedQueryAttention(biases="queries_keys_values"),
    ),
}

DEFAULTS: dict[str, Any] = {
    # Of SeedOssConfig in transformers.
    "vocab_size": 155_136,
    "hidden_size": 4096,
    "intermediate_size": 27_648,
    "num_hidden_layers": 64,
    "num_attention_heads": 80,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 524_288,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": True,
    "attention_out_bias": False,
    "attention_dropout": 0.1,
    "residual_dropout": 0.1,
    "mlp_bias": False,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    found = sizes(config)
    inputs = config.number("attention_bias", bool)
    output = config.must_be("attention_out_bias", [False, True] if inputs else [False], because="without the others")
    everywhere = config.must_be("mlp_bias", [False, True] if output else [False], because="in the network alone")
    if everywhere:
        return ModelConfig(**found, biases=True)
    if not inputs:
        return ModelConfig(**found)
    return ModelConfig(**found, attention=GroupedQueryAttention(biases="all" if output else "queries_keys_values"))


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **base_config(model, context=context),
        "model_type": "seed_oss",
        "architectures": ["SeedOssForCausalLM"],
        "attention_bias": model.has_query_biases,
        "attention_out_bias": model.has_output_biases,
        "mlp_bias": model.biases,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
    }
