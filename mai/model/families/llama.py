"""Llama 3 (arXiv 2407.21783), and what has its shape, such as SmolLM2."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.shared_parts import (
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
from mai.recipe import Llama3Positions, ModelConfig


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


def model_of(config: HfConfig) -> ModelConfig:
    config.must_be("attention_bias", [False])
    config.must_be("mlp_bias", [False])
    return ModelConfig(**sizes(config))


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **base_config(model, context=context),
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "mlp_bias": False,
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    yield from ends(model)
    for layer in range(model.num_layers):
        yield from norms(layer)
        yield from grouped_query_attention(model, layer)
        yield from gated_network(ours(layer, "mlp"), theirs(layer, "mlp"))
