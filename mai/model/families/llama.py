"""Llama 3 (arXiv 2407.21783), and what has its shape, such as SmolLM2."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.shared_parts import (
    attention_biases,
    base_config,
    ends,
    gated_network,
    grouped_query_attention,
    norms,
    ours,
    sizes,
    theirs,
)
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import Rule
from mai.recipe import GroupedQueryAttention, Llama3Positions, ModelConfig


def _llama3(**sizes: Any) -> ModelConfig:
    return ModelConfig(
        **{
            "num_kv_heads": 8,
            "head_size": 128,
            "vocab_size": 128_256,
            "rotary_base": 500_000.0,
            "positions": Llama3Positions(factor=8.0),
            **sizes,
        }
    )


SIZES = {
    # Of meta-llama/Llama-3.1-*, config.json.
    "8b": _llama3(num_layers=32, hidden_size=4096, ffn_hidden_size=14_336, num_heads=32),
    "70b": _llama3(num_layers=80, hidden_size=8192, ffn_hidden_size=28_672, num_heads=64),
    "405b": _llama3(num_layers=126, hidden_size=16_384, ffn_hidden_size=53_248, num_heads=128),
}


DEFAULTS: dict[str, Any] = {
    # Of LlamaConfig in transformers.
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    return ModelConfig(**fields(config))


def fields(config: HfConfig) -> dict[str, Any]:
    """Those of ModelConfig; for other families too, whose config.json has these keys and more."""
    found, biases = sizes(config), attention_biases(config)
    if config.must_be("mlp_bias", [False] if biases == "none" else [False, True], because="in the network alone"):
        return {**found, "biases": True}
    return {**found, "attention": GroupedQueryAttention(biases=biases)}


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **base_config(model, context=context),
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": model.has_query_biases,
        "mlp_bias": model.biases,
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    yield from ends(model)
    for layer in range(model.num_layers):
        yield from norms(layer)
        yield from grouped_query_attention(model, layer)
        yield from gated_network(ours(layer, "mlp"), theirs(layer, "mlp"), biases=model.biases)
