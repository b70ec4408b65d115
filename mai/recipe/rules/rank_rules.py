"""Rules of how many ranks there are, and how the axes divide them."""

import math
from collections.abc import Iterator
from dataclasses import replace

from mai.errors import RecipeError
from mai.recipe.breach import Breach, listed
from mai.recipe.parallel import ParallelConfig
from mai.recipe.recipe import Recipe
from mai.recipe.rules.breach_wording import breach, divisors, multiples_near, one_of


def smallest_world(parallel: ParallelConfig) -> int:
    """Any number of ranks is a multiple of this: whole copies of the model, as many as experts and sharding need."""
    return parallel.model_ranks * math.lcm(_copies_for_experts(parallel), _copies_for_sharding(parallel))


def ranks_within(parallel: ParallelConfig, budget: int) -> int:
    """The most ranks that the layout can use of so many; RecipeError where it needs more."""
    least = smallest_world(parallel) if parallel.data is None else parallel.model_ranks * parallel.data
    if least > budget:
        raise RecipeError(f"{budget} ranks: {_needs(parallel)} needs {least} at least; {_way_out(parallel, budget)}")
    return least if parallel.data is not None else budget // least * least


def _way_out(parallel: ParallelConfig, budget: int) -> str:
    fills = "parallel.data=none fills what there is, or " if smallest_world(parallel) <= budget else ""
    return f"{fills}lower a degree, or bring more; `mai plan --search` finds layouts that need no more"


def world_breaches(parallel: ParallelConfig, world_size: int) -> Iterator[Breach]:
    """The ranks are exactly tensor x context x pipeline x data, or a multiple of `smallest_world` where data is left
    open."""
    paths: tuple[str, ...] = ("parallel.tensor", "parallel.context", "parallel.pipeline", "parallel.data")
    if parallel.data is not None:
        takes = parallel.model_ranks * parallel.data
        data = world_size // parallel.model_ranks
        fits = "" if world_size % smallest_world(parallel) else f", or set parallel.data={data}"
        if world_size != takes:
            rule = f"{_needs(parallel)} takes {takes}; start {takes}{fits}"
            yield Breach(f"{world_size} ranks: {rule}", paths)
        return
    if world_size % smallest_world(parallel):
        near = listed(multiples_near(world_size, smallest_world(parallel)))
        if _copies_for_experts(parallel) > 1:
            paths = (*paths, "parallel.expert", "parallel.expert_tensor")
        if _copies_for_sharding(parallel) > 1:
            paths = (*paths, "parallel.sharding_ranks")
        rule = f"must be a multiple of {smallest_world(parallel)} ({_needs(parallel)}); start {near}"
        yield Breach(f"{world_size} ranks: {rule}", paths)


def experts_divide_the_ranks_of_a_stage(recipe: Recipe) -> Iterator[Breach]:
    parallel, model_experts = recipe.parallel, recipe.model.experts
    if parallel.data is None or model_experts is None:
        return
    stage_ranks = parallel.tensor * parallel.context * parallel.data
    if stage_ranks % _expert_ranks(parallel) == 0:
        return
    near = listed(multiples_near(parallel.data, _copies_for_experts(parallel)))
    ways_out = f"parallel.data={near}"
    if stage_ranks % parallel.expert_tensor == 0:
        choices = divisors(math.gcd(stage_ranks // parallel.expert_tensor, model_experts.num_experts))
        ways_out = f"parallel.expert {one_of(choices, near=parallel.expert)}, or {ways_out}"
    rule = (
        f"the expert ranks are taken from the {stage_ranks} tensor x context x data ranks of a stage, so "
        f"parallel.expert x parallel.expert_tensor must divide {stage_ranks}; use {ways_out}"
    )
    axes = ("expert", "expert_tensor", "tensor", "context", "data")
    yield breach(recipe, rule, *(f"parallel.{axis}" for axis in axes))


def sharding_divides_the_copies(recipe: Recipe) -> Iterator[Breach]:
    """Hybrid sharding keeps several copies, and as many of the experts (megatron/core/parallel_state.py,
    num_distributed_optimizer_instances)."""
    parallel, sharding_ranks = recipe.parallel, recipe.parallel.sharding_ranks
    if sharding_ranks is None:
        return
    # With data left open the launcher brings a multiple of this, and what divides it divides that.
    data = parallel.data or smallest_world(parallel) // parallel.model_ranks
    parallel = replace(parallel, data=data)
    ranks = data * parallel.context
    most_copies = math.gcd(ranks, *_expert_copies(replace(recipe, parallel=parallel)))
    if ranks % sharding_ranks or most_copies % (ranks // sharding_ranks):
        choices = [ranks // copies for copies in divisors(most_copies)]
        of_experts = "" if recipe.model.experts is None else ", with as many copies of every expert"
        rule = (
            f"must divide the {ranks} context x data ranks{of_experts}; use parallel.sharding_ranks "
            f"{one_of(choices, near=sharding_ranks)}, or none for all of them"
        )
        expert_axes = ("expert", "expert_tensor", "tensor") if recipe.model.experts else ()
        axes = ("sharding_ranks", "context", "data", *expert_axes)
        yield breach(recipe, rule, *(f"parallel.{axis}" for axis in axes))


def _expert_copies(recipe: Recipe) -> list[int]:
    """How many ranks of a stage hold the same experts; none in a dense model, or where they are not whole."""
    parallel = recipe.parallel
    stage_ranks = parallel.tensor * parallel.context * (parallel.data or 1)
    whole = recipe.model.experts is not None and stage_ranks % _expert_ranks(parallel) == 0
    return [stage_ranks // _expert_ranks(parallel)] if whole else []


def _expert_ranks(parallel: ParallelConfig) -> int:
    return parallel.expert * parallel.expert_tensor


def _copies_for_experts(parallel: ParallelConfig) -> int:
    """The fewest copies of the model whose ranks of one stage hold every expert."""
    return _expert_ranks(parallel) // math.gcd(_expert_ranks(parallel), parallel.tensor * parallel.context)


def _copies_for_sharding(parallel: ParallelConfig) -> int:
    """The fewest copies of the model whose context x data ranks hold one whole sharded copy."""
    sharding_ranks = parallel.sharding_ranks or 1
    return sharding_ranks // math.gcd(sharding_ranks, parallel.context)


def _needs(parallel: ParallelConfig) -> str:
    """What the ranks are a product of; with data left open, also what they must be a multiple of."""
    if parallel.data is not None:
        return f"{_layout(parallel)} x parallel.data={parallel.data}"
    needs = _layout(parallel)
    if _copies_for_experts(parallel) > 1:
        expert_ranks = f"parallel.expert={parallel.expert} x parallel.expert_tensor={parallel.expert_tensor}"
        needs += f", with a stage's ranks a multiple of {expert_ranks}"
    if _copies_for_sharding(parallel) > 1:
        needs += f", with its context x data ranks a multiple of parallel.sharding_ranks={parallel.sharding_ranks}"
    return needs


def _layout(parallel: ParallelConfig) -> str:
    context = f" x parallel.context={parallel.context}" if parallel.context > 1 else ""
    return f"parallel.tensor={parallel.tensor}{context} x parallel.pipeline={parallel.pipeline}"
