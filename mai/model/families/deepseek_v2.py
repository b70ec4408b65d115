"""DeepSeek-V2 (arXiv 2405.04434): latent attention, shared experts, and experts in groups that are judged by their best
score; weights are scores of a softmax over all experts."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.latent_parts import latent_config, latent_layer, latent_sizes
from mai.model.families.shared_parts import ends, ours, theirs
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import Rule
from mai.recipe import DenseFeedForward, LatentAttention, MixtureOfExperts, ModelConfig, YarnPositions

SIZES = {
    # Of deepseek-ai/DeepSeek-V2-Lite and DeepSeek-V2, config.json; aux_loss_alpha and seq_aux among them.
    "lite_16b_a2b": ModelConfig(
        num_layers=27,
        hidden_size=2048,
        ffn_hidden_size=10_944,
        num_heads=16,
        num_kv_heads=16,
        head_size=128,
        vocab_size=102_400,
        norm_epsilon=1e-6,
        positions=YarnPositions(factor=40.0, original_length=4096, rotation_scale=1.0, softmax_scale=0.707),
        attention=LatentAttention(key_value_rank=512, rotary_head_size=64, value_head_size=128),
        feed_forward=MixtureOfExperts(
            num_experts=64,
            experts_per_token=6,
            ffn_hidden_size=1408,
            shared_ffn_hidden_size=2816,
            num_dense_layers=1,
            normalised=False,
            auxiliary_loss="sequence",
            auxiliary_loss_weight=1e-3,
        ),
    ),
    "236b_a21b": ModelConfig(
        num_layers=60,
        hidden_size=5120,
        ffn_hidden_size=12_288,
        num_heads=128,
        num_kv_heads=128,
        head_size=128,
        vocab_size=102_400,
        norm_epsilon=1e-6,
        positions=YarnPositions(factor=40.0, original_length=4096, rotation_scale=1.0, softmax_scale=1.0),
        attention=LatentAttention(key_value_rank=512, query_rank=1536, rotary_head_size=64, value_head_size=128),
        feed_forward=MixtureOfExperts(
            num_experts=160,
            experts_per_token=6,
            ffn_hidden_size=1536,
            shared_ffn_hidden_size=3072,
            num_dense_layers=1,
            normalised=False,
            num_groups=8,
            groups_per_token=3,
            scores_per_group=1,
            routed_scale=16.0,
            auxiliary_loss="sequence",
            auxiliary_loss_weight=1e-3,
        ),
    ),
}

DEFAULTS: dict[str, Any] = {
    # Of DeepseekV2Config in transformers.
    "vocab_size": 102_400,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "moe_intermediate_size": 1407,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": None,
    "first_k_dense_replace": 0,
    "n_group": None,
    "topk_group": None,
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
}
ALIASES = {"num_experts": "n_routed_experts"}


def model_of(config: HfConfig) -> ModelConfig:
    config.must_be("mlp_bias", [False])
    # Of the files that were published; the code for them knows nothing else.
    config.must_be("scoring_func", ["softmax", None])
    config.must_be("moe_layer_freq", [1, None])
    # transformers has it in the config and asks it nowhere.
    config.must_be("norm_topk_prob", [False, None])
    found = latent_sizes(config)
    return ModelConfig(**found, feed_forward=_experts_of(config, found["num_layers"]))


def _experts_of(config: HfConfig, num_layers: int) -> MixtureOfExperts | DenseFeedForward:
    size, dense = config.number("moe_intermediate_size", int), config.number("first_k_dense_replace", int)
    is_grouped = config.must_be("topk_method", ["greedy", "group_limited_greedy"]) == "group_limited_greedy"
    groups, taken = (config.number(key, int) if is_grouped else 1 for key in ("n_group", "topk_group"))
    config.pass_over("n_group", "topk_group")
    seq_aux, weight = config.value("seq_aux"), config.value("aux_loss_alpha")
    experts: dict[str, Any] = {
        "num_experts": config.number("n_routed_experts", int),
        "shared_ffn_hidden_size": size * config.number("n_shared_experts", int),
        "routed_scale": config.number("routed_scaling_factor", float),
        "auxiliary_loss": "micro_batch" if seq_aux is False else "sequence",
        "auxiliary_loss_weight": 1e-3 if weight is None else config.number("aux_loss_alpha", float),
    }
    config.pass_over("num_experts_per_tok")
    if dense >= num_layers:
        return DenseFeedForward()
    return MixtureOfExperts(
        **experts,
        experts_per_token=config.number("num_experts_per_tok", int),
        ffn_hidden_size=size,
        num_dense_layers=dense,
        normalised=False,
        num_groups=groups,
        groups_per_token=taken,
        scores_per_group=1 if groups > 1 else None,
    )


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **latent_config(model, context=context),
        "model_type": "deepseek_v2",
        "architectures": ["DeepseekV2ForCausalLM"],
        **_config_of_experts(model),
    }


def _config_of_experts(model: ModelConfig) -> dict[str, Any]:
    experts = model.experts
    if experts is None:
        return {"first_k_dense_replace": model.num_layers}
    is_grouped = experts.num_groups > 1
    return {
        "n_routed_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "moe_intermediate_size": experts.ffn_hidden_size,
        "n_shared_experts": experts.shared_ffn_hidden_size // experts.ffn_hidden_size,
        "first_k_dense_replace": experts.num_dense_layers,
        "topk_method": "group_limited_greedy" if is_grouped else "greedy",
        "n_group": experts.num_groups if is_grouped else None,
        "topk_group": experts.groups_per_token if is_grouped else None,
        "routed_scaling_factor": experts.routed_scale,
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    yield from ends(model)
    for layer in range(model.num_layers):
        yield from latent_layer(model, layer, ours(layer, ""), theirs(layer, ""))
