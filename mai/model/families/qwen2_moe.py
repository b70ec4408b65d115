"""Qwen1.5-MoE and Qwen2-MoE (arXiv 2407.10671): weights are scores of a softmax over all experts, beside a shared
expert with a gate of its own."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.shared_parts import (
    base_config,
    ends,
    gated_network,
    grouped_query_attention,
    layer_types_of,
    norms,
    ours,
    same,
    sizes,
    sparse_layers,
    theirs,
    windows_in_use,
)
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import Rule
from mai.recipe import GroupedQueryAttention, MixtureOfExperts, ModelConfig

SIZES = {
    # Of Qwen/Qwen2-57B-A14B, config.json.
    "57b_a14b": ModelConfig(
        num_layers=28,
        hidden_size=3584,
        ffn_hidden_size=18_944,
        num_heads=28,
        num_kv_heads=4,
        head_size=128,
        vocab_size=151_936,
        rotary_base=1e6,
        norm_epsilon=1e-6,
        attention=GroupedQueryAttention(biases="queries_keys_values"),
        feed_forward=MixtureOfExperts(
            num_experts=64,
            experts_per_token=8,
            ffn_hidden_size=2560,
            shared_ffn_hidden_size=20_480,
            shared_gate=True,
            normalised=False,
            auxiliary_loss="micro_batch",
            auxiliary_loss_weight=1e-3,
        ),
    ),
}

DEFAULTS: dict[str, Any] = {
    # Of Qwen2MoeConfig in transformers.
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 32_768,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "qkv_bias": True,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
    "decoder_sparse_step": 1,
    "mlp_only_layers": None,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "norm_topk_prob": False,
    "router_aux_loss_coef": 1e-3,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    found = sizes(config)
    has_biases, sparse = config.number("qkv_bias", bool), sparse_layers(config, found["num_layers"])
    shape = {
        **found,
        **_windows(config, found["num_layers"]),
        "attention": GroupedQueryAttention(biases="queries_keys_values" if has_biases else "none"),
    }
    experts: dict[str, Any] = {
        "num_experts": config.number("num_experts", int),
        "experts_per_token": config.number("num_experts_per_tok", int),
        "ffn_hidden_size": config.number("moe_intermediate_size", int),
        "shared_ffn_hidden_size": config.number("shared_expert_intermediate_size", int),
        "normalised": config.number("norm_topk_prob", bool),
        "auxiliary_loss_weight": config.number("router_aux_loss_coef", float),
    }
    if sparse is None:
        return ModelConfig(**shape)
    feed_forward = MixtureOfExperts(**experts, **sparse, shared_gate=True, auxiliary_loss="micro_batch")
    return ModelConfig(**shape, feed_forward=feed_forward)


def _windows(config: HfConfig, num_layers: int) -> dict[str, Any]:
    """Every other of the first `max_window_layers` layers, where windows are used at all."""
    is_used = config.number("use_sliding_window", bool)
    window, first = config.optional("sliding_window") if is_used else None, config.number("max_window_layers", int)
    config.pass_over("sliding_window")
    usual = [is_used and layer % 2 == 0 and layer < first for layer in range(num_layers)]
    return windows_in_use(config, window, usual)


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    assert model.experts is not None
    return {
        **base_config(model, context=context),
        "model_type": "qwen2_moe",
        "architectures": ["Qwen2MoeForCausalLM"],
        "qkv_bias": model.has_query_biases,
        "use_sliding_window": model.window is not None,
        "sliding_window": model.window or 4096,
        "layer_types": layer_types_of(model),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [layer for layer in range(model.num_layers) if not model.has_experts(layer)],
        "num_experts": model.experts.num_experts,
        "num_experts_per_tok": model.experts.experts_per_token,
        "moe_intermediate_size": model.experts.ffn_hidden_size,
        "shared_expert_intermediate_size": model.experts.shared_ffn_hidden_size,
        "norm_topk_prob": model.experts.normalised,
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
        yield from gated_network(ours(layer, "mlp.shared_experts"), theirs(layer, "mlp.shared_expert"))
        yield same(ours(layer, "mlp.shared_experts.gate_weight"), theirs(layer, "mlp.shared_expert_gate.weight"))
        for expert in range(num_experts):
            source = theirs(layer, f"mlp.experts.{expert}")
            yield from gated_network(ours(layer, "mlp.experts.experts"), source, expert=expert)
