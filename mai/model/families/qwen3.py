"""Qwen3 (arXiv 2505.09388): a norm on every head's query and key."""

from typing import Any

from mai.model.families.llama import rules
from mai.model.families.shared_parts import base_config, sizes
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


def model_of(config: HfConfig) -> ModelConfig:
    config.must_be("attention_bias", [False])
    config.must_be("use_sliding_window", [False])
    return ModelConfig(**sizes(config), attention=GroupedQueryAttention(qk_norm=True))


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **base_config(model, context=context),
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "use_sliding_window": False,
    }
