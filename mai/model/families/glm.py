"""GLM-4-9B as it came first (arXiv 2406.12793): GLM-4 without norms after attention and network."""

from typing import Any

from mai.model.families import glm4
from mai.model.families.glm4 import attention_of, rules
from mai.model.families.shared_parts import sizes
from mai.model.hf_config import HfConfig
from mai.recipe import GroupedQueryAttention, ModelConfig

__all__ = ["ALIASES", "DEFAULTS", "SIZES", "config_of", "model_of", "rules"]

SIZES = {
    # Of THUDM/glm-4-9b-hf, config.json.
    "4_9b": ModelConfig(
        num_layers=40,
        hidden_size=4096,
        ffn_hidden_size=13_696,
        num_heads=32,
        num_kv_heads=2,
        head_size=128,
        vocab_size=151_552,
        rotary_share=0.5,
        norm_epsilon=1.5625e-07,
        attention=GroupedQueryAttention(biases="queries_keys_values"),
    ),
}

# Of GlmConfig in transformers.
DEFAULTS = glm4.DEFAULTS
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    return ModelConfig(**sizes(config), attention=attention_of(config))


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **glm4.config_of(model, context=context),
        "model_type": "glm",
        "architectures": ["GlmForCausalLM"],
    }
