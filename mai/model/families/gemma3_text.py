"""Gemma 3 (arXiv 2503.19786), its text model: norms on both sides that multiply with 1 + weight, a window in five
layers of six with positions of their own, gelu, and scaled embeddings."""

import math
from collections.abc import Iterator
from typing import Any

from mai.model.families.shared_parts import (
    attention_biases,
    base_config,
    ends,
    gated_network,
    grouped_query_attention,
    layer_types,
    layer_types_of,
    ours,
    same,
    sizes_but_for_positions,
    theirs,
    windows,
)
from mai.model.hf_config import HfConfig
from mai.model.hf_rotary import both_kinds_of, rotary_of_both_kinds
from mai.model.hf_rules import Rule
from mai.recipe import GroupedQueryAttention, LinearPositions, ModelConfig


def _gemma3(*, scalar: int, hidden_size: int, **sizes: Any) -> ModelConfig:
    return ModelConfig(
        **{
            "hidden_size": hidden_size,
            "vocab_size": 262_208,
            "rotary_base": 1e6,
            "window_rotary_base": 10_000.0,
            "positions": LinearPositions(factor=8.0),
            "window": 1024,
            "global_every": 6,
            "activation": "geglu",
            "norms": "both",
            "zero_centred_norms": True,
            "softmax_scale": scalar**-0.5,
            "embedding_scale": math.sqrt(hidden_size),
            "tied_embeddings": True,
            "norm_epsilon": 1e-6,
            "attention": GroupedQueryAttention(qk_norm=True),
            **sizes,
        }
    )


SIZES = {
    # Of google/gemma-3-12b-pt and google/gemma-3-27b-pt, config.json, text_config.
    "12b": _gemma3(
        num_layers=48,
        hidden_size=3840,
        ffn_hidden_size=15_360,
        num_heads=16,
        num_kv_heads=8,
        head_size=256,
        scalar=256,
    ),
    "27b": _gemma3(
        num_layers=62,
        hidden_size=5376,
        ffn_hidden_size=21_504,
        num_heads=32,
        num_kv_heads=16,
        head_size=128,
        scalar=168,
    ),
}

DEFAULTS: dict[str, Any] = {
    # Of Gemma3TextConfig in transformers.
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131_072,
    "rope_parameters": None,
    "rope_theta": 1e6,
    "rope_local_base_freq": 10_000.0,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "layer_types": None,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "use_bidirectional_attention": False,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    config.must_be("hidden_activation", ["gelu_pytorch_tanh"])
    config.must_be("hidden_act", ["gelu_pytorch_tanh", None])
    config.must_be("use_bidirectional_attention", [False, None])
    for key in ("final_logit_softcapping", "attn_logit_softcapping"):
        config.must_be(key, [None], because="no published Gemma 3 has one")
    found = sizes_but_for_positions(config)
    rotary = rotary_of_both_kinds(config, window_base=config.number("rope_local_base_freq", float))
    every = max(1, config.number("sliding_window_pattern", int))
    has_window = layer_types(config, [(layer + 1) % every != 0 for layer in range(found["num_layers"])])
    shape = windows(config.number("sliding_window", int), has_window)
    if "window" not in shape:
        rotary = {**rotary, "window_rotary_base": None}
    return ModelConfig(
        **found,
        **rotary,
        **shape,
        activation="geglu",
        norms="both",
        zero_centred_norms=True,
        softmax_scale=max(1, config.number("query_pre_attn_scalar", int)) ** -0.5,
        embedding_scale=math.sqrt(found["hidden_size"]),
        attention=GroupedQueryAttention(qk_norm=True, biases=attention_biases(config)),
    )


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    config = base_config(model, context=context)
    del config["hidden_act"]
    scale = model.softmax_scale or model.head_size**-0.5
    return {
        **config,
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": model.has_query_biases,
        "query_pre_attn_scalar": round(scale**-2),
        "rope_parameters": both_kinds_of(model),
        "sliding_window": model.window or 4096,
        "layer_types": layer_types_of(model),
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    yield from ends(model)
    for layer in range(model.num_layers):
        for our, their in _NORMS.items():
            yield same(ours(layer, f"{our}.weight"), theirs(layer, f"{their}.weight"))
        yield from grouped_query_attention(model, layer)
        yield from gated_network(ours(layer, "mlp"), theirs(layer, "mlp"))


_NORMS = {
    "input_layernorm": "input_layernorm",
    "post_self_attn_layernorm": "post_attention_layernorm",
    "pre_mlp_layernorm": "pre_feedforward_layernorm",
    "post_mlp_layernorm": "post_feedforward_layernorm",
}
