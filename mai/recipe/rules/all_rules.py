"""Every rule between fields, by name, and the functions that try them all.

Types and ranges of single fields stand at the fields themselves.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from mai.errors import RecipeError
from mai.recipe.breach import Breach
from mai.recipe.recipe import Recipe
from mai.recipe.rules import (
    attention_rules,
    batch_rules,
    expert_rules,
    function_rules,
    multi_token_rules,
    rank_rules,
    recompute_rules,
    schedule_rules,
    stage_rules,
    tensor_rules,
    text_rules,
)

Rule = Callable[[Recipe], Iterator[Breach]]

RULES: tuple[Rule, ...] = (
    attention_rules.heads_are_shared_evenly,
    attention_rules.head_size_is_even,
    attention_rules.every_pair_has_its_factors,
    attention_rules.latent_heads_have_their_own_keys,
    attention_rules.rotary_head_size_is_even,
    attention_rules.a_window_is_what_some_layers_have,
    attention_rules.layers_that_are_named_are_there,
    attention_rules.an_own_core_decides_itself,
    attention_rules.biases_are_said_once,
    attention_rules.norms_of_all_heads_are_norms,
    attention_rules.a_part_of_a_head_is_turned,
    attention_rules.a_window_has_its_own_base,
    attention_rules.logits_are_scaled_once,
    attention_rules.latent_attention_has_no_biases,
    expert_rules.a_token_takes_no_more_experts_than_there_are,
    expert_rules.some_layer_has_experts,
    expert_rules.groups_share_the_experts_evenly,
    expert_rules.a_tokens_groups_hold_its_experts,
    expert_rules.expert_tensor_ranks_have_no_biases,
    expert_rules.a_shared_expert_has_no_biases,
    expert_rules.a_gate_has_a_shared_expert,
    expert_rules.a_router_learns_something,
    expert_rules.a_bias_needs_sigmoid_scores,
    expert_rules.expert_ranks_need_experts,
    expert_rules.ranks_share_the_experts_evenly,
    expert_rules.ranks_share_each_expert_evenly,
    expert_rules.tensor_ranks_need_a_cut_sequence,
    multi_token_rules.every_depth_has_a_token_to_predict,
    multi_token_rules.further_tokens_need_mais_layer_and_loss,
    multi_token_rules.stages_do_not_share_a_tied_embedding_with_further_tokens,
    tensor_rules.ranks_share_evenly,
    tensor_rules.a_cut_sequence_needs_ranks,
    tensor_rules.ranks_share_the_sequence_evenly,
    stage_rules.virtual_stages_need_a_pipeline,
    stage_rules.one_stage_needs_no_cut,
    stage_rules.even_stages_hold_the_same_number_of_layers,
    stage_rules.balanced_stages_hold_something,
    stage_rules.written_stages_make_the_model,
    recompute_rules.a_layer_is_all_of_it,
    recompute_rules.experts_include_the_shared_one,
    recompute_rules.recomputed_modules_are_there,
    rank_rules.experts_divide_the_ranks_of_a_stage,
    rank_rules.sharding_divides_the_copies,
    batch_rules.batch_is_whole_sequences,
    batch_rules.ranks_share_the_batch_evenly,
    batch_rules.ranks_share_the_evaluation_evenly,
    batch_rules.micro_batches_fill_the_pipeline,
    batch_rules.micro_batches_fill_every_interleaved_group,
    schedule_rules.warm_up_ends_before_the_run,
    schedule_rules.warm_up_and_decay_do_not_overlap,
    schedule_rules.groups_are_written_as_mai_reads_them,
    text_rules.trained_vocabulary_holds_every_byte,
    text_rules.lists_have_no_empty_or_double_entries,
    function_rules.named_functions_are_there,
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
    world = [] if world_size is None else list(rank_rules.world_breaches(recipe.parallel, world_size))
    if world_size is not None and not world:
        data = world_size // recipe.parallel.model_ranks
        recipe = replace(recipe, parallel=replace(recipe.parallel, data=data))
    return [*world, *(breach for rule in RULES for breach in rule(recipe))]
