"""When a pipeline stage sends and receives between its turns: Megatron-Core's two schedules.

megatron/core/pipeline_parallel/schedules.py and p2p_communication.py (core 0.16.1): those of a moment go off together
(batch_p2p_comm) or, where they overlap turns, one by one, even stages sending first (_p2p_ops). The engine waits for
some of the latter later than when they are posted; here everybody waits at once, which is harder to get through.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mai.recipe.pipeline_schedule import PipelineSchedule, Turn


@dataclass(frozen=True, slots=True)
class Send:
    """A hidden state to the next stage, or its gradient to the one before; or such that comes."""

    kind: Literal["send", "receive"]
    peer: int
    """The other stage."""
    result_of: Turn
    """The turn of the sending stage whose result it is, by the virtual stage of the whole model."""


Moment = tuple[Send, ...]
"""Posted at once; empty ones are left out."""


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """One stage's view."""

    schedule: PipelineSchedule
    stage: int

    @property
    def last(self) -> int:
        """Virtual stage of the whole model."""
        return self.schedule.num_stages * self.schedule.virtual_stages - 1

    def number(self, turn: Turn) -> int:
        """Which virtual stage of the whole model the turn goes through here."""
        return turn.virtual_stage * self.schedule.num_stages + self.stage

    def sent(self, turn: Turn) -> Moment:
        """What the turn's result is to others."""
        number = self.number(turn)
        step = 1 if turn.direction == "forward" else -1
        if not 0 <= number + step <= self.last:
            return ()
        return (Send("send", (self.stage + step) % self.schedule.num_stages, turn._replace(virtual_stage=number)),)

    def needed(self, turn: Turn) -> Moment:
        """What must have come before the turn."""
        number = self.number(turn) - (1 if turn.direction == "forward" else -1)
        if not 0 <= number <= self.last:
            return ()
        return (Send("receive", number % self.schedule.num_stages, turn._replace(virtual_stage=number)),)


def turns_and_sends(schedule: PipelineSchedule, stage: int, num_micro_batches: int) -> Iterator[Turn | Moment]:
    """All turns of a stage in order, and between them what it sends and receives at once."""
    turns, pipeline = list(schedule.turns_of(stage, num_micro_batches)), _Pipeline(schedule, stage)
    order = _in_order(pipeline, turns)
    if schedule.sends_overlap:
        order = _overlapped(pipeline, turns, schedule.num_warm_up_turns(stage, num_micro_batches))
    yield from (item for item in order if item)


def _in_order(pipeline: _Pipeline, turns: list[Turn]) -> Iterator[Turn | Moment]:
    """1F1B: a forward's result goes off with the receive of the gradient that is needed next, and the reverse."""
    after = [*turns[1:], None]
    yield pipeline.needed(turns[0])
    for turn, following in zip(turns, after, strict=True):
        yield turn
        if following is None:
            yield pipeline.sent(turn)
        elif following.direction == turn.direction:
            yield pipeline.sent(turn)
            yield pipeline.needed(following)
        else:
            both = pipeline.sent(turn) + pipeline.needed(following)
            yield tuple(sorted(both, key=_neighbour))


def _overlapped(pipeline: _Pipeline, turns: list[Turn], num_warm_up: int) -> Iterator[Turn | Moment]:
    """A turn's result goes off with the receive of what the next turn of its direction needs; the first gradient is
    received behind the forward passes of the warm-up."""
    forward = [turn for turn in turns if turn.direction == "forward"]
    backward = [turn for turn in turns if turn.direction == "backward"]
    following = dict(pairwise(forward)) | dict(pairwise(backward))
    yield pipeline.needed(forward[0])
    for number, turn in enumerate(turns):
        if number == num_warm_up:
            yield pipeline.needed(backward[0])
        yield turn
        needed = pipeline.needed(following[turn]) if turn in following else ()
        both = pipeline.sent(turn) + needed
        yield both if pipeline.stage % 2 == 0 else both[::-1]


def _neighbour(send: Send) -> tuple[bool, bool]:
    """With the stage before first, and sends before receives (p2p_communication.py, _batched_p2p_ops)."""
    with_next = (send.kind == "send") == (send.result_of.direction == "forward")
    return with_next, send.kind == "receive"
