"""Every rule between fields, by name, and the functions that try them all.

Types and ranges of single fields stand at the fields themselves.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from mai.errors import RecipeError
from mai.recipe.breach import Breach
from mai.recipe.recipe import Recipe
from mai.recipe.rules import (
    attention,
    batch,
    experts,
    functions,
    multi_token,
    ranks,
    recompute,
    schedule,
    stages,
    tensor,
    text,
)

Rule = Callable[[Recipe], Iterator[Breach]]

RULES: tuple[Rule, ...] = (
    attention.heads_are_shared_evenly,
    attention.head_size_is_even,
    attention.latent_heads_have_their_own_keys,
    attention.rotary_head_size_is_even,
    attention.a_window_is_what_some_layers_have,
    attention.an_own_core_decides_itself,
    attention.latent_attention_has_no_biases,
    experts.a_token_takes_no_more_experts_than_there_are,
    experts.some_layer_has_experts,
    experts.groups_share_the_experts_evenly,
    experts.a_tokens_groups_hold_its_experts,
    experts.expert_tensor_ranks_have_no_biases,
    experts.a_shared_expert_has_no_biases,
    experts.one_expert_needs_sigmoid_scores,
    experts.a_bias_needs_sigmoid_scores,
    experts.expert_ranks_need_experts,
    experts.ranks_share_the_experts_evenly,
    experts.ranks_share_each_expert_evenly,
    experts.tensor_ranks_need_a_cut_sequence,
    multi_token.every_depth_has_a_token_to_predict,
    multi_token.further_tokens_need_mais_layer_and_loss,
    multi_token.stages_do_not_share_a_tied_embedding_with_further_tokens,
    tensor.ranks_share_evenly,
    tensor.a_cut_sequence_needs_ranks,
    tensor.ranks_share_the_sequence_evenly,
    stages.virtual_stages_need_a_pipeline,
    stages.one_part_needs_no_stages,
    stages.even_parts_hold_the_same_number_of_layers,
    stages.balanced_parts_hold_something,
    stages.written_parts_make_the_model,
    recompute.a_layer_is_all_of_it,
    recompute.experts_include_the_shared_one,
    recompute.recomputed_modules_are_there,
    ranks.experts_divide_the_ranks_of_a_stage,
    ranks.sharding_divides_the_copies,
    batch.batch_is_whole_sequences,
    batch.ranks_share_the_batch_evenly,
    batch.ranks_share_the_evaluation_evenly,
    batch.micro_batches_fill_the_pipeline,
    batch.micro_batches_fill_every_interleaved_group,
    schedule.warm_up_ends_before_the_run,
    schedule.warm_up_and_decay_do_not_overlap,
    schedule.groups_are_written_as_mai_reads_them,
    text.trained_vocabulary_holds_every_byte,
    text.lists_have_no_empty_or_double_entries,
    functions.named_functions_are_there,
)
"""To add a rule, write it in the file of its topic and name it here."""


def check(recipe: Recipe, world_size: int | None = None) -> None:
    """Raise RecipeError with every rule that the recipe breaks, on this many ranks if given."""
    found = violations(recipe, world_size)
    if found:
        raise RecipeError(*found)


def violations(recipe: Recipe, world_size: int | None = None) -> list[str]:
    """Every rule that the recipe breaks, one message each."""
    return [breach.message for breach in breaches(recipe, world_size)]


def breaches(recipe: Recipe, world_size: int | None = None) -> list[Breach]:
    """`violations` with the paths of the fields that take part."""
    world = [] if world_size is None else list(ranks.world_breaches(recipe.parallel, world_size))
    if world_size is not None and not world:
        data = world_size // recipe.parallel.model_ranks
        recipe = replace(recipe, parallel=replace(recipe.parallel, data=data))
    return [*world, *(breach for rule in RULES for breach in rule(recipe))]
