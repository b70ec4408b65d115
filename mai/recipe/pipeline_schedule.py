"""The schedule of a step: in which order each pipeline stage computes its micro-batches, and what follows from it.

The order is Megatron-Core's (megatron/core/pipeline_parallel/schedules.py, get_pp_rank_microbatches and
get_schedule_table; core 0.16.1): a warm-up of forward passes, then one forward and one backward in turn, then the
backward passes that are left.

    stage 0  F0 F1 F2 F3          B0       B1 ...         F forward, B backward, of a micro-batch
    stage 1     F0 F1 F2       B0 F3    B1    ...
    stage 2        F0 F1    B0 F2    B1 F3    ...
    stage 3           F0 B0    F1 B1    F2 B2 ...

Another schedule is a class here, a line in `schedule_of`, and its words in mai/engine/translate.py.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, Protocol


class Turn(NamedTuple):
    """One micro-batch's way through one virtual stage of a stage."""

    direction: Literal["forward", "backward"]
    micro_batch: int
    virtual_stage: int
    """Of the stage; 0 where it has one."""


class PipelineSchedule(Hashable, Protocol):
    """What rules, engine and planner ask of a schedule."""

    @property
    def num_stages(self) -> int: ...

    @property
    def virtual_stages(self) -> int:
        """How many each stage has."""

    @property
    def is_interleaved(self) -> bool:
        """Whether a stage takes turns between virtual stages."""

    @property
    def micro_batch_group(self) -> int:
        """Micro-batches that go through a virtual stage before the next has its turn: those of a step divide into such
        groups."""

    @property
    def sends_overlap(self) -> bool:
        """Whether results are sent one by one while the next turn computes; else together, and the stage waits."""

    def num_warm_up_turns(self, stage: int, num_micro_batches: int) -> int:
        """Forward turns of a stage before one forward and one backward take turns."""

    def turns_of(self, stage: int, num_micro_batches: int) -> Iterator[Turn]:
        """The turns of one stage, in order."""

    def most_in_flight(self, num_micro_batches: int) -> float:
        """Micro-batches whose activations the first stage keeps at most; of one in some of its virtual stages, the
        share."""

    def bubble_seconds(self, others_seconds: float) -> float:
        """That the slowest stage waits in a step, where a micro-batch takes so long on all others together, forward and
        backward; without sends."""


@dataclass(frozen=True, slots=True)
class OneForwardOneBackward:
    """1F1B (arXiv 2104.04473, section 2.2.1): each stage holds one run of layers."""

    num_stages: int

    @property
    def virtual_stages(self) -> int:
        return 1

    @property
    def is_interleaved(self) -> bool:
        return False

    @property
    def micro_batch_group(self) -> int:
        return 1

    @property
    def sends_overlap(self) -> bool:
        return False

    def num_warm_up_turns(self, stage: int, num_micro_batches: int) -> int:
        return min(self.num_stages - stage - 1, num_micro_batches)

    def turns_of(self, stage: int, num_micro_batches: int) -> Iterator[Turn]:
        forward = [(micro_batch, 0) for micro_batch in range(num_micro_batches)]
        return _turns(forward, warm_up=self.num_warm_up_turns(stage, num_micro_batches), virtual_stages=1)

    def most_in_flight(self, num_micro_batches: int) -> float:
        return min(num_micro_batches, self.num_stages)

    def bubble_seconds(self, others_seconds: float) -> float:
        return others_seconds


@dataclass(frozen=True, slots=True)
class Interleaved:
    """1F1B with several virtual stages a stage (arXiv 2104.04473, section 2.2.2): a shorter bubble, and more sends."""

    num_stages: int
    virtual_stages: int

    @property
    def is_interleaved(self) -> bool:
        return True

    @property
    def micro_batch_group(self) -> int:
        """Megatron-Core refuses a last group with fewer (RuntimeError in pipeline_parallel/schedules.py,
        forward_backward_pipelining_with_interleaving; forward alone is no exception)."""
        return self.num_stages

    @property
    def sends_overlap(self) -> bool:
        return True

    def num_warm_up_turns(self, stage: int, num_micro_batches: int) -> int:
        stages_behind = self.num_stages - stage - 1
        warm_up = 2 * stages_behind + (self.virtual_stages - 1) * self.num_stages
        return min(warm_up, num_micro_batches * self.virtual_stages)

    def turns_of(self, stage: int, num_micro_batches: int) -> Iterator[Turn]:
        forward = [
            (micro_batch, virtual_stage)
            for first in range(0, num_micro_batches, self.micro_batch_group)
            for virtual_stage in range(self.virtual_stages)
            for micro_batch in range(first, min(first + self.micro_batch_group, num_micro_batches))
        ]
        warm_up = self.num_warm_up_turns(stage, num_micro_batches)
        return _turns(forward, warm_up=warm_up, virtual_stages=self.virtual_stages)

    def most_in_flight(self, num_micro_batches: int) -> float:
        most = (self.num_stages * (self.virtual_stages + 1) - 1) / self.virtual_stages
        return min(num_micro_batches, most)

    def bubble_seconds(self, others_seconds: float) -> float:
        return others_seconds / self.virtual_stages


@cache
def schedule_of(num_stages: int, virtual_stages: int) -> PipelineSchedule:
    """The schedule of so many stages, each with so many virtual stages."""
    return OneForwardOneBackward(num_stages) if virtual_stages == 1 else Interleaved(num_stages, virtual_stages)


def turns_of_stages(schedule: PipelineSchedule, num_micro_batches: int) -> tuple[tuple[Turn, ...], ...]:
    """The turns of every stage, in order."""
    return tuple(tuple(schedule.turns_of(stage, num_micro_batches)) for stage in range(schedule.num_stages))


def _turns(forward: Sequence[tuple[int, int]], *, warm_up: int, virtual_stages: int) -> Iterator[Turn]:
    """`forward` has micro-batch and virtual stage of every forward pass; backward passes go the same way with the
    virtual stages reversed."""
    for number in range(len(forward) + warm_up):
        if number < len(forward):
            yield Turn("forward", *forward[number])
        if number >= warm_up:
            micro_batch, virtual_stage = forward[number - warm_up]
            yield Turn("backward", micro_batch, virtual_stages - 1 - virtual_stage)
