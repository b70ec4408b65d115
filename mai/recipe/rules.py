"""Rules between fields: one small function each, all listed at the end; every breach is found at once.

Types and ranges of single fields stand at the fields themselves. A message names the fields with their values, the
rule, and the nearest values that keep it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from mai.errors import RecipeError
from mai.recipe.breach import Breach, listed, shown
from mai.recipe.knobs import value_at
from mai.recipe.optimizer import WarmupStableDecay
from mai.recipe.parallel import ParallelConfig
from mai.recipe.recipe import Recipe, to_dict

Rule = Callable[[Recipe], Iterator[Breach]]

BYTE_LEVEL_TOKENS = 257
"""The smallest byte-level vocabulary: 256 bytes and the end of a document."""

_LARGEST_DIVISOR = 4096
_NUM_SUGGESTIONS = 6


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
    world = [] if world_size is None else list(world_breaches(recipe.parallel, world_size))
    if world_size is not None and not world:
        data = world_size // recipe.parallel.model_ranks
        recipe = replace(recipe, parallel=replace(recipe.parallel, data=data))
    return [*world, *(breach for rule in RULES for breach in rule(recipe))]


def world_breaches(parallel: ParallelConfig, world_size: int) -> Iterator[Breach]:
    """The ranks are exactly tensor x pipeline x data, or a multiple of tensor x pipeline where data is left open."""
    paths = ("parallel.tensor", "parallel.pipeline", "parallel.data")
    copy_ranks = parallel.model_ranks
    layout = f"parallel.tensor={parallel.tensor} x parallel.pipeline={parallel.pipeline}"
    if parallel.data is not None:
        takes = copy_ranks * parallel.data
        fits = f", or set parallel.data={world_size // copy_ranks}" if world_size % copy_ranks == 0 else ""
        if world_size != takes:
            rule = f"{layout} x parallel.data={parallel.data} takes {takes}; start {takes}{fits}"
            yield Breach(f"{world_size} ranks: {rule}", paths)
    elif world_size % copy_ranks:
        near = listed(_multiples_near(world_size, copy_ranks))
        yield Breach(f"{world_size} ranks: must be a multiple of {copy_ranks} ({layout}); start {near}", paths)


def heads_are_shared_evenly(recipe: Recipe) -> Iterator[Breach]:
    heads, kv_heads = recipe.model.num_heads, recipe.model.num_kv_heads
    if heads % kv_heads:
        rule = f"the key-value heads must divide the heads; use model.num_kv_heads {_one_of(heads, near=kv_heads)}"
        yield _breach(recipe, rule, "model.num_heads", "model.num_kv_heads")


def head_size_is_even(recipe: Recipe) -> Iterator[Breach]:
    size = recipe.model.head_size
    if size % 2:
        rule = f"must be even, because rotary positions turn pairs; use {listed(_multiples_near(size, 2))}"
        yield _breach(recipe, rule, "model.head_size")


def tensor_ranks_share_evenly(recipe: Recipe) -> Iterator[Breach]:
    """Megatron-Core could give every rank a copy of the key-value heads; mai cuts all matrices the same way."""
    model, tensor = recipe.model, recipe.parallel.tensor
    cut = {
        "model.num_heads": model.num_heads,
        "model.num_kv_heads": model.num_kv_heads,
        "model.ffn_hidden_size": model.ffn_hidden_size,
        "model.vocab_size": model.vocab_size,
    }
    fits_all = _one_of(math.gcd(*cut.values()), near=tensor)
    for path, size in cut.items():
        if size % tensor:
            rule = (
                f"parallel.tensor must divide it; use parallel.tensor {fits_all}, "
                f"or {path}={listed(_multiples_near(size, tensor))}"
            )
            yield _breach(recipe, rule, path, "parallel.tensor")


def stages_share_layers_evenly(recipe: Recipe) -> Iterator[Breach]:
    layers, stages = recipe.model.num_layers, recipe.parallel.pipeline
    if layers % stages:
        rule = (
            f"every stage must hold the same number of layers; use parallel.pipeline {_one_of(layers, near=stages)}, "
            f"or model.num_layers={listed(_multiples_near(layers, stages))}"
        )
        yield _breach(recipe, rule, "model.num_layers", "parallel.pipeline")


def sequence_needs_tensor_ranks(recipe: Recipe) -> Iterator[Breach]:
    parallel = recipe.parallel
    if parallel.sequence and parallel.tensor == 1:
        rule = "the sequence is split over the tensor ranks; use parallel.tensor=2 or more, or parallel.sequence=false"
        yield _breach(recipe, rule, "parallel.sequence", "parallel.tensor")


def tensor_ranks_share_the_sequence(recipe: Recipe) -> Iterator[Breach]:
    length, tensor = recipe.data.sequence_length, recipe.parallel.tensor
    if recipe.parallel.sequence and length % tensor:
        near = listed(_multiples_near(length, tensor, at_least=2))
        rule = f"with parallel.sequence=true, parallel.tensor must divide it; use {near}"
        yield _breach(recipe, rule, "data.sequence_length", "parallel.tensor", "parallel.sequence")


def batch_is_whole_sequences(recipe: Recipe) -> Iterator[Breach]:
    tokens, length = recipe.train.batch_tokens, recipe.data.sequence_length
    if tokens % length:
        rule = f"must be a multiple of the sequence length; use {listed(_multiples_near(tokens, length))}"
        yield _breach(recipe, rule, "train.batch_tokens", "data.sequence_length")


def ranks_share_the_batch_evenly(recipe: Recipe) -> Iterator[Breach]:
    _, rest, at_once = _micro_batches(recipe)
    if rest and recipe.train.batch_tokens % recipe.data.sequence_length == 0:
        near = listed(_multiples_near(recipe.train.batch_tokens, at_once * recipe.data.sequence_length))
        rule = (
            f"a step has {recipe.batch_sequences} sequences, and all copies together take {at_once} at once; "
            f"use train.batch_tokens={near}"
        )
        yield _breach(recipe, rule, *_batch_paths(recipe))


def ranks_share_the_evaluation_evenly(recipe: Recipe) -> Iterator[Breach]:
    """Every layout judges the same sequences, so none are added to fill up the last ranks."""
    _, _, at_once = _micro_batches(recipe)
    sequences = recipe.evaluate.sequences
    if sequences % at_once:
        near = listed(_multiples_near(sequences, at_once))
        rule = f"all copies together take {at_once} sequences at once, and none may be left over; use {near}"
        data = () if recipe.parallel.data is None else ("parallel.data",)
        yield _breach(recipe, rule, "evaluate.sequences", "parallel.micro_batch_sequences", *data)


def micro_batches_fill_the_pipeline(recipe: Recipe) -> Iterator[Breach]:
    stages = recipe.parallel.pipeline
    micro_batches, rest, at_once = _micro_batches(recipe)
    if not rest and 0 < micro_batches < stages:
        least = stages * at_once * recipe.data.sequence_length
        rule = (
            f"a step has {micro_batches} micro-batches for {stages} pipeline stages, so some would always idle; "
            f"use train.batch_tokens={least} or more, or parallel.pipeline={micro_batches} or less"
        )
        yield _breach(recipe, rule, *_batch_paths(recipe), "parallel.pipeline")


def warm_up_ends_before_the_run(recipe: Recipe) -> Iterator[Breach]:
    steps, warmup_steps = recipe.train.steps, recipe.optimizer.schedule.warmup_steps
    if warmup_steps >= steps:
        rule = f"the warm-up must end before the run does; use {steps - 1} or less"
        yield _breach(recipe, rule, "optimizer.schedule.warmup_steps", "train.steps")


def warm_up_and_decay_do_not_overlap(recipe: Recipe) -> Iterator[Breach]:
    steps, schedule = recipe.train.steps, recipe.optimizer.schedule
    if not isinstance(schedule, WarmupStableDecay) or schedule.warmup_steps >= steps:
        return
    decay_steps = round(schedule.decay_fraction * steps)
    if schedule.warmup_steps + decay_steps > steps:
        rule = (
            f"the decay takes the last {decay_steps} of train.steps={steps}, and the warm-up must end before; "
            f"use optimizer.schedule.warmup_steps={steps - decay_steps} or less"
        )
        paths = ("optimizer.schedule.warmup_steps", "optimizer.schedule.decay_fraction")
        yield Breach(_breach(recipe, rule, *paths).message, (*paths, "train.steps"))


def trained_vocabulary_holds_every_byte(recipe: Recipe) -> Iterator[Breach]:
    if recipe.data.tokenizer is None and recipe.model.vocab_size < BYTE_LEVEL_TOKENS:
        tensor = recipe.parallel.tensor
        least = math.ceil(BYTE_LEVEL_TOKENS / tensor) * tensor
        rule = f"a byte-level tokenizer needs 256 bytes and the end of a document; use {least} or more"
        yield _breach(recipe, rule, "model.vocab_size", "data.tokenizer")


def lists_have_no_empty_or_double_entries(recipe: Recipe) -> Iterator[Breach]:
    for path, items in (("data.documents", recipe.data.documents), ("observe.sinks", recipe.observe.sinks)):
        if not all(items):
            yield _breach(recipe, "an entry is empty; take it out", path)
        double = sorted({item for item in items if items.count(item) > 1})
        if double:
            yield _breach(recipe, f"{listed(double, joined_by='and')} is there more than once; keep one", path)


def _micro_batches(recipe: Recipe) -> tuple[int, int, int]:
    """Whole micro-batches of a step, sequences left over, and sequences that all copies together take at once."""
    at_once = recipe.parallel.micro_batch_sequences * (recipe.parallel.data or 1)
    return *divmod(recipe.batch_sequences, at_once), at_once


def _batch_paths(recipe: Recipe) -> tuple[str, ...]:
    """Who decides how many micro-batches a step has; how many copies share it may not be known yet."""
    data = () if recipe.parallel.data is None else ("parallel.data",)
    return ("train.batch_tokens", "data.sequence_length", "parallel.micro_batch_sequences", *data)


def _breach(recipe: Recipe, rule: str, *paths: str) -> Breach:
    values = to_dict(recipe)
    given = ", ".join(f"{path}={shown(value_at(path, values))}" for path in paths)
    return Breach(f"{given}: {rule}", paths)


def _multiples_near(value: int, unit: int, *, at_least: int = 1) -> list[int]:
    """The multiples of `unit` just below and above `value`."""
    below = value // unit * unit
    return [multiple for multiple in (below, below + unit) if multiple >= at_least]


def _one_of(number: int, *, near: int) -> str:
    """`one of 1, 2, 4`: the divisors of `number` that are closest to `near`."""
    divisors = [divisor for divisor in range(1, min(number, _LARGEST_DIVISOR) + 1) if number % divisor == 0]
    closest = sorted(sorted(divisors, key=lambda divisor: abs(divisor - near))[:_NUM_SUGGESTIONS])
    return "1" if closest == [1] else f"one of {', '.join(map(str, closest))}"


RULES: tuple[Rule, ...] = (
    heads_are_shared_evenly,
    head_size_is_even,
    tensor_ranks_share_evenly,
    stages_share_layers_evenly,
    sequence_needs_tensor_ranks,
    tensor_ranks_share_the_sequence,
    batch_is_whole_sequences,
    ranks_share_the_batch_evenly,
    ranks_share_the_evaluation_evenly,
    micro_batches_fill_the_pipeline,
    warm_up_ends_before_the_run,
    warm_up_and_decay_do_not_overlap,
    trained_vocabulary_holds_every_byte,
    lists_have_no_empty_or_double_entries,
)
"""Every rule between fields. To add one, write it above and name it here."""
