"""Qwen2 and Qwen2.5 (arXiv 2412.15115): Llama with biases on queries, keys and values."""

from typing import Any

from mai.model.families.llama import rules
from mai.model.families.shared_parts import base_config, sizes, upper_windows, upper_windows_of
from mai.model.hf_config import HfConfig
from mai.recipe import GroupedQueryAttention, ModelConfig

__all__ = ["ALIASES", "DEFAULTS", "SIZES", "config_of", "model_of", "rules"]

_BIASED = GroupedQueryAttention(biases="queries_keys_values")


def _qwen2(**sizes: Any) -> ModelConfig:
    return ModelConfig(**{"head_size": 128, "rotary_base": 1e6, "norm_epsilon": 1e-6, "attention": _BIASED, **sizes})


SIZES = {
    # Of Qwen/Qwen2.5-*, config.json.
    "0.5b": _qwen2(
        num_layers=24,
        hidden_size=896,
        ffn_hidden_size=4864,
        num_heads=14,
        num_kv_heads=2,
        head_size=64,
        vocab_size=151_936,
        tied_embeddings=True,
    ),
    "7b": _qwen2(
        num_layers=28, hidden_size=3584, ffn_hidden_size=18_944, num_heads=28, num_kv_heads=4, vocab_size=152_064
    ),
    "72b": _qwen2(
        num_layers=80,
        hidden_size=8192,
        ffn_hidden_size=29_568,
        num_heads=64,
        num_kv_heads=8,
        vocab_size=152_064,
        norm_epsilon=1e-5,
    ),
}

DEFAULTS: dict[str, Any] = {
    # Of Qwen2Config in transformers.
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 22_016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 32_768,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    found = sizes(config)
    return ModelConfig(**found, **upper_windows(config, found["num_layers"]), attention=_BIASED)


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **base_config(model, context=context),
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        **upper_windows_of(model),
    }
