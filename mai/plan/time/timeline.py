"""When each turn of a schedule runs, stage by stage: sending takes no time."""

from collections.abc import Sequence
from typing import NamedTuple

from mai.recipe.pipeline_schedule import Turn


class Span(NamedTuple):
    """When a turn begins and ends."""

    turn: Turn
    start_seconds: float
    end_seconds: float


def timeline(turns: Sequence[Sequence[Turn]], stages: Sequence[tuple[float, float]]) -> tuple[tuple[Span, ...], ...]:
    """When every turn of `turns_of_stages` runs; `stages` has the seconds of a forward and a backward turn of each.

    A turn begins when its stage is free and the virtual stage before it, or, backward, behind it, has ended."""
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
    last = max(turn.virtual_stage for turn in turns)
    for turn in turns[len(spans[stage]) :]:
        source = _source(stage, turn, len(stages), last=last)
        if source is not None and source not in ends:
            return
        arrived = 0.0 if source is None else ends[source]
        start = max(arrived, spans[stage][-1].end_seconds if spans[stage] else 0.0)
        end = start + stages[stage][0 if turn.direction == "forward" else 1]
        ends[stage, turn] = end
        spans[stage].append(Span(turn, start, end))


def _source(stage: int, turn: Turn, num_stages: int, *, last: int) -> tuple[int, Turn] | None:
    """The turn whose result this one needs, and its stage; None at the beginning of the model."""
    step = -1 if turn.direction == "forward" else 1
    virtual_stage, before = divmod(turn.virtual_stage * num_stages + stage + step, num_stages)
    if virtual_stage < 0:
        return None
    if virtual_stage > last:  # the loss: its backward pass needs its own forward pass
        return stage, turn._replace(direction="forward")
    return before, turn._replace(virtual_stage=virtual_stage)
