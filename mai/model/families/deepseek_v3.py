"""DeepSeek-V3 (arXiv 2412.19437): latent attention, a shared expert, experts in groups, balanced by a bias, and
multi-token prediction."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.further_depths import ends_with_copies, further_depth, further_depths
from mai.model.families.latent_parts import latent_config, latent_layer, latent_sizes
from mai.model.families.shared_parts import ours, theirs
from mai.model.families.sigmoid_experts import sigmoid_experts, sigmoid_experts_of
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import Rule
from mai.recipe import LatentAttention, MixtureOfExperts, ModelConfig, YarnPositions

SIZES = {
    # Of deepseek-ai/DeepSeek-V3, config.json; rate and weight of balancing: section 4.2.
    "671b_a37b": ModelConfig(
        num_layers=61,
        hidden_size=7168,
        ffn_hidden_size=18_432,
        num_heads=128,
        num_kv_heads=128,
        head_size=128,
        vocab_size=129_280,
        norm_epsilon=1e-6,
        init_std=0.006,
        positions=YarnPositions(factor=40.0, original_length=4096, rotation_scale=1.0, softmax_scale=1.0),
        multi_token_depths=1,
        attention=LatentAttention(key_value_rank=512, query_rank=1536, rotary_head_size=64, value_head_size=128),
        feed_forward=MixtureOfExperts(
            num_experts=256,
            experts_per_token=8,
            ffn_hidden_size=2048,
            shared_ffn_hidden_size=2048,
            num_dense_layers=3,
            scores="sigmoid",
            num_groups=8,
            groups_per_token=4,
            routed_scale=2.5,
            auxiliary_loss="sequence",
            auxiliary_loss_weight=1e-4,
            bias_update_rate=1e-3,
        ),
    ),
}


DEFAULTS: dict[str, Any] = {
    # Of DeepseekV3Config in transformers.
    "vocab_size": 129_280,
    "hidden_size": 7168,
    "intermediate_size": 18_432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "rope_interleave": True,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 1,
}
ALIASES = {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"}


def model_of(config: HfConfig) -> ModelConfig:
    config.must_be("attention_bias", [False])
    config.must_be("rope_interleave", [True])
    found = latent_sizes(config)
    experts = sigmoid_experts(config, found["num_layers"])
    return ModelConfig(**found, feed_forward=experts, multi_token_depths=further_depths(config))


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **latent_config(model, context=context),
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
        "rope_interleave": True,
        "num_nextn_predict_layers": model.multi_token_depths,
        **sigmoid_experts_of(model),
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    yield from ends_with_copies(model)
    for layer in range(model.num_layers):
        yield from latent_layer(model, layer, ours(layer, ""), theirs(layer, ""))
    for depth in range(model.multi_token_depths):
        yield from further_depth(model, depth, latent_layer)
