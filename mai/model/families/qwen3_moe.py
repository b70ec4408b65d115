"""Qwen3-MoE (arXiv 2505.09388): Qwen3 with 128 experts in every layer, eight for each token, none shared."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.shared_parts import (
    base_config,
    ends,
    gated_network,
    grouped_query_attention,
    norms,
    ours,
    same,
    sizes,
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


def model_of(config: HfConfig) -> ModelConfig:
    config.must_be("attention_bias", [False])
    config.must_be("use_sliding_window", [False])
    config.must_be("decoder_sparse_step", [1])
    config.must_be("mlp_only_layers", [[], None])
    # Scores that are not normalised over the picked experts; every published model normalises them.
    config.must_be("norm_topk_prob", [True], default=False)
    key = "num_experts" if config.has("num_experts") else "num_local_experts"
    experts = MixtureOfExperts(
        num_experts=config.number(key, int),
        experts_per_token=config.number("num_experts_per_tok", int),
        ffn_hidden_size=config.number("moe_intermediate_size", int),
        auxiliary_loss="micro_batch",
        auxiliary_loss_weight=config.number("router_aux_loss_coef", float, default=1e-3),
    )
    return ModelConfig(**sizes(config), attention=GroupedQueryAttention(qk_norm=True), feed_forward=experts)


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    assert model.experts is not None
    return {
        **base_config(model, context=context),
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "use_sliding_window": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "num_experts": model.experts.num_experts,
        "num_experts_per_tok": model.experts.experts_per_token,
        "moe_intermediate_size": model.experts.ffn_hidden_size,
        "router_aux_loss_coef": model.experts.auxiliary_loss_weight,
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    assert model.experts is not None
    yield from ends(model)
    for layer in range(model.num_layers):
        yield from norms(layer)
        yield from grouped_query_attention(model, layer)
        yield same(ours(layer, "mlp.router.weight"), theirs(layer, "mlp.gate.weight"))
        for expert in range(model.experts.num_experts):
            source = theirs(layer, f"mlp.experts.{expert}")
            yield from gated_network(ours(layer, "mlp.experts.experts"), source, expert=expert)
