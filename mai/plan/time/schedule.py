"""In which order each pipeline stage computes its micro-batches, and when: 1F1B, and interleaved with virtual stages.

The order is Megatron-Core's (megatron/core/pipeline_parallel/schedules.py, get_pp_rank_microbatches and
get_schedule_table; core 0.16.1): a warm-up of forward passes, then one forward and one backward in turn, then the
backward passes that are left. Interleaved stages take as many micro-batches through a part as there are stages before
they turn to their next part (arXiv 2104.04473, section 2.2).

    stage 0  F0 F1 F2 F3          B0       B1 ...         F forward, B backward, of a micro-batch
    stage 1     F0 F1 F2       B0 F3    B1    ...
    stage 2        F0 F1    B0 F2    B1 F3    ...
    stage 3           F0 B0    F1 B1    F2 B2 ...
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple


class Turn(NamedTuple):
    """One micro-batch's way through one part of a stage."""

    direction: Literal["forward", "backward"]
    micro_batch: int
    part: int
    """Which virtual stage of the rank; 0 where it has one."""


class Span(NamedTuple):
    """When a turn begins and ends."""

    turn: Turn
    start_seconds: float
    end_seconds: float


def schedule(num_stages: int, num_micro_batches: int, virtual_stages: int = 1) -> tuple[tuple[Turn, ...], ...]:
    """The turns of every stage, in order."""
    return tuple(tuple(turns_of(stage, num_stages, num_micro_batches, virtual_stages)) for stage in range(num_stages))


def turns_of(stage: int, num_stages: int, num_micro_batches: int, virtual_stages: int) -> Iterator[Turn]:
    """Those of one stage."""
    forward = list(_in_groups(num_stages, num_micro_batches, virtual_stages))
    warm_up = num_warm_up_turns(stage, num_stages, num_micro_batches, virtual_stages)
    for number in range(len(forward) + warm_up):
        if number < len(forward):
            yield Turn("forward", *forward[number])
        if number >= warm_up:
            micro_batch, part = forward[number - warm_up]
            yield Turn("backward", micro_batch, virtual_stages - 1 - part)


def num_warm_up_turns(stage: int, num_stages: int, num_micro_batches: int, virtual_stages: int) -> int:
    """Forward turns of a stage before one forward and one backward take turns."""
    warm_up = stages_behind = num_stages - stage - 1
    if virtual_stages > 1:
        warm_up = 2 * stages_behind + (virtual_stages - 1) * num_stages
    return min(warm_up, num_micro_batches * virtual_stages)


def _in_groups(num_stages: int, num_micro_batches: int, virtual_stages: int) -> Iterator[tuple[int, int]]:
    """Micro-batch and part of every forward pass; backward passes go the same way with the parts reversed."""
    group = num_stages if virtual_stages > 1 else 1
    for first in range(0, num_micro_batches, group):
        for part in range(virtual_stages):
            for micro_batch in range(first, min(first + group, num_micro_batches)):
                yield micro_batch, part


def timeline(turns: Sequence[Sequence[Turn]], stages: Sequence[tuple[float, float]]) -> tuple[tuple[Span, ...], ...]:
    """When every turn of `schedule` runs, where `stages` has the seconds of a forward and a backward turn of each.

    A turn begins when its stage is free and the part before it, or, backward, behind it, has ended: sending takes no
    time."""
    num_stages = len(turns)
    ends: dict[tuple[int, Turn], float] = {}
    spans: list[list[Span]] = [[] for _ in turns]
    waiting = set(range(num_stages))
    while waiting:
        for stage in sorted(waiting):
            _advance(stage, turns[stage], stages, ends, spans)
        finished = {stage for stage in waiting if len(spans[stage]) == len(turns[stage])}
        waiting -= finished
    return tuple(map(tuple, spans))


def _advance(
    stage: int,
    turns: Sequence[Turn],
    stages: Sequence[tuple[float, float]],
    ends: dict[tuple[int, Turn], float],
    spans: list[list[Span]],
) -> None:
    """Run the stage until it waits for another one."""
    last_part = max(turn.part for turn in turns)
    for turn in turns[len(spans[stage]) :]:
        source = _source(stage, turn, len(stages), last_part=last_part)
        if source is not None and source not in ends:
            return
        arrived = 0.0 if source is None else ends[source]
        start = max(arrived, spans[stage][-1].end_seconds if spans[stage] else 0.0)
        end = start + stages[stage][0 if turn.direction == "forward" else 1]
        ends[stage, turn] = end
        spans[stage].append(Span(turn, start, end))


def _source(stage: int, turn: Turn, num_stages: int, *, last_part: int) -> tuple[int, Turn] | None:
    """The turn whose result this one needs, and its stage; None at the beginning of the model."""
    step = -1 if turn.direction == "forward" else 1
    part, before = divmod(turn.part * num_stages + stage + step, num_stages)
    if part < 0:
        return None
    if part > last_part:  # the loss: its backward pass needs its own forward pass
        return stage, turn._replace(direction="forward")
    return before, turn._replace(part=part)
