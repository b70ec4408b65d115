"""Ministral: Mistral whose layers may see all positions or have a window, each as it is told."""

from typing import Any

from mai.model.families.llama import rules
from mai.model.families.shared_parts import base_config, layer_types, layer_types_of, sizes, windows
from mai.model.hf_config import HfConfig
from mai.recipe import ModelConfig

__all__ = ["ALIASES", "DEFAULTS", "SIZES", "config_of", "model_of", "rules"]

SIZES = {
    # Of mistralai/Ministral-8B-Instruct-2410, config.json.
    "8b": ModelConfig(
        num_layers=36,
        hidden_size=4096,
        ffn_hidden_size=12_288,
        num_heads=32,
        num_kv_heads=8,
        head_size=128,
        vocab_size=131_072,
        rotary_base=1e8,
        window=32_768,
        global_layers=tuple(range(0, 36, 4)),
    ),
}

DEFAULTS: dict[str, Any] = {
    # Of MinistralConfig in transformers.
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
    "layer_types": None,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    found, window = sizes(config), config.optional("sliding_window")
    has_window = layer_types(config, [window is not None] * found["num_layers"])
    return ModelConfig(**found, **windows(window, has_window))


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **base_config(model, context=context),
        "model_type": "ministral",
        "architectures": ["MinistralForCausalLM"],
        "sliding_window": model.window,
        "layer_types": layer_types_of(model),
    }
