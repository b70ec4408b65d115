"""Experts as in DeepSeek-V3 (arXiv 2412.19437, section 2.1.2): sigmoid scores in groups, balanced by a bias, beside a
shared expert."""

from collections.abc import Iterator
from typing import Any

from mai.model.families.shared_parts import gated_network, same
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import Rule
from mai.recipe import DenseFeedForward, MixtureOfExperts, ModelConfig


def sigmoid_experts(config: HfConfig, num_layers: int) -> MixtureOfExperts | DenseFeedForward:
    # Of the files that were published; the code for them knows nothing else.
    config.must_be("scoring_func", ["sigmoid", None])
    config.must_be("topk_method", ["noaux_tc", None])
    config.must_be("moe_layer_freq", [1, None])
    expert_size = config.number("moe_intermediate_size", int)
    shared, dense = config.number("n_shared_experts", int), config.number("first_k_dense_replace", int)
    groups, taken = config.number("n_group", int), config.number("topk_group", int)
    each_token = config.number("num_experts_per_tok", int)
    experts: dict[str, Any] = {
        "num_experts": config.number("n_routed_experts", int),
        "routed_scale": config.number("routed_scaling_factor", float),
        "normalised": config.number("norm_topk_prob", bool),
    }
    if dense >= num_layers:
        return DenseFeedForward()
    is_as_in_the_paper = groups == 1 or each_token == 2 * taken
    return MixtureOfExperts(
        **experts,
        experts_per_token=each_token,
        ffn_hidden_size=expert_size,
        shared_ffn_hidden_size=expert_size * shared,
        num_dense_layers=dense,
        scores="sigmoid",
        num_groups=groups,
        groups_per_token=taken,
        # The code takes two scores of each group, the paper experts_per_token / groups_per_token (section 2.1.2).
        scores_per_group=None if is_as_in_the_paper else 2,
        auxiliary_loss_weight=1e-4,
        bias_update_rate=1e-3,
    )


def sigmoid_experts_of(model: ModelConfig) -> dict[str, Any]:
    """The same the other way."""
    experts = model.experts
    if experts is None:
        return {"first_k_dense_replace": model.num_layers}
    return {
        "n_routed_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "moe_intermediate_size": experts.ffn_hidden_size,
        "n_shared_experts": experts.shared_ffn_hidden_size // experts.ffn_hidden_size,
        "first_k_dense_replace": experts.num_dense_layers,
        "n_group": experts.num_groups,
        "topk_group": experts.groups_per_token,
        "routed_scaling_factor": experts.routed_scale,
        "norm_topk_prob": experts.normalised,
    }


def expert_rules(model: ModelConfig, our: str, their: str) -> Iterator[Rule]:
    """By what our names and theirs begin with; the selection bias is there where the model has one."""
    experts = model.experts
    assert experts is not None
    yield same(f"{our}router.weight", f"{their}gate.weight")
    if experts.bias_update_rate:
        yield same(f"{our}router.expert_bias", f"{their}gate.e_score_correction_bias")
    if experts.shared_ffn_hidden_size:
        yield from gated_network(f"{our}shared_experts", f"{their}shared_experts")
    for expert in range(experts.num_experts):
        yield from gated_network(f"{our}experts.experts", f"{their}experts.{expert}", expert=expert)
