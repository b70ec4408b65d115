"""What DeepSeek's families have in common: latent attention, experts beside a shared one, and their config."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.shared_parts import base_config, gated_network, norms_below, same, sizes
from mai.model.families.sigmoid_experts import expert_rules
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import InterleavedRotary, Rule, Source, Target
from mai.recipe import LatentAttention, ModelConfig

_EPSILON = 1e-6
"""What norms of latent vectors add, whatever rms_norm_eps says (modeling_deepseek_v3.py, DeepseekV3Attention)."""


def latent_sizes(config: HfConfig) -> dict[str, Any]:
    """The fields of ModelConfig but for the experts."""
    config.must_be("attention_bias", [False])
    still, turned = config.number("qk_nope_head_dim", int), config.number("qk_rope_head_dim", int)
    # What transformers makes of the two, and writes beside them.
    config.must_be("head_dim", [turned, None])
    config.must_be("qk_head_dim", [still + turned, None])
    found = sizes(config)
    config.must_be("num_key_value_heads", [found["num_heads"], None])
    attention = LatentAttention(
        key_value_rank=config.number("kv_lora_rank", int),
        query_rank=config.optional("q_lora_rank"),
        rotary_head_size=turned,
        value_head_size=config.number("v_head_dim", int),
        norm_epsilon=None if found["norm_epsilon"] == _EPSILON else _EPSILON,
    )
    return {**found, "head_size": still, "num_kv_heads": found["num_heads"], "attention": attention}


def latent_config(model: ModelConfig, *, context: int) -> dict[str, Any]:
    """The same the other way."""
    latent = model.latent_attention
    assert latent is not None
    return {
        **base_config(model, context=context),
        "head_dim": latent.rotary_head_size,
        "q_lora_rank": latent.query_rank,
        "kv_lora_rank": latent.key_value_rank,
        "qk_nope_head_dim": model.head_size,
        "qk_rope_head_dim": latent.rotary_head_size,
        "v_head_dim": latent.value_head_size,
    }


def latent_layer(model: ModelConfig, layer: int, our: str, their: str) -> Iterator[Rule]:
    """Rules of one layer, by what its names begin with."""
    yield from norms_below(our, their)
    yield from _attention(model, f"{our}self_attention.", f"{their}self_attn.")
    if model.has_experts(layer):
        yield from expert_rules(model, f"{our}mlp.", f"{their}mlp.")
    else:
        yield from gated_network(f"{our}mlp", f"{their}mlp")


def _attention(model: ModelConfig, our: str, their: str) -> Iterator[Rule]:
    latent = model.latent_attention
    assert latent is not None
    names = {"kv_layernorm": "kv_a_layernorm", "linear_kv_up_proj": "kv_b_proj", "linear_proj": "o_proj"}
    queries = "linear_q_proj", "q_proj"
    if latent.query_rank is not None:
        names |= {"linear_q_down_proj": "q_a_proj", "q_layernorm": "q_a_layernorm"}
        queries = "linear_q_up_proj", "q_b_proj"
    for our_name, their_name in names.items():
        yield same(f"{our}{our_name}.weight", f"{their}{their_name}.weight")
    heads = {queries: (model.num_heads, model.head_size), _KEYS: (1, latent.key_value_rank)}
    for (our_name, their_name), (num_heads, still_size) in heads.items():
        source = Source(f"{their}{their_name}.weight")
        making = InterleavedRotary(source, num_heads, still_size, latent.rotary_head_size)
        yield Rule(Target(f"{our}{our_name}.weight"), making)


_KEYS = ("linear_kv_down_proj", "kv_a_proj_with_mqa")
