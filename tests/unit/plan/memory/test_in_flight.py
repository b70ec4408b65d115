"""The micro-batches in flight are those of a schedule that is played out, pass by pass, over all stages."""

from collections import Counter

import pytest

from mai.plan.memory.in_flight import in_flight
from mai.recipe.pipeline_schedule import Interleaved, OneForwardOneBackward


@pytest.mark.parametrize("num_micro_batches", [1, 3, 4, 9, 64])
def test_one_part_a_stage_has_as_many_in_flight_as_stages_follow(num_micro_batches: int) -> None:
    for stage in range(4):
        states = in_flight(OneForwardOneBackward(4), stage, num_micro_batches)
        assert max(states) == (min(num_micro_batches, 4 - stage),)


def played_out(stage: int, pipeline: int, virtual_stages: int, num_micro_batches: int) -> set[tuple[int, ...]]:
    """States of the interleaved schedule from its definition: every micro-batch of a part by name."""
    table = [
        (micro_batch, part)
        for first in range(0, num_micro_batches, pipeline)
        for part in range(virtual_stages)
        for micro_batch in range(first, min(first + pipeline, num_micro_batches))
    ]
    backward = iter([(micro_batch, virtual_stages - 1 - part) for micro_batch, part in table])
    warm_up = min((pipeline - stage - 1) * 2 + (virtual_stages - 1) * pipeline, len(table))
    alive = set(table[:warm_up])
    states = set()
    if warm_up == len(table):
        states.add(alive_by_part(alive, virtual_stages))
    for done in table[warm_up:]:
        alive.add(done)
        states.add(alive_by_part(alive, virtual_stages))
        # Raises where the schedule would go backward through what it never computed.
        alive.remove(next(backward))
    return states


def alive_by_part(alive: set[tuple[int, int]], virtual_stages: int) -> tuple[int, ...]:
    counts = Counter(part for _, part in alive)
    return tuple(counts[part] for part in range(virtual_stages))


@pytest.mark.parametrize("virtual_stages", [2, 3, 8])
@pytest.mark.parametrize("num_micro_batches", [4, 8, 12, 32, 64])
def test_interleaved_parts_have_in_flight_what_the_schedule_leaves_there(
    num_micro_batches: int, virtual_stages: int
) -> None:
    for stage in range(4):
        found = in_flight(Interleaved(4, virtual_stages), stage, num_micro_batches)
        assert found == played_out(stage, 4, virtual_stages, num_micro_batches)


def test_the_first_stage_holds_more_than_one_whole_model_of_activations_when_interleaved() -> None:
    """Korthikanti et al. (arXiv 2205.05198, section 4.2.3): 1 + (p - 1) / (p m) times as much as without parts."""
    states = in_flight(Interleaved(8, 3), 0, 64)
    assert max(sum(state) for state in states) == 8 * 3 + 8 - 1
