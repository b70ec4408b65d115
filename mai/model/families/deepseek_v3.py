"""DeepSeek-V3 (arXiv 2412.19437): latent attention, a shared expert, experts in groups, balanced by a bias, and
multi-token prediction.

Its checkpoints hold each further depth as one more layer behind the last, with copies of the embedding and of the
output layer (README_WEIGHTS.md of deepseek-ai/DeepSeek-V3). transformers passes over them and writes none."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.shared_parts import base_config, ends, gated_network, norms_below, ours, same, sizes, theirs
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import InterleavedRotary, Repeated, Rule, Source, Target
from mai.model.shapes import depth_layer
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


def model_of(config: HfConfig) -> ModelConfig:
    config.must_be("attention_bias", [False])
    config.must_be("rope_interleave", [True])
    config.must_be("norm_topk_prob", [True])
    config.must_be("scoring_func", ["sigmoid"])
    config.must_be("topk_method", ["noaux_tc"])
    config.must_be("moe_layer_freq", [1])
    # Checkpoints of one depth do not say what of it a second one would take.
    config.must_be("num_nextn_predict_layers", [0, 1])
    expert_size = config.number("moe_intermediate_size", int)
    experts = MixtureOfExperts(
        num_experts=config.number("n_routed_experts", int),
        experts_per_token=config.number("num_experts_per_tok", int),
        ffn_hidden_size=expert_size,
        shared_ffn_hidden_size=expert_size * config.number("n_shared_experts", int),
        num_dense_layers=config.number("first_k_dense_replace", int, default=3),
        scores="sigmoid",
        num_groups=config.number("n_group", int, default=1),
        groups_per_token=config.number("topk_group", int, default=1),
        routed_scale=config.number("routed_scaling_factor", float, default=1.0),
        auxiliary_loss_weight=1e-4,
        bias_update_rate=1e-3,
    )
    attention = LatentAttention(
        key_value_rank=config.number("kv_lora_rank", int),
        query_rank=config.optional("q_lora_rank"),
        rotary_head_size=config.number("qk_rope_head_dim", int),
        value_head_size=config.number("v_head_dim", int),
    )
    found = {**sizes(config), "head_size": config.number("qk_nope_head_dim", int)}
    return ModelConfig(
        **{**found, "num_kv_heads": found["num_heads"]},
        attention=attention,
        feed_forward=experts,
        multi_token_depths=min(config.number("num_nextn_predict_layers", int, default=0), 1),
    )


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    latent, experts = model.latent_attention, model.experts
    assert latent is not None
    assert experts is not None
    return {
        **base_config(model, context=context),
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
        "head_dim": latent.rotary_head_size,
        "q_lora_rank": latent.query_rank,
        "kv_lora_rank": latent.key_value_rank,
        "qk_nope_head_dim": model.head_size,
        "qk_rope_head_dim": latent.rotary_head_size,
        "v_head_dim": latent.value_head_size,
        "rope_interleave": True,
        "n_routed_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "moe_intermediate_size": experts.ffn_hidden_size,
        "n_shared_experts": experts.shared_ffn_hidden_size // experts.ffn_hidden_size,
        "first_k_dense_replace": experts.num_dense_layers,
        "n_group": experts.num_groups,
        "topk_group": experts.groups_per_token,
        "routed_scaling_factor": experts.routed_scale,
        "norm_topk_prob": True,
        "num_nextn_predict_layers": model.multi_token_depths,
    }


def rules(model: ModelConfig) -> Iterator[Rule]:
    yield from _ends(model)
    for layer in range(model.num_layers):
        yield from _layer(model, layer, ours(layer, ""), theirs(layer, ""))
    for depth in range(model.multi_token_depths):
        yield from _depth(model, depth, theirs(model.num_layers + depth, ""))


def _ends(model: ModelConfig) -> Iterator[Rule]:
    """Every depth has a copy of the embedding and of the output layer."""
    copies = {
        "embedding.word_embeddings.weight": "embed_tokens.weight",
        "output_layer.weight": "shared_head.head.weight",
    }
    for rule in ends(model):
        if (copy := copies.get(rule.target.name)) is None:
            yield rule
            continue
        further = [Source(theirs(model.num_layers + depth, copy)) for depth in range(model.multi_token_depths)]
        yield Rule(rule.target, Repeated((*rule.making.sources, *further)))


def _depth(model: ModelConfig, depth: int, their: str) -> Iterator[Rule]:
    our = f"mtp.layers.{depth}."
    yield from (same(f"{our}{name}.weight", f"{their}{name}.weight") for name in ("enorm", "hnorm", "eh_proj"))
    yield from _layer(model, model.num_layers - 1, f"{depth_layer(depth)}.", their)
    yield same(f"{our}final_layernorm.weight", f"{their}shared_head.norm.weight")


def _layer(model: ModelConfig, layer: int, our: str, their: str) -> Iterator[Rule]:
    yield from norms_below(our, their)
    yield from _attention(model, f"{our}self_attention.", f"{their}self_attn.")
    if model.has_experts(layer):
        yield from _experts(model, f"{our}mlp.", f"{their}mlp.")
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


def _experts(model: ModelConfig, our: str, their: str) -> Iterator[Rule]:
    experts = model.experts
    assert experts is not None
    yield same(f"{our}router.weight", f"{their}gate.weight")
    yield same(f"{our}router.expert_bias", f"{their}gate.e_score_correction_bias")
    if experts.shared_ffn_hidden_size:
        yield from gated_network(f"{our}shared_experts", f"{their}shared_experts")
    for expert in range(experts.num_experts):
        yield from gated_network(f"{our}experts.experts", f"{their}experts.{expert}", expert=expert)
