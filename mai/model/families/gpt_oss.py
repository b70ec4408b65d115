"""gpt-oss (arXiv 2508.10925): attention sinks, a window in every other layer, biases, clamped SwiGLU experts."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.shared_parts import (
    base_config,
    ends,
    grouped_query_attention,
    layer_types,
    layer_types_of,
    norms,
    ours,
    same,
    sizes,
    theirs,
    windows,
)
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import Alternating, Rule, Same, Source, Target
from mai.recipe import GroupedQueryAttention, MixtureOfExperts, ModelConfig, YarnPositions


def _gpt_oss(*, num_layers: int, num_experts: int) -> ModelConfig:
    return ModelConfig(
        num_layers=num_layers,
        hidden_size=2880,
        ffn_hidden_size=2880,
        num_heads=64,
        num_kv_heads=8,
        head_size=64,
        vocab_size=201_088,
        rotary_base=150_000.0,
        positions=YarnPositions(factor=32.0, original_length=4096, whole_bounds=False),
        window=128,
        global_every=2,
        biases=True,
        activation="clamped_swiglu",
        attention=GroupedQueryAttention(sinks=True),
        feed_forward=MixtureOfExperts(
            num_experts=num_experts, experts_per_token=4, ffn_hidden_size=2880, auxiliary_loss="micro_batch"
        ),
    )


SIZES = {
    # Of openai/gpt-oss-20b and openai/gpt-oss-120b, config.json.
    "20b": _gpt_oss(num_layers=24, num_experts=32),
    "120b": _gpt_oss(num_layers=36, num_experts=128),
}


DEFAULTS: dict[str, Any] = {
    # Of GptOssConfig in transformers.
    "vocab_size": 201_088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 131_072,
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "rope_theta": 150_000.0,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": True,
    "sliding_window": 128,
    "layer_types": None,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "router_aux_loss_coef": 1e-3,
    "swiglu_limit": 7.0,
    "swiglu_alpha": 1.702,
}
ALIASES = {"num_experts": "num_local_experts"}


def model_of(config: HfConfig) -> ModelConfig:
    config.must_be("attention_bias", [True])
    config.must_be("swiglu_limit", [7.0])
    config.must_be("swiglu_alpha", [1.702])
    # Of the files that were published first; transformers reads neither.
    config.pass_over("experts_per_token", "initial_context_length")
    found = sizes(config)
    has_window = layer_types(config, [layer % 2 == 0 for layer in range(found["num_layers"])])
    experts = MixtureOfExperts(
        num_experts=config.number("num_local_experts", int),
        experts_per_token=config.number("num_experts_per_tok", int),
        ffn_hidden_size=found["ffn_hidden_size"],
        auxiliary_loss="micro_batch",
        auxiliary_loss_weight=config.number("router_aux_loss_coef", float),
    )
    return ModelConfig(
        **found,
        **windows(config.optional("sliding_window"), has_window),
        biases=True,
        activation="clamped_swiglu",
        attention=GroupedQueryAttention(sinks=True),
        feed_forward=experts,
    )


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    assert model.experts is not None
    return {
        **base_config(model, context=context),
        "model_type": "gpt_oss",
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": model.biases,
        "num_local_experts": model.experts.num_experts,
        "num_experts_per_tok": model.experts.experts_per_token,
        "intermediate_size": model.experts.ffn_hidden_size,
        "router_aux_loss_coef": model.experts.auxiliary_loss_weight,
        "sliding_window": model.window,
        "layer_types": layer_types_of(model),
        "swiglu_limit": 7.0,
        "swiglu_alpha": 1.702,
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    yield from ends(model)
    for layer in range(model.num_layers):
        yield from norms(layer)
        yield from grouped_query_attention(model, layer)
        for state in ("weight", "bias"):
            yield same(ours(layer, f"mlp.router.{state}"), theirs(layer, f"mlp.router.{state}"))
        yield from _experts(model, layer)


def _experts(model: ModelConfig, layer: int) -> Iterator[Rule]:
    """All experts stand in one tensor, with gate and up alternating, and the matrices lie on their side."""
    assert model.experts is not None
    network = ours(layer, "mlp.experts.experts")
    for expert in range(model.experts.num_experts):

        def source(name: str, expert: int = expert) -> Source:
            assert model.experts is not None
            return Source(theirs(layer, f"mlp.experts.{name}"), expert, model.experts.num_experts)

        yield Rule(Target(f"{network}.linear_fc1.weight", expert), Alternating(source("gate_up_proj")))
        yield Rule(Target(f"{network}.linear_fc1.bias", expert), Alternating(source("gate_up_proj_bias")))
        down = Same(source("down_proj"), is_transposed=True)
        yield Rule(Target(f"{network}.linear_fc2.weight", expert), down)
        yield Rule(Target(f"{network}.linear_fc2.bias", expert), Same(source("down_proj_bias")))
