"""Rules of attention heads."""

from collections.abc import Iterator

from mai.recipe.breach import Breach, listed
from mai.recipe.model import GroupedQueryAttention
from mai.recipe.recipe import Recipe
from mai.recipe.rules.breach_wording import breach, divisors, multiples_near, one_of


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


def a_window_is_what_some_layers_have(recipe: Recipe) -> Iterator[Breach]:
    model = recipe.model
    if model.window is None and model.global_every is not None:
        rule = "says which layers have no window, and none has one; set model.window, or model.global_every=none"
        yield breach(recipe, rule, "model.global_every", "model.window")
    if not model.global_positions and (model.window is None or model.global_every is None):
        rule = (
            "speaks of layers without a window among such with one; set model.window and model.global_every, or "
            "model.global_positions=true"
        )
        yield breach(recipe, rule, "model.global_positions", "model.window", "model.global_every")


def an_own_core_decides_itself(recipe: Recipe) -> Iterator[Breach]:
    """What mai's core takes from the recipe, another one does not know."""
    model = recipe.model
    if model.attention_core is None:
        return
    has_sinks = isinstance(model.attention, GroupedQueryAttention) and model.attention.sinks
    for path, is_set in {"model.window": model.window is not None, "model.attention.sinks": has_sinks}.items():
        if is_set:
            rule = "is of mai's attention core, and the model names its own; leave one of the two out"
            yield breach(recipe, rule, path, "model.attention_core")


def latent_attention_has_no_biases(recipe: Recipe) -> Iterator[Breach]:
    if recipe.model.biases and recipe.model.latent_attention:
        rule = "latent attention has none; use model.biases=false, or model.attention.kind=grouped_query"
        yield breach(recipe, rule, "model.biases", "model.attention.kind")


def rotary_head_size_is_even(recipe: Recipe) -> Iterator[Breach]:
    latent = recipe.model.latent_attention
    if latent and latent.rotary_head_size % 2:
        near = listed(multiples_near(latent.rotary_head_size, 2))
        rule = f"must be even, because rotary positions turn pairs; use {near}"
        yield breach(recipe, rule, "model.attention.rotary_head_size")
