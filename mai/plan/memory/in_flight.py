"""How many micro-batches a pipeline stage has begun and not finished, in the order of schedule.py."""

from functools import cache
from itertools import pairwise

from mai.plan.time.schedule import turns_of

_Counts = tuple[int, ...]

_ROUNDS = 4
"""Of as many micro-batches as there are stages: every state of a longer step comes in these and at its ragged end."""


def in_flight(stage: int, *, pipeline: int, virtual_stages: int, num_micro_batches: int) -> frozenset[_Counts]:
    """Of each of the stage's parts, whenever a backward pass is about to free one."""
    rounds, left = divmod(num_micro_batches, pipeline)
    return _states(stage, pipeline, virtual_stages, min(rounds, _ROUNDS) * pipeline + left)


@cache
def _states(stage: int, pipeline: int, virtual_stages: int, num_micro_batches: int) -> frozenset[_Counts]:
    live = [0] * virtual_stages
    states = set()
    for turn, after in pairwise(turns_of(stage, pipeline, num_micro_batches, virtual_stages)):
        live[turn.part] += 1 if turn.direction == "forward" else -1
        if turn.direction == "forward" and after.direction == "backward":
            states.add(tuple(live))
    return frozenset(states)
