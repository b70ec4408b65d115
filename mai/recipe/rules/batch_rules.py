"""Rules of how a step's tokens become the micro-batches of each copy of the model."""

from collections.abc import Iterator

from mai.recipe.breach import Breach, listed
from mai.recipe.recipe import Recipe
from mai.recipe.rules.breach_wording import breach, multiples_near


def batch_is_whole_sequences(recipe: Recipe) -> Iterator[Breach]:
    tokens, length = recipe.train.batch_tokens, recipe.data.sequence_length
    if tokens % length:
        rule = f"must be a multiple of the sequence length; use {listed(multiples_near(tokens, length))}"
        yield breach(recipe, rule, "train.batch_tokens", "data.sequence_length")


def ranks_share_the_batch_evenly(recipe: Recipe) -> Iterator[Breach]:
    _, rest, at_once = _micro_batches(recipe)
    if rest and recipe.train.batch_tokens % recipe.data.sequence_length == 0:
        near = listed(multiples_near(recipe.train.batch_tokens, at_once * recipe.data.sequence_length))
        rule = (
            f"a step has {recipe.batch_sequences} sequences, and all copies together take {at_once} at once; "
            f"use train.batch_tokens={near}"
        )
        yield breach(recipe, rule, *_batch_paths(recipe))


def ranks_share_the_evaluation_evenly(recipe: Recipe) -> Iterator[Breach]:
    """Every layout judges the same sequences, so none are added to fill up the last ranks."""
    group = recipe.parallel.schedule.micro_batch_group
    sequences, at_once = recipe.evaluate.sequences, group * _micro_batches(recipe)[2]
    if sequences % at_once:
        near = listed(multiples_near(sequences, at_once))
        data = () if recipe.parallel.data is None else ("parallel.data",)
        stages = ("parallel.pipeline", "parallel.virtual_stages") if group > 1 else ()
        each = f" (interleaved stages take {group} micro-batches at a time)" if group > 1 else ""
        rule = f"all copies together take {at_once} sequences at once{each}, and none may be left over; use {near}"
        yield breach(recipe, rule, "evaluate.sequences", "parallel.micro_batch_sequences", *data, *stages)


def micro_batches_fill_the_pipeline(recipe: Recipe) -> Iterator[Breach]:
    stages = recipe.parallel.pipeline
    micro_batches, rest, at_once = _micro_batches(recipe)
    if not rest and 0 < micro_batches < stages:
        least = stages * at_once * recipe.data.sequence_length
        there_are = f"{micro_batches} micro-batch{'es' if micro_batches > 1 else ''}"
        rule = (
            f"a step has {there_are} for {stages} pipeline stages, so some would always idle; "
            f"use train.batch_tokens={least} or more, or parallel.pipeline={micro_batches} or less"
        )
        yield breach(recipe, rule, *_batch_paths(recipe), "parallel.pipeline")


def micro_batches_fill_every_interleaved_group(recipe: Recipe) -> Iterator[Breach]:
    group = recipe.parallel.schedule.micro_batch_group
    micro_batches, rest, at_once = _micro_batches(recipe)
    if not rest and micro_batches > group and micro_batches % group:
        near = listed(multiples_near(recipe.train.batch_tokens, group * at_once * recipe.data.sequence_length))
        rule = (
            f"a step has {micro_batches} micro-batches, and interleaved stages take {group} at a time; "
            f"use train.batch_tokens={near}, or parallel.virtual_stages=1"
        )
        yield breach(recipe, rule, *_batch_paths(recipe), "parallel.pipeline", "parallel.virtual_stages")


def _micro_batches(recipe: Recipe) -> tuple[int, int, int]:
    """Whole micro-batches of a step, sequences left over, and sequences that all copies together take at once."""
    at_once = recipe.parallel.micro_batch_sequences * (recipe.parallel.data or 1)
    return *divmod(recipe.batch_sequences, at_once), at_once


def _batch_paths(recipe: Recipe) -> tuple[str, ...]:
    """Who decides how many micro-batches a step has; how many copies share it may not be known yet."""
    data = () if recipe.parallel.data is None else ("parallel.data",)
    return ("train.batch_tokens", "data.sequence_length", "parallel.micro_batch_sequences", *data)
