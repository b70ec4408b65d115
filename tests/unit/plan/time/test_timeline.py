"""Turns run as early as those allow that they need, and the bubble is as long as the papers say."""

import pytest

from mai.plan.time.timeline import timeline
from mai.recipe.pipeline_schedule import schedule_of, turns_of_stages

FORWARD, BACKWARD = 1.0, 2.5


def step_seconds(stages: int, micro_batches: int, virtual_stages: int = 1) -> float:
    schedule = schedule_of(stages, virtual_stages)
    turns = turns_of_stages(schedule, micro_batches)
    spans = timeline(turns, [(FORWARD / virtual_stages, BACKWARD / virtual_stages)] * stages)
    return max(stage[-1].end_seconds for stage in spans)


@pytest.mark.parametrize("micro_batches", [1, 4, 8, 13])
@pytest.mark.parametrize("stages", [1, 2, 4, 8])
def test_the_bubble_of_1f1b_is_one_micro_batch_for_each_further_stage(stages: int, micro_batches: int) -> None:
    one = FORWARD + BACKWARD
    bubble = schedule_of(stages, 1).bubble_seconds((stages - 1) * one)
    assert bubble == (stages - 1) * one
    assert step_seconds(stages, micro_batches) == pytest.approx(micro_batches * one + bubble)


@pytest.mark.parametrize("virtual_stages", [2, 3, 4])
@pytest.mark.parametrize("stages", [2, 4, 8])
@pytest.mark.parametrize("groups", [1, 2, 5])
def test_interleaving_divides_the_bubble_by_the_virtual_stages(stages: int, groups: int, virtual_stages: int) -> None:
    """arXiv 2104.04473, section 2.2."""
    one = FORWARD + BACKWARD
    bubble = schedule_of(stages, virtual_stages).bubble_seconds((stages - 1) * one)
    assert bubble == (stages - 1) * one / virtual_stages
    assert step_seconds(stages, groups * stages, virtual_stages) == pytest.approx(groups * stages * one + bubble)


def test_a_slow_stage_sets_the_pace_of_all() -> None:
    spans = timeline(turns_of_stages(schedule_of(2, 1), 10), [(1.0, 1.0), (3.0, 3.0)])
    assert spans[1][-1].end_seconds == 1.0 + 10 * 6.0
