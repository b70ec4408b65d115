"""Rules of a mixture of experts."""

from collections.abc import Iterator

from mai.recipe.breach import Breach, listed
from mai.recipe.recipe import Recipe
from mai.recipe.rules.breach_wording import breach, divisors, multiples_near, one_of


def a_token_takes_no_more_experts_than_there_are(recipe: Recipe) -> Iterator[Breach]:
    experts = recipe.model.experts
    if experts and experts.experts_per_token > experts.num_experts:
        rule = f"a token can take each expert once; use {experts.num_experts} or less"
        yield breach(recipe, rule, "model.feed_forward.experts_per_token", "model.feed_forward.num_experts")


def some_layer_has_experts(recipe: Recipe) -> Iterator[Breach]:
    experts, layers = recipe.model.experts, recipe.model.num_layers
    if experts and experts.num_dense_layers + experts.every > layers:
        most = layers - experts.every
        fewer = f"{most} or less, or " if most >= 0 else ""
        every = ("model.feed_forward.every",) if experts.every > 1 else ()
        rule = f"no layer is left for the experts; use {fewer}model.feed_forward.kind=dense"
        yield breach(recipe, rule, "model.feed_forward.num_dense_layers", *every, "model.num_layers")
    elif experts and not any(map(recipe.model.has_experts, range(layers))):
        rule = "no layer is left for the experts; name fewer, or use model.feed_forward.kind=dense"
        yield breach(recipe, rule, "model.feed_forward.dense_layers", "model.num_layers")


def groups_share_the_experts_evenly(recipe: Recipe) -> Iterator[Breach]:
    experts = recipe.model.experts
    if experts and experts.num_experts % experts.num_groups:
        near = listed(multiples_near(experts.num_experts, experts.num_groups))
        rule = (
            "every group must hold the same number of experts; use model.feed_forward.num_groups "
            f"{one_of(divisors(experts.num_experts), near=experts.num_groups)}, or "
            f"model.feed_forward.num_experts={near}"
        )
        yield breach(recipe, rule, "model.feed_forward.num_experts", "model.feed_forward.num_groups")


def a_tokens_groups_hold_its_experts(recipe: Recipe) -> Iterator[Breach]:
    """Megatron-Core asks the same (transformer/moe/moe_utils.py, group_limited_topk) where each group is judged by its
    best `experts_per_token / groups_per_token` scores; judged by others, the open groups must hold enough."""
    experts = recipe.model.experts
    if not experts or experts.num_experts % experts.num_groups:
        return
    paths = ("model.feed_forward.groups_per_token", "model.feed_forward.num_groups")
    if experts.groups_per_token > experts.num_groups:
        rule = f"a token can take each group once; use {experts.num_groups} or less"
        yield breach(recipe, rule, *paths)
        return
    if experts.num_groups == 1:
        return
    each, rest = divmod(experts.experts_per_token, experts.groups_per_token)
    if experts.scores_per_group is not None:
        of_a_group = experts.num_experts // experts.num_groups
        if experts.scores_per_group > of_a_group:
            rule = f"a group has {of_a_group} experts; use {of_a_group} or less"
            yield breach(recipe, rule, "model.feed_forward.scores_per_group", "model.feed_forward.num_groups")
        if experts.experts_per_token > experts.groups_per_token * of_a_group:
            rule = f"its groups hold {experts.groups_per_token * of_a_group}; use that or less"
            yield breach(recipe, rule, "model.feed_forward.experts_per_token", *paths)
        return
    if rest or each > experts.num_experts // experts.num_groups:
        fits = [
            groups
            for groups in divisors(experts.experts_per_token)
            if groups <= experts.num_groups
            and experts.experts_per_token // groups <= experts.num_experts // experts.num_groups
        ]
        ways = f"model.feed_forward.groups_per_token {one_of(fits, near=experts.groups_per_token)}, or " if fits else ""
        rule = (
            "a token takes as many experts from each of its groups, and no more than a group has; use "
            f"{ways}model.feed_forward.num_groups=1"
        )
        yield breach(recipe, rule, "model.feed_forward.experts_per_token", *paths)


def expert_tensor_ranks_have_no_biases(recipe: Recipe) -> Iterator[Breach]:
    """Each would add the whole bias to its part of the sum (megatron/core/transformer/mlp.py, MLP.forward)."""
    if recipe.model.biases and recipe.model.experts and recipe.parallel.expert_tensor > 1:
        rule = "experts with biases cannot be cut; use parallel.expert_tensor=1"
        yield breach(recipe, rule, "parallel.expert_tensor", "model.biases")


