"""Phi-3 (arXiv 2404.14219) and Phi-4 (arXiv 2412.08905): Llama whose products are joined, for a long context with
LongRoPE; Phi-4-mini turns three quarters of a head."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.shared_parts import (
    base_config,
    ends,
    joined_network,
    norms,
    ours,
    output_and_norms,
    sizes,
    theirs,
)
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import CutByHead, HeadOrder, Rule, Source, Target
from mai.recipe import LongPositions, ModelConfig, UnscaledPositions

SIZES = {
    # Of microsoft/Phi-3-mini-4k-instruct and microsoft/phi-4, config.json.
    "3_mini_4k": ModelConfig(
        num_layers=32,
        hidden_size=3072,
        ffn_hidden_size=8192,
        num_heads=32,
        num_kv_heads=32,
        head_size=96,
        vocab_size=32_064,
        norm_epsilon=1e-5,
        window=2047,
    ),
    "4_14b": ModelConfig(
        num_layers=40,
        hidden_size=5120,
        ffn_hidden_size=17_920,
        num_heads=40,
        num_kv_heads=10,
        head_size=128,
        vocab_size=100_352,
        rotary_base=250_000.0,
        norm_epsilon=1e-5,
    ),
}

DEFAULTS: dict[str, Any] = {
    # Of Phi3Config in transformers.
    "vocab_size": 32_064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 1.0,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "sliding_window": None,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    # Of the files that were published; transformers reads neither.
    config.must_be("attention_bias", [False, None])
    config.must_be("full_attn_mod", [1, None])
    config.must_be("interpolate_factor", [1, None])
    config.must_be("lm_head_bias", [False, None])
    config.must_be("mlp_bias", [False, None])
    # Names of older files (Phi3Config, convert_rope_params_to_dict).
    found = sizes(config, kinds={"su": "longrope", "yarn": "longrope"})
    if not isinstance(found["positions"], UnscaledPositions | LongPositions):
        config.refuse("rope_parameters", "Phi-3 knows the types 'default' and 'longrope'")
    return ModelConfig(**found, window=config.optional("sliding_window"))


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    positions = model.positions
    original = positions.original_length if isinstance(positions, LongPositions) else context
    return {
        **base_config(model, context=context),
        "model_type": "phi3",
        "architectures": ["Phi3ForCausalLM"],
        "original_max_position_embeddings": original,
        "sliding_window": model.window,
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    yield from ends(model)
    order = HeadOrder(model.head_size, model.rotary_size)
    for layer in range(model.num_layers):
        yield from norms(layer)
        our, their = ours(layer, "self_attention."), theirs(layer, "self_attn.")
        making = CutByHead(Source(f"{their}qkv_proj.weight"), model.num_heads, model.num_kv_heads, order)
        yield Rule(Target(f"{our}linear_qkv.weight"), making)
        yield from output_and_norms(model, our, their, order)
        yield from joined_network(ours(layer, "mlp"), theirs(layer, "mlp"))
