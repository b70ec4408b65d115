"""Mistral 7B (arXiv 2310.06825): Llama with a window."""

from typing import Any

from mai.model.families.llama import rules
from mai.model.families.shared_parts import base_config, sizes
from mai.model.hf_config import HfConfig
from mai.recipe import ModelConfig

__all__ = ["SIZES", "config_of", "model_of", "rules"]

SIZES = {
    # Of mistralai/Mistral-7B-v0.1, config.json.
    "7b": ModelConfig(
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=14_336,
        num_heads=32,
        num_kv_heads=8,
        head_size=128,
        vocab_size=32_000,
        window=4096,
    ),
}


DEFAULTS: dict[str, Any] = {
    # Of MistralConfig in transformers.
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 131_072,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "sliding_window": 4096,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    # Its code in transformers reads neither; a file that says something else than it does is another model's.
    config.must_be("attention_bias", [False, None])
    config.must_be("layer_types", [None], because="layers of two kinds are ministral's")
    return ModelConfig(**sizes(config), window=config.optional("sliding_window"))


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **base_config(model, context=context),
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "sliding_window": model.window,
    }
