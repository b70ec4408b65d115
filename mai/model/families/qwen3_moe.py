"""Qwen3-MoE (arXiv 2505.09388): Qwen3 with 128 experts in every layer, eight for each token, none shared."""

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
    same,
    sizes,
    sparse_layers,
    theirs,
)
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import Rule
from mai.recipe import GroupedQueryAttention, MixtureOfExperts, ModelConfig


def _qwen3_moe(*, expert_size: int, **sizes: Any) -> ModelConfig:
    experts = MixtureOfExperts(
        num_experts=128,
        experts_per_token=8,
        ffn_hidden_size=expert_size,
        auxiliary_loss="micro_batch",
        auxiliary_loss_weight=1e-3,
    )
    return ModelConfig(
        **{
            "num_kv_heads": 4,
            "head_size": 128,
            "vocab_size": 151_936,
            "rotary_base": 1e6,
            "norm_epsilon": 1e-6,
            "attention": GroupedQueryAttention(qk_norm=True),
            "feed_forward": experts,
            **sizes,
        }
    )


SIZES = {
    # Of Qwen/Qwen3-30B-A3B and Qwen/Qwen3-235B-A22B, config.json.
    "30b_a3b": _qwen3_moe(num_layers=48, hidden_size=2048, ffn_hidden_size=6144, num_heads=32, expert_size=768),
    "235b_a22b": _qwen3_moe(num_layers=94, hidden_size=4096, ffn_hidden_size=12_288, num_heads=64, expert_size=1536),
}


DEFAULTS: dict[str, Any] = {
    # Of Qwen3MoeConfig in transformers.
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 32_768,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "decoder_sparse_step": 1,
    "mlp_only_layers": None,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "router_aux_loss_coef": 1e-3,
}
ALIASES = {"num_local_experts": "num_experts"}


def model_of(config: HfConfig) -> ModelConfig:
    found = sizes(config)
    layers = sparse_layers(config, found["num_layers"])
    attention = GroupedQueryAttention(qk_norm=True, biases=attention_biases(config))
    window = config.optional("sliding_window") if config.number("use_sliding_window", bool) else None
    config.pass_over("sliding_window", "max_window_layers")
    if layers is None:
        config.pass_over(*_OF_EXPERTS)
        return ModelConfig(**found, attention=attention, window=window)
    experts = MixtureOfExperts(
        num_experts=config.number("num_experts", int),
        experts_per_token=config.number("num_experts_per_tok", int),
        ffn_hidden_size=config.number("moe_intermediate_size", int),
        normalised=config.number("norm_topk_prob", bool),
        auxiliary_loss="micro_batch",
        auxiliary_loss_weight=config.number("router_aux_loss_coef", float),
        **layers,
    )
    return ModelConfig(**found, attention=attention, window=window, feed_forward=experts)


_OF_EXPERTS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "router_aux_loss_coef")


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    assert model.experts is not None
    return {
        **base_config(model, context=context),
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": model.has_query_biases,
        "use_sliding_window": model.window is not None,
        "sliding_window": model.window,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [layer for layer in range(model.num_layers) if not model.has_experts(layer)],
        "norm_topk_prob": model.experts.normalised,
        "num_experts": model.experts.num_experts,
        "num_experts_per_tok": model.experts.experts_per_token,
        "moe_intermediate_size": model.experts.ffn_hidden_size,
        "router_aux_loss_coef": model.experts.auxiliary_loss_weight,
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    num_experts = 0 if model.experts is None else model.experts.num_experts
    yield from ends(model)
    for layer in range(model.num_layers):
        yield from norms(layer)
        yield from grouped_query_attention(model, layer)
        if not model.has_experts(layer):
            yield from gated_network(ours(layer, "mlp"), theirs(layer, "mlp"))
            continue
        yield same(ours(layer, "mlp.router.weight"), theirs(layer, "mlp.gate.weight"))
        for expert in range(num_experts):
            source = theirs(layer, f"mlp.experts.{expert}")
            yield from gated_network(ours(layer, "mlp.experts.experts"), source, expert=expert)
