"""Mixtral (arXiv 2401.04088): eight experts in every layer, two for each token."""

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
from mai.recipe import MixtureOfExperts, ModelConfig

_NAMES = {"gate": "w1", "up": "w3", "down": "w2"}

SIZES = {
    # Of mistralai/Mixtral-8x7B-v0.1, config.json; the published router loss counts over a micro-batch.
    "8x7b": ModelConfig(
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=14_336,
        num_heads=32,
        num_kv_heads=8,
        head_size=128,
        vocab_size=32_000,
        rotary_base=1e6,
        feed_forward=MixtureOfExperts(
            num_experts=8, experts_per_token=2, ffn_hidden_size=14_336, auxiliary_loss="micro_batch"
        ),
    ),
}


DEFAULTS: dict[str, Any] = {
    # Of MixtralConfig in transformers.
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 131_072,
    "rope_parameters": None,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "sliding_window": None,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 1e-3,
}
ALIASES = {"num_experts": "num_local_experts"}


def model_of(config: HfConfig) -> ModelConfig:
    config.must_be("attention_bias", [False, None])
    found = sizes(config)
    experts = MixtureOfExperts(
        num_experts=config.number("num_local_experts", int),
        experts_per_token=config.number("num_experts_per_tok", int),
        ffn_hidden_size=found["ffn_hidden_size"],
        auxiliary_loss="micro_batch",
        auxiliary_loss_weight=config.number("router_aux_loss_coef", float),
    )
    return ModelConfig(**found, feed_forward=experts, window=config.optional("sliding_window"))


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    assert model.experts is not None
    return {
        **base_config(model, context=context),
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": model.experts.num_experts,
        "num_experts_per_tok": model.experts.experts_per_token,
        "intermediate_size": model.experts.ffn_hidden_size,
        "router_aux_loss_coef": model.experts.auxiliary_loss_weight,
        "sliding_window": model.window,
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    assert model.experts is not None
    yield from ends(model)
    for layer in range(model.num_layers):
        yield from norms(layer)
        yield from grouped_query_attention(model, layer)
        yield same(ours(layer, "mlp.router.weight"), theirs(layer, "block_sparse_moe.gate.weight"))
        for expert in range(model.experts.num_experts):
            source = theirs(layer, f"block_sparse_moe.experts.{expert}")
            yield from gated_network(ours(layer, "mlp.experts.experts"), source, expert=expert, names=_NAMES)
