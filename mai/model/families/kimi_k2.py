"""Kimi K2 (arXiv 2507.20534): DeepSeek-V3 with more experts and fewer heads, under a name of its own."""

from typing import Any

from mai.model.families import deepseek_v3
from mai.model.families.deepseek_v3 import ALIASES, DEFAULTS, model_of, rules
from mai.recipe import LatentAttention, MixtureOfExperts, ModelConfig, YarnPositions

__all__ = ["ALIASES", "DEFAULTS", "SIZES", "config_of", "model_of", "rules"]

SIZES = {
    # Of moonshotai/Kimi-K2-Instruct, config.json; balancing as in DeepSeek-V3.
    "1t_a32b": ModelConfig(
        num_layers=61,
        hidden_size=7168,
        ffn_hidden_size=18_432,
        num_heads=64,
        num_kv_heads=64,
        head_size=128,
        vocab_size=163_840,
        rotary_base=50_000.0,
        norm_epsilon=1e-6,
        positions=YarnPositions(
            factor=32.0, original_length=4096, beta_fast=1.0, rotation_scale=1.0, softmax_scale=1.0
        ),
        attention=LatentAttention(key_value_rank=512, query_rank=1536, rotary_head_size=64, value_head_size=128),
        feed_forward=MixtureOfExperts(
            num_experts=384,
            experts_per_token=8,
            ffn_hidden_size=2048,
            shared_ffn_hidden_size=2048,
            num_dense_layers=1,
            scores="sigmoid",
            routed_scale=2.827,
            auxiliary_loss="sequence",
            auxiliary_loss_weight=1e-4,
            bias_update_rate=1e-3,
        ),
    ),
}


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    """transformers reads it as a DeepSeek-V3, which it is."""
    return {**deepseek_v3.config_of(model, context=context), "model_type": "kimi_k2"}
