"""The same layout with few ranks: degrees small enough for a laptop, that still cut everything the large ones cut.

A layout of at most 16 ranks stands for itself. Of a larger one, every degree above 1 stays above 1; among the layouts
of 8 to 16 ranks the one is taken that keeps the most of what `traits` names, and then has the smallest degrees.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import prod

from mai.recipe.parallel import ParallelConfig
from mai.recipe.stage_text import BALANCED, EVEN, as_text, layers_of_virtual_stages

MIN_RANKS, MAX_RANKS = 8, 16

_MAX_VIRTUAL_STAGES = 2


def small_layout(parallel: ParallelConfig, *, num_layers: int) -> ParallelConfig:
    """The layout of at most 16 ranks that stands in for this one, with its pattern of stages.

    A layout of fewer than 8 ranks has no more than that."""
    small = parallel if _is_small(parallel) else min(_candidates(parallel), key=lambda cut: _distance(parallel, cut))
    small = replace(small, virtual_stages=min(parallel.virtual_stages, _MAX_VIRTUAL_STAGES))
    return replace(small, stages=_stages(parallel, small, num_layers=num_layers))


def traits(parallel: ParallelConfig) -> frozenset[str]:
    """What a layout makes ranks do, as a certificate calls it."""
    return _traits_of_axes(parallel) | _traits_of_experts(parallel)


def _traits_of_axes(parallel: ParallelConfig) -> frozenset[str]:
    sharing, copies = _sharing_and_copies(parallel)
    uses = {
        "tensor ranks": parallel.tensor > 1,
        "context ranks": parallel.context > 1,
        "pipeline stages": parallel.pipeline > 1,
        "virtual stages": parallel.schedule.is_interleaved,
        "copies of the model": sharing > parallel.context,
        "expert ranks": parallel.expert > 1,
        "expert-tensor ranks": parallel.expert_tensor > 1,
        "weights or states shared out": sharing > copies,
        "copies kept equal by hybrid sharding": copies > 1,
    }
    return frozenset(trait for trait, is_used in uses.items() if is_used)


def _traits_of_experts(parallel: ParallelConfig) -> frozenset[str]:
    sharing, copies = _sharing_and_copies(parallel)
    expert_ranks = parallel.expert * parallel.expert_tensor
    expert_copies = parallel.tensor * sharing // expert_ranks
    uses = {
        "experts that more tensor ranks share than share the rest": parallel.expert_tensor > parallel.tensor,
        "experts spread over copies of the model": expert_ranks > parallel.tensor * parallel.context,
        "copies of every expert": expert_copies > 1,
        "experts' weights or states shared out": expert_copies > copies,
    }
    return frozenset(trait for trait, is_used in uses.items() if is_used and expert_ranks > 1)


def _sharing_and_copies(parallel: ParallelConfig) -> tuple[int, int]:
    """Context x data ranks, and how many copies of the weights or states hybrid sharding keeps equal."""
    # As many data ranks as there are: divided by whatever the layout asks for, and too many for a laptop.
    many = 2**10 * parallel.expert * parallel.expert_tensor * (parallel.sharding_ranks or 1)
    sharing = parallel.context * (parallel.data or many)
    return sharing, sharing // (parallel.sharding_ranks or sharing)


def _is_small(parallel: ParallelConfig) -> bool:
    return parallel.data is not None and parallel.model_ranks * parallel.data <= MAX_RANKS


def _candidates(parallel: ParallelConfig) -> Iterator[ParallelConfig]:
    """Every sound layout of 8 to 16 ranks with the same axes."""
    data_sizes = range(2, MAX_RANKS + 1) if parallel.data is None else _smaller(parallel.data)
    sizes = [_smaller(parallel.tensor), _smaller(parallel.context), _smaller(parallel.pipeline), data_sizes]
    for tensor, context, pipeline, data in product(*sizes):
        if not MIN_RANKS <= tensor * context * pipeline * data <= MAX_RANKS:
            continue
        for expert, expert_tensor in product(_smaller(parallel.expert), _smaller(parallel.expert_tensor)):
            expert_copies, rest = divmod(tensor * context * data, expert * expert_tensor)
            cut = replace(
                parallel,
                tensor=tensor,
                context=context,
                pipeline=pipeline,
                data=data,
                expert=expert,
                expert_tensor=expert_tensor,
            )
            for copies in () if rest else _copies(parallel, context * data):
                if expert_copies % copies == 0:
                    yield replace(cut, sharding_ranks=None if copies == 1 else context * data // copies)


def _smaller(degree: int) -> list[int]:
    """What may stand for it, itself included."""
    return [
        size for size in range(2, MAX_RANKS + 1) if size == degree or (size < degree and size.bit_count() == 1)
    ] or [1]


def _copies(parallel: ParallelConfig, sharing: int) -> list[int]:
    """How many hybrid sharding may keep equal: one, and where there were several, also two and as many as ranks."""
    return [copies for copies in ({1} if parallel.sharding_ranks is None else {1, 2, sharing}) if sharing % copies == 0]


def _distance(parallel: ParallelConfig, small: ParallelConfig) -> tuple[int, ...]:
    """What is lost or added comes first; then the small one has its own degrees, or the smallest."""
    small = replace(small, virtual_stages=parallel.virtual_stages)
    degrees = (small.tensor, small.context, small.pipeline, small.expert, small.expert_tensor)
    own = (parallel.tensor, parallel.context, parallel.pipeline, parallel.expert, parallel.expert_tensor)
    return (
        len(_traits_of_axes(parallel) ^ _traits_of_axes(small)),
        len(_traits_of_experts(parallel) ^ _traits_of_experts(small)),
        parallel.data is not None or degrees != own,
        prod(degrees),
        small.model_ranks * (small.data or 1),
        *degrees,
    )


def _stages(parallel: ParallelConfig, small: ParallelConfig, *, num_layers: int) -> str:
    """`even` and `balanced` as they are; a written-out text with its pattern of short and long virtual stages."""
    if parallel.stages in (EVEN, BALANCED):
        return parallel.stages
    layers = layers_of_virtual_stages(
        parallel.stages, num_layers=num_layers, num_virtual_stages=parallel.num_virtual_stages
    )
    # 0, 1 and 2 layers keep the order of: none, the fewest, more.
    fewest = min(count for count in layers if count)
    ranked = [min(count, 1) + (count > fewest) for count in layers]
    last = small.num_virtual_stages - 1
    picked = [ranked[each * (len(ranked) - 1) // last] for each in range(last + 1)]
    # Two layers at least: one of each kind.
    picked[picked.index(max(picked))] += max(0, 2 - sum(picked))
    if len(set(picked)) == 1 and len(set(layers)) > 1:
        picked[-1] += 1
    return as_text(picked)
