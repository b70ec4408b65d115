"""Turns come in Megatron-Core's order, and leave in flight what the papers say."""

from collections.abc import Sequence
from itertools import accumulate
from types import SimpleNamespace

import pytest

from mai.recipe import ParallelConfig
from mai.recipe.pipeline_schedule import Interleaved, OneForwardOneBackward, Turn, schedule_of, turns_of_stages


def test_a_layout_with_virtual_stages_is_interleaved() -> None:
    assert ParallelConfig(pipeline=4).schedule == OneForwardOneBackward(4)
    assert ParallelConfig(pipeline=4, virtual_stages=3).schedule == Interleaved(4, 3)


def test_the_order_of_four_stages_with_1f1b() -> None:
    words = [
        " ".join(f"{turn.direction[0].upper()}{turn.micro_batch}" for turn in stage)
        for stage in turns_of_stages(schedule_of(4, 1), 5)
    ]
    assert words == [
        "F0 F1 F2 F3 B0 F4 B1 B2 B3 B4",
        "F0 F1 F2 B0 F3 B1 F4 B2 B3 B4",
        "F0 F1 B0 F2 B1 F3 B2 F4 B3 B4",
        "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4",
    ]


@pytest.mark.parametrize(("stages", "micro_batches", "virtual_stages"), [(2, 6, 3), (4, 4, 2), (4, 12, 3), (8, 16, 2)])
def test_interleaved_turns_are_those_of_megatron_core(stages: int, micro_batches: int, virtual_stages: int) -> None:
    from megatron.core.pipeline_parallel import schedules

    table = schedules.get_schedule_table(micro_batches, virtual_stages, stages)
    for stage, turns in enumerate(turns_of_stages(schedule_of(stages, virtual_stages), micro_batches)):
        group = SimpleNamespace(size=lambda: stages, rank=lambda stage=stage: stage)
        where = SimpleNamespace(pp_group=group, virtual_pipeline_model_parallel_size=virtual_stages)
        _, _, warm_up, _ = schedules.get_pp_rank_microbatches(
            micro_batches, virtual_stages, stages, p2p_communicator=where
        )
        assert [(turn.micro_batch, turn.virtual_stage) for turn in turns if turn.direction == "forward"] == table
        backward = [
            (turn.micro_batch, virtual_stages - 1 - turn.virtual_stage)
            for turn in turns
            if turn.direction == "backward"
        ]
        assert backward == table
        # Every stage computes its warm-up, and one more where any is left, before its first backward pass.
        first_backward = next(number for number, turn in enumerate(turns) if turn.direction == "backward")
        assert first_backward == min(warm_up + 1, len(table))


def most_in_flight(turns: Sequence[Turn]) -> int:
    """Passes through a virtual stage whose backward pass is still to come."""
    return max(accumulate(1 if turn.direction == "forward" else -1 for turn in turns))


def test_a_stage_keeps_one_micro_batch_for_itself_and_each_stage_behind() -> None:
    """Korthikanti et al., arXiv 2205.05198, section 4.2.3."""
    schedule = OneForwardOneBackward(4)
    assert [most_in_flight(turns) for turns in turns_of_stages(schedule, 8)] == [4, 3, 2, 1]
    assert [most_in_flight(turns) for turns in turns_of_stages(schedule, 2)] == [2, 2, 2, 1]
    assert [schedule.most_in_flight(micro_batches) for micro_batches in (8, 2)] == [4, 2]


def test_interleaved_stages_keep_more() -> None:
    """1 + (p - 1) / (p v) of what 1F1B's first stage keeps (the same section)."""
    schedule = Interleaved(num_stages=8, virtual_stages=2)
    most = most_in_flight(turns_of_stages(schedule, 32)[0])
    assert most == 2 * 8 * (1 + (8 - 1) / (8 * 2))
    assert schedule.most_in_flight(32) == most / 2
