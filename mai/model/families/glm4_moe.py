"""GLM-4.5 (arXiv 2508.06471): grouped-query attention of which half of each head is turned, DeepSeek-V3's experts, and
multi-token prediction."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.further_depths import ends_with_copies, further_depth, further_depths
from mai.model.families.shared_parts import (
    base_config,
    gated_network,
    grouped_query_attention_below,
    norms_below,
    ours,
    sizes,
    theirs,
)
from mai.model.families.sigmoid_experts import expert_rules, sigmoid_experts, sigmoid_experts_of
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import HeadOrder, Rule
from mai.recipe import GroupedQueryAttention, MixtureOfExperts, ModelConfig

SIZES = {
    # Of zai-org/GLM-4.5-Base, config.json; balancing as in DeepSeek-V3.
    "355b_a32b": ModelConfig(
        num_layers=92,
        hidden_size=5120,
        ffn_hidden_size=12_288,
        num_heads=96,
        num_kv_heads=8,
        head_size=128,
        vocab_size=151_552,
        rotary_base=1e6,
        rotary_share=0.5,
        norm_epsilon=1e-5,
        multi_token_depths=1,
        attention=GroupedQueryAttention(qk_norm=True, biases="queries_keys_values"),
        feed_forward=MixtureOfExperts(
            num_experts=160,
            experts_per_token=8,
            ffn_hidden_size=1536,
            shared_ffn_hidden_size=1536,
            num_dense_layers=3,
            scores="sigmoid",
            routed_scale=2.5,
            auxiliary_loss="sequence",
            auxiliary_loss_weight=1e-4,
            bias_update_rate=1e-3,
        ),
    ),
}

DEFAULTS: dict[str, Any] = {
    # Of Glm4MoeConfig in transformers.
    "vocab_size": 151_552,
    "hidden_size": 4096,
    "intermediate_size": 10_944,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 131_072,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "use_qk_norm": False,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "num_nextn_predict_layers": 1,
}
ALIASES = {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"}


def model_of(config: HfConfig) -> ModelConfig:
    found = sizes(config)
    has_biases, has_norms = config.number("attention_bias", bool), config.number("use_qk_norm", bool)
    attention = GroupedQueryAttention(qk_norm=has_norms, biases="queries_keys_values" if has_biases else "none")
    experts = sigmoid_experts(config, found["num_layers"])
    return ModelConfig(**found, attention=attention, feed_forward=experts, multi_token_depths=further_depths(config))


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **base_config(model, context=context),
        "model_type": "glm4_moe",
        "architectures": ["Glm4MoeForCausalLM"],
        "partial_rotary_factor": model.rotary_share,
        "attention_bias": model.has_query_biases,
        "use_qk_norm": model.has_head_norms,
        "num_nextn_predict_layers": model.multi_token_depths,
        **sigmoid_experts_of(model),
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    yield from ends_with_copies(model)
    for layer in range(model.num_layers):
        yield from _layer(model, layer, ours(layer, ""), theirs(layer, ""))
    for depth in range(model.multi_token_depths):
        yield from further_depth(model, depth, _layer)


def _layer(model: ModelConfig, layer: int, our: str, their: str) -> Iterator[Rule]:
    yield from norms_below(our, their)
    order = HeadOrder(model.head_size, model.rotary_size)
    yield from grouped_query_attention_below(model, f"{our}self_attention.", f"{their}self_attn.", order)
    if model.has_experts(layer):
        yield from expert_rules(model, f"{our}mlp.", f"{their}mlp.")
    else:
        yield from gated_network(f"{our}mlp", f"{their}mlp")