def a_shared_expert_has_no_biases(recipe: Recipe) -> Iterator[Breach]:
    """Megatron-Core refuses it as it builds the layer (transformer/moe/shared_experts.py, core 0.16.1)."""
    if recipe.model.biases and recipe.model.experts and recipe.model.experts.shared_ffn_hidden_size:
        rule = "a shared expert has none; use model.biases=false, or model.feed_forward.shared_ffn_hidden_size=0"
        yield breach(recipe, rule, "model.biases", "model.feed_forward.shared_ffn_hidden_size")


def a_gate_has_a_shared_expert(recipe: Recipe) -> Iterator[Breach]:
    experts = recipe.model.experts
    if experts and experts.shared_gate and not experts.shared_ffn_hidden_size:
        rule = "there is no shared expert; give it a width, or use model.feed_forward.shared_gate=false"
        yield breach(recipe, rule, "model.feed_forward.shared_gate", "model.feed_forward.shared_ffn_hidden_size")


def a_router_learns_something(recipe: Recipe) -> Iterator[Breach]:
    """Megatron-Core refuses it as well (transformer/transformer_config.py, moe_router_topk == 1). A model that comes
    with weights has learned elsewhere."""
    experts = recipe.model.experts
    is_new = recipe.checkpoint.start_from is None
    if experts and experts.experts_per_token == 1 and experts.normalised and is_new:
        rule = (
            "one picked expert weighs 1 whatever the router says, so it would learn nothing from the loss; "
            "use model.feed_forward.normalised=false, or model.feed_forward.experts_per_token=2 or more"
        )
        yield breach(recipe, rule, "model.feed_forward.experts_per_token", "model.feed_forward.normalised")


def a_bias_needs_sigmoid_scores(recipe: Recipe) -> Iterator[Breach]:
    """Megatron-Core refuses it as well (transformer/transformer_config.py, moe_router_enable_expert_bias)."""
    experts = recipe.model.experts
    if experts and experts.bias_update_rate > 0 and experts.scores != "sigmoid":
        rule = (
            "a selection bias goes with sigmoid scores only; "
            "use model.feed_forward.scores=sigmoid, or model.feed_forward.bias_update_rate=0"
        )
        yield breach(recipe, rule, "model.feed_forward.bias_update_rate", "model.feed_forward.scores")


def expert_ranks_need_experts(recipe: Recipe) -> Iterator[Breach]:
    axes = {"parallel.expert": recipe.parallel.expert, "parallel.expert_tensor": recipe.parallel.expert_tensor}
    for path, ranks in axes.items():
        if ranks > 1 and not recipe.model.experts:
            rule = f"there are no experts to share out; use {path}=1, or model.feed_forward.kind=experts"
            yield breach(recipe, rule, path, "model.feed_forward.kind")


def ranks_share_the_experts_evenly(recipe: Recipe) -> Iterator[Breach]:
    experts, ranks = recipe.model.experts, recipe.parallel.expert
    if experts and experts.num_experts % ranks:
        near = listed(multiples_near(experts.num_experts, ranks))
        rule = (
            "every expert rank must hold the same number of experts; use parallel.expert "
            f"{one_of(divisors(experts.num_experts), near=ranks)}, or model.feed_forward.num_experts={near}"
        )
        yield breach(recipe, rule, "model.feed_forward.num_experts", "parallel.expert")


def ranks_share_each_expert_evenly(recipe: Recipe) -> Iterator[Breach]:
    experts, ranks = recipe.model.experts, recipe.parallel.expert_tensor
    if experts and experts.ffn_hidden_size % ranks:
        near = listed(multiples_near(experts.ffn_hidden_size, ranks))
        rule = (
            "parallel.expert_tensor must divide it; use parallel.expert_tensor "
            f"{one_of(divisors(experts.ffn_hidden_size), near=ranks)}, or model.feed_forward.ffn_hidden_size={near}"
        )
        yield breach(recipe, rule, "model.feed_forward.ffn_hidden_size", "parallel.expert_tensor")


def tensor_ranks_need_a_cut_sequence(recipe: Recipe) -> Iterator[Breach]:
    """Megatron-Core stops in the first step otherwise (transformer/moe/moe_layer.py, MoELayer.forward): each tensor
    rank would route every token."""
    parallel = recipe.parallel
    if recipe.model.experts and parallel.tensor > 1 and not parallel.sequence:
        rule = (
            "with experts the tensor ranks must share out the tokens; use parallel.sequence=true, or parallel.tensor=1"
        )
        yield breach(recipe, rule, "parallel.tensor", "parallel.sequence", "model.feed_forward.kind")
