"""Rules of what is computed again in the backward pass: a name that changes nothing is taken for a mistake."""

from collections.abc import Iterator

from mai.recipe.breach import Breach
from mai.recipe.recipe import Recipe
from mai.recipe.rules.breach_wording import breach

_PATH = "parallel.recompute"


def a_layer_is_all_of_it(recipe: Recipe) -> Iterator[Breach]:
    recompute = recipe.parallel.recompute
    if "layer" in recompute and set(recompute) != {"layer"}:
        rule = "a layer includes the others; use parallel.recompute=layer, or leave layer out"
        yield breach(recipe, rule, _PATH)


def experts_include_the_shared_one(recipe: Recipe) -> Iterator[Breach]:
    """Both would compute it twice again (megatron/core/transformer/moe/moe_layer.py, MoELayer.forward)."""
    if {"experts", "shared_experts"} <= set(recipe.parallel.recompute):
        yield breach(recipe, "experts include the shared one; leave shared_experts out", _PATH)


def recomputed_modules_are_there(recipe: Recipe) -> Iterator[Breach]:
    recompute, experts = set(recipe.parallel.recompute), recipe.model.experts
    if "norms" in recompute and not recipe.model.has_input_norms:
        rule = "norms are what comes before attention and network, and the model has none there; leave norms out"
        yield breach(recipe, rule, _PATH, "model.norms")
    if experts is None:
        if not recompute.isdisjoint({"experts", "shared_experts"}):
            rule = "the model has no experts; use feed_forward instead, or model.feed_forward.kind=experts"
            yield breach(recipe, rule, _PATH, "model.feed_forward.kind")
        return
    if "shared_experts" in recompute and not experts.shared_ffn_hidden_size:
        rule = "the model has no shared expert; leave shared_experts out, or give it a width"
        yield breach(recipe, rule, _PATH, "model.feed_forward.shared_ffn_hidden_size")
    model = recipe.model
    if "feed_forward" in recompute and all(map(model.has_experts, range(model.num_layers))):
        rule = "every layer has experts instead; use experts, or leave feed_forward out"
        yield breach(recipe, rule, _PATH, "model.feed_forward.num_dense_layers")
