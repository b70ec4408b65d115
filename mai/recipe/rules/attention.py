"""Rules of attention heads."""

from collections.abc import Iterator

from mai.recipe.breach import Breach, listed
from mai.recipe.recipe import Recipe
from mai.recipe.rules.wording import breach, divisors, multiples_near, one_of


def heads_are_shared_evenly(recipe: Recipe) -> Iterator[Breach]:
    heads, kv_heads = recipe.model.num_heads, recipe.model.num_kv_heads
    if not recipe.model.latent_attention and heads % kv_heads:
        choices = one_of(divisors(heads), near=kv_heads)
        rule = f"the key-value heads must divide the heads; use model.num_kv_heads {choices}"
        yield breach(recipe, rule, "model.num_heads", "model.num_kv_heads")


def head_size_is_even(recipe: Recipe) -> Iterator[Breach]:
    """In latent attention another part of the head carries the position."""
    size = recipe.model.head_size
    if not recipe.model.latent_attention and size % 2:
        rule = f"must be even, because rotary positions turn pairs; use {listed(multiples_near(size, 2))}"
        yield breach(recipe, rule, "model.head_size")


def latent_heads_have_their_own_keys(recipe: Recipe) -> Iterator[Breach]:
    heads, kv_heads = recipe.model.num_heads, recipe.model.num_kv_heads
    if recipe.model.latent_attention and heads != kv_heads:
        rule = (
            f"in latent attention every head has its own key and value; use model.num_kv_heads={heads}, "
            f"or model.attention.kind=grouped_query"
        )
        yield breach(recipe, rule, "model.num_heads", "model.num_kv_heads", "model.attention.kind")


def rotary_head_size_is_even(recipe: Recipe) -> Iterator[Breach]:
    latent = recipe.model.latent_attention
    if latent and latent.rotary_head_size % 2:
        near = listed(multiples_near(latent.rotary_head_size, 2))
        rule = f"must be even, because rotary positions turn pairs; use {near}"
        yield breach(recipe, rule, "model.attention.rotary_head_size")
