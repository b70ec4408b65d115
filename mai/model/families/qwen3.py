"""Qwen3 (arXiv 2505.09388): a norm on every head's query and key."""

from typing import Any

from mai.model.families.llama import rules
from mai.model.families.shared_parts import (
    attention_biases,
    base_config,
    sizes,
    upper_windows,
    upper_windows_of,
)
from mai.model.hf_config import HfConfig
from mai.recipe import GroupedQueryAttention, ModelConfig

__all__ = ["SIZES", "config_of", "model_of", "rules"]


def _qwen3(**sizes: Any) -> ModelConfig:
    return ModelConfig(
        **{
            "num_kv_heads": 8,
            "head_size": 128,
            "vocab_size": 151_936,
            "rotary_base": 1e6,
            "norm_epsilon": 1e-6,
            "attention": GroupedQueryAttention(qk_norm=True),
            **sizes,
        }
    )


SIZES = {
    # Of Qwen/Qwen3-*, config.json.
    "0.6b": _qwen3(num_layers=28, hidden_size=1024, ffn_hidden_size=3072, num_heads=16, tied_embeddings=True),
    "8b": _qwen3(num_layers=36, hidden_size=4096, ffn_hidden_size=12_288, num_heads=32),
    "32b": _qwen3(num_layers=64, hidden_size=5120, ffn_hidden_size=25_600, num_heads=64),
}


DEFAULTS: dict[str, Any] = {
    # Of Qwen3Config in transformers.
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 22_016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 32_768,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    found = sizes(config)
    attention = GroupedQueryAttention(qk_norm=True, biases=attention_biases(config))
    return ModelConfig(**found, **upper_windows(config, found["num_layers"]), attention=attention)


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **base_config(model, context=context),
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": model.has_query_biases,
        **upper_windows_of(model),
    }
