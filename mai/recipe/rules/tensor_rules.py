"""Rules of what tensor and context ranks share: matrices and the sequence."""

import math
from collections.abc import Iterator

from mai.recipe.breach import Breach, listed
from mai.recipe.recipe import Recipe
from mai.recipe.rules.breach_wording import breach, divisors, multiples_near, one_of


def ranks_share_evenly(recipe: Recipe) -> Iterator[Breach]:
    """Megatron-Core could give every rank a copy of the key-value heads; mai cuts all matrices the same way."""
    tensor, cut = recipe.parallel.tensor, _cut_by_tensor_ranks(recipe)
    fits_all = one_of(divisors(math.gcd(*cut.values())), near=tensor)
    for path, size in cut.items():
        if size % tensor:
            rule = (
                f"parallel.tensor must divide it; use parallel.tensor {fits_all}, "
                f"or {path}={listed(multiples_near(size, tensor))}"
            )
            yield breach(recipe, rule, path, "parallel.tensor")


def _cut_by_tensor_ranks(recipe: Recipe) -> dict[str, int]:
    """Latent vectors are not: every tensor rank makes them whole (`mai/engine/latent_attention.py`)."""
    model, experts = recipe.model, recipe.model.experts
    cut = {"model.num_heads": model.num_heads, "model.vocab_size": model.vocab_size}
    if not model.latent_attention:
        cut["model.num_kv_heads"] = model.num_kv_heads
    if not all(map(model.has_experts, range(model.num_layers))):
        cut["model.ffn_hidden_size"] = model.ffn_hidden_size
    if experts and experts.shared_ffn_hidden_size:
        cut["model.feed_forward.shared_ffn_hidden_size"] = experts.shared_ffn_hidden_size
    return cut


def a_cut_sequence_needs_ranks(recipe: Recipe) -> Iterator[Breach]:
    parallel = recipe.parallel
    if parallel.sequence and parallel.tensor == 1:
        rule = "the sequence is split over the tensor ranks; use parallel.tensor=2 or more, or parallel.sequence=false"
        yield breach(recipe, rule, "parallel.sequence", "parallel.tensor")


def ranks_share_the_sequence_evenly(recipe: Recipe) -> Iterator[Breach]:
    length, parallel = recipe.data.sequence_length, recipe.parallel
    parts = 2 * parallel.context if parallel.context > 1 else 1
    unit = parts * (parallel.tensor if parallel.sequence else 1)
    if length % unit == 0:
        return
    near = listed(multiples_near(length, unit, at_least=2))
    by_tensor = ("parallel.tensor", "parallel.sequence") if parallel.sequence else ()
    if parallel.context == 1:
        rule = f"with parallel.sequence=true, parallel.tensor must divide it; use {near}"
        yield breach(recipe, rule, "data.sequence_length", *by_tensor)
        return
    further = f", and the {parallel.tensor} tensor ranks split each" if parallel.sequence else ""
    rule = f"every context rank takes an early and a late part{further}, so {unit} must divide it; use {near}"
    yield breach(recipe, rule, "data.sequence_length", "parallel.context", *by_tensor)
