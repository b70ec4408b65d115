"""How many micro-batches a pipeline stage has begun and not finished, in the order of its schedule."""

from functools import cache
from itertools import pairwise

from mai.recipe.pipeline_schedule import PipelineSchedule

_Counts = tuple[int, ...]

_ROUNDS = 4
"""So many rounds, each a micro-batch for every stage, and the ragged end show all states of a longer step."""


def in_flight(schedule: PipelineSchedule, stage: int, num_micro_batches: int) -> frozenset[_Counts]:
    """How many each of the stage's virtual stages keeps, whenever a backward pass is about to free one."""
    rounds, left = divmod(num_micro_batches, schedule.num_stages)
    return _states(schedule, stage, min(rounds, _ROUNDS) * schedule.num_stages + left)


@cache
def _states(schedule: PipelineSchedule, stage: int, num_micro_batches: int) -> frozenset[_Counts]:
    live = [0] * schedule.virtual_stages
    states = set()
    for turn, after in pairwise(schedule.turns_of(stage, num_micro_batches)):
        live[turn.virtual_stage] += 1 if turn.direction == "forward" else -1
        if turn.direction == "forward" and after.direction == "backward":
            states.add(tuple(live))
    return frozenset(states)
