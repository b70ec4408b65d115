"""Turns come in Megatron-Core's order, and the bubble is as long as the papers say."""

from collections.abc import Sequence
from itertools import accumulate
from types import SimpleNamespace

import pytest

from mai.plan.time.schedule import Turn, schedule, timeline

FORWARD, BACKWARD = 1.0, 2.5


def step_seconds(stages: int, micro_batches: int, parts: int = 1) -> float:
    turns = schedule(stages, micro_batches, parts)
    spans = timeline(turns, [(FORWARD / parts, BACKWARD / parts)] * stages)
    return max(stage[-1].end_seconds for stage in spans)


@pytest.mark.parametrize("micro_batches", [1, 4, 8, 13])
@pytest.mark.parametrize("stages", [1, 2, 4, 8])
def test_the_bubble_of_1f1b_is_one_micro_batch_for_each_further_stage(stages: int, micro_batches: int) -> None:
    one = FORWARD + BACKWARD
    assert step_seconds(stages, micro_batches) == pytest.approx((micro_batches + stages - 1) * one)


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("stages", [2, 4, 8])
@pytest.mark.parametrize("groups", [1, 2, 5])
def test_interleaving_divides_the_bubble_by_the_parts(stages: int, groups: int, parts: int) -> None:
    """arXiv 2104.04473, section 2.2."""
    one = FORWARD + BACKWARD
    assert step_seconds(stages, groups * stages, parts) == pytest.approx((groups * stages + (stages - 1) / parts) * one)


def test_the_order_of_four_stages_with_1f1b() -> None:
    words = [" ".join(f"{turn.direction[0].upper()}{turn.micro_batch}" for turn in stage) for stage in schedule(4, 5)]
    assert words == [
        "F0 F1 F2 F3 B0 F4 B1 B2 B3 B4",
        "F0 F1 F2 B0 F3 B1 F4 B2 B3 B4",
        "F0 F1 B0 F2 B1 F3 B2 F4 B3 B4",
        "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4",
    ]


@pytest.mark.parametrize(("stages", "micro_batches", "parts"), [(2, 6, 3), (4, 4, 2), (4, 12, 3), (8, 16, 2)])
def test_interleaved_turns_are_those_of_megatron_core(stages: int, micro_batches: int, parts: int) -> None:
    from megatron.core.pipeline_parallel import schedules

    table = schedules.get_schedule_table(micro_batches, parts, stages)
    for stage, turns in enumerate(schedule(stages, micro_batches, parts)):
        group = SimpleNamespace(size=lambda: stages, rank=lambda stage=stage: stage)
        where = SimpleNamespace(pp_group=group, virtual_pipeline_model_parallel_size=parts)
        _, _, warm_up, _ = schedules.get_pp_rank_microbatches(micro_batches, parts, stages, p2p_communicator=where)
        assert [(turn.micro_batch, turn.part) for turn in turns if turn.direction == "forward"] == table
        backward = [(turn.micro_batch, parts - 1 - turn.part) for turn in turns if turn.direction == "backward"]
        assert backward == table
        # Every stage computes its warm-up, and one more where any is left, before its first backward pass.
        first_backward = next(number for number, turn in enumerate(turns) if turn.direction == "backward")
        assert first_backward == min(warm_up + 1, len(table))


def most_in_flight(turns: Sequence[Turn]) -> int:
    """Passes through a part whose backward pass is still to come."""
    return max(accumulate(1 if turn.direction == "forward" else -1 for turn in turns))


def test_a_stage_keeps_one_micro_batch_for_itself_and_each_stage_behind() -> None:
    """Korthikanti et al., arXiv 2205.05198, section 4.2.3."""
    assert [most_in_flight(turns) for turns in schedule(4, 8)] == [4, 3, 2, 1]
    assert [most_in_flight(turns) for turns in schedule(4, 2)] == [2, 2, 2, 1]


def test_interleaved_stages_keep_more() -> None:
    """1 + (p - 1) / (p v) of what 1F1B's first stage keeps (the same section)."""
    stages, parts = 8, 2
    most = most_in_flight(schedule(stages, 4 * stages, parts)[0])
    assert most == parts * stages * (1 + (stages - 1) / (stages * parts))


def test_a_slow_stage_sets_the_pace_of_all() -> None:
    spans = timeline(schedule(2, 10), [(1.0, 1.0), (3.0, 3.0)])
    assert spans[1][-1].end_seconds == 1.0 + 10 * 6.0
