"""Granite 3 (IBM): Llama with factors on embeddings, on attention's logits, on what is added to the residual stream and
on the logits."""

from typing import Any

from mai.model.families import llama
from mai.model.families.llama import rules
from mai.model.families.shared_parts import base_config
from mai.model.hf_config import HfConfig
from mai.recipe import ModelConfig

__all__ = ["ALIASES", "DEFAULTS", "SIZES", "config_of", "model_of", "rules"]

SIZES = {
    # Of ibm-granite/granite-3.3-8b-base, config.json.
    "3_8b": ModelConfig(
        num_layers=40,
        hidden_size=4096,
        ffn_hidden_size=12_800,
        num_heads=32,
        num_kv_heads=8,
        head_size=128,
        vocab_size=49_152,
        rotary_base=1e7,
        norm_epsilon=1e-5,
        tied_embeddings=True,
        embedding_scale=12.0,
        softmax_scale=0.0078125,
        residual_scale=0.22,
        logit_scale=1 / 16,
    ),
}

DEFAULTS: dict[str, Any] = {
    # Of GraniteConfig in transformers.
    **{key: value for key, value in llama.DEFAULTS.items() if key != "head_dim"},
    "embedding_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    scales: dict[str, Any] = {
        "embedding_scale": config.number("embedding_multiplier", float),
        "softmax_scale": config.number("attention_multiplier", float),
        "residual_scale": config.number("residual_multiplier", float),
        "logit_scale": 1 / (config.number("logits_scaling", float) or 1.0),
    }
    return ModelConfig(**llama.fields(config), **scales)


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **base_config(model, context=context),
        "model_type": "granite",
        "architectures": ["GraniteForCausalLM"],
        "attention_bias": model.has_query_biases,
        "mlp_bias": model.biases,
        "embedding_multiplier": model.embedding_scale,
        "attention_multiplier": model.softmax_scale or model.head_size**-0.5,
        "residual_multiplier": model.residual_scale,
        "logits_scaling": 1 / model.logit_scale,
    }
