"""Rules of attention heads."""

from collections.abc import Iterator

from mai.recipe.breach import Breach, listed
from mai.recipe.model import GroupedQueryAttention
from mai.recipe.positions import LongPositions, YarnPositions
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


def every_pair_has_its_factors(recipe: Recipe) -> Iterator[Breach]:
    positions, pairs = recipe.model.positions, recipe.model.rotary_size // 2
    if isinstance(positions, LongPositions):
        for name in ("short_factors", "long_factors"):
            factors = getattr(positions, name)
            if len(factors) != pairs or min(factors, default=1) <= 0:
                rule = f"one number above 0 for each pair of a head's numbers is needed, {pairs} of them"
                yield breach(recipe, rule, f"model.positions.{name}", "model.head_size")


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
    if model.global_layers and (model.window is None or model.global_every is not None):
        rule = "says which layers have no window, and so does global_every; set model.window and one of the two"
        yield breach(recipe, rule, "model.global_layers", "model.window", "model.global_every")
    if not model.global_positions and (model.window is None or not (model.global_every or model.global_layers)):
        rule = (
            "speaks of layers without a window among such with one; set model.window and model.global_every, or "
            "model.global_positions=true"
        )
        yield breach(recipe, rule, "model.global_positions", "model.window", "model.global_every")


def layers_that_are_named_are_there(recipe: Recipe) -> Iterator[Breach]:
    model = recipe.model
    named = {"model.global_layers": model.global_layers, "model.still_layers": model.still_layers}
    if model.experts is not None:
        named["model.feed_forward.dense_layers"] = model.experts.dense_layers
    for path, layers in named.items():
        if max(layers, default=0) >= model.num_layers:
            rule = f"layers are counted from 0; use {model.num_layers - 1} or less"
            yield breach(recipe, rule, path, "model.num_layers")


def an_own_core_decides_itself(recipe: Recipe) -> Iterator[Breach]:
    """What mai's core takes from the recipe, another one does not know."""
    model = recipe.model
    if model.attention_core is None:
        return
    taken = {
        "model.window": model.window is not None,
        "model.attention.sinks": model.has_sinks,
        "model.softmax_scale": model.softmax_scale is not None,
        "model.positions.softmax_scale": isinstance(model.positions, YarnPositions) and model.positions.softmax_scale,
    }
    for path, is_set in taken.items():
        if is_set:
            rule = "is of mai's attention core, and the model names its own; leave one of the two out"
            yield breach(recipe, rule, path, "model.attention_core")


def biases_are_said_once(recipe: Recipe) -> Iterator[Breach]:
    attention = recipe.model.attention
    if recipe.model.biases and isinstance(attention, GroupedQueryAttention) and attention.biases != "none":
        rule = "model.biases has them everywhere, in attention too; use model.attention.biases=none"
        yield breach(recipe, rule, "model.biases", "model.attention.biases")


def norms_of_all_heads_are_norms(recipe: Recipe) -> Iterator[Breach]:
    attention = recipe.model.attention
    if isinstance(attention, GroupedQueryAttention) and attention.norm_over != "head" and not attention.qk_norm:
        rule = "says what queries and keys are normed over, and they are not; use model.attention.qk_norm=true"
        yield breach(recipe, rule, "model.attention.norm_over", "model.attention.qk_norm")


def a_part_of_a_head_is_turned(recipe: Recipe) -> Iterator[Breach]:
    model = recipe.model
    if model.rotary_share != 1 and model.latent_attention:
        rule = "latent attention turns model.attention.rotary_head_size numbers; use model.rotary_share=1"
        yield breach(recipe, rule, "model.rotary_share", "model.attention.kind")
    elif model.rotary_size == 0:
        rule = f"no pair of a head's {model.head_size} numbers is left; use {2 / model.head_size:g} or more"
        yield breach(recipe, rule, "model.rotary_share", "model.head_size")


def a_window_has_its_own_base(recipe: Recipe) -> Iterator[Breach]:
    model = recipe.model
    if model.window_rotary_base is not None and model.window is None:
        rule = "is of layers with a window, and none has one; set model.window, or model.window_rotary_base=none"
        yield breach(recipe, rule, "model.window_rotary_base", "model.window")


def logits_are_scaled_once(recipe: Recipe) -> Iterator[Breach]:
    model = recipe.model
    if model.softmax_scale is not None and isinstance(model.positions, YarnPositions) and model.positions.softmax_scale:
        rule = "both say what the logits of attention are multiplied with; use one of the two"
        yield breach(recipe, rule, "model.softmax_scale", "model.positions.softmax_scale")


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
