"""How many micro-batches a pipeline stage has begun and not finished, under Megatron-Core's two schedules.

    one part a stage      warm up with as many forward passes as stages follow, then one forward, one backward
    several parts         the same over chunks: as many micro-batches as there are stages go through one part before
                          the next part's turn (arXiv 2104.04473, section 2.2)

The counts are those of megatron/core/pipeline_parallel/schedules.py, get_pp_rank_microbatches and
get_schedule_table (core 0.16.1).
"""

from collections.abc import Sequence
from functools import cache

_Counts = tuple[int, ...]


@cache
def in_flight(stage: int, *, pipeline: int, virtual_stages: int, num_micro_batches: int) -> frozenset[_Counts]:
    """Of each of the stage's parts, whenever a forward pass has ended; one entry for every state there is."""
    # Every state of a long step comes in the first rounds too, and at its ragged end.
    rounds, left = divmod(num_micro_batches, pipeline)
    order = _order(min(rounds, 4) * pipeline + left, pipeline=pipeline, virtual_stages=virtual_stages)
    ahead = _num_warm_up(stage, pipeline=pipeline, virtual_stages=virtual_stages)
    live = [0] * virtual_stages
    states = set()
    for forward, part in enumerate(order):
        live[part] += 1
        if forward >= min(ahead, len(order) - 1):
            states.add(tuple(live))
        if forward >= ahead:
            # Backward passes take the parts from the last to the first.
            live[virtual_stages - 1 - order[forward - ahead]] -= 1
    return frozenset(states)


def _num_warm_up(stage: int, *, pipeline: int, virtual_stages: int) -> int:
    """Forward passes before the first that a backward pass follows."""
    behind = pipeline - stage - 1
    return behind if virtual_stages == 1 else 2 * behind + (virtual_stages - 1) * pipeline


def _order(num_micro_batches: int, *, pipeline: int, virtual_stages: int) -> Sequence[int]:
    """The part of each forward pass of a stage."""
    rounds = [min(pipeline, num_micro_batches - first) for first in range(0, num_micro_batches, pipeline)]
    return [part for size in rounds for part in range(virtual_stages) for _ in range(size)]
