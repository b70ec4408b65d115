"""The programs of all ranks, each different one once."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from mai.plan.communication.operation import Operation, Program, operations
from mai.plan.proof.finding import Call
from mai.plan.proof.lanes import NOTHING, Lane, LaneName, Lanes, lanes_of


@dataclass(frozen=True)
class Programs:
    different: Sequence[Program]
    number_of: Sequence[int]
    """Each rank's program, by its place in `different`."""

    @classmethod
    def of(cls, num_ranks: int, program_of: Callable[[int], Program]) -> "Programs":
        """Hashes each object once: ranks that share one cost nothing further."""
        different: dict[Program, int] = {}
        # The objects are kept: a freed one's identity may come again.
        known: dict[int, tuple[int, Program]] = {}
        number_of = []
        for program in map(program_of, range(num_ranks)):
            if id(program) not in known:
                known[id(program)] = different.setdefault(program, len(different)), program
            number_of.append(known[id(program)][0])
        return cls(tuple(different), number_of)

    @cached_property
    def lanes(self) -> Sequence[Lanes]:
        """The lanes of each different program."""
        return [lanes_of(program) for program in self.different]

    @cached_property
    def operations(self) -> Sequence[Sequence[Operation]]:
        """The operations of each different program, in order."""
        return [list(operations(program)) for program in self.different]

    @cached_property
    def num_ranks_with(self) -> Counter[int]:
        """How many ranks run each program."""
        return Counter(self.number_of)

    def num_ranks_like(self, rank: int) -> int:
        """That run the program of this one."""
        return self.num_ranks_with[self.number_of[rank]]

    @cached_property
    def families(self) -> Sequence[str]:
        """That any program calls."""
        return sorted({name.family for lanes in self.lanes for name in lanes})

    @cached_property
    def families_of_pairs(self) -> frozenset[str]:
        """In which any program sends or receives."""
        return frozenset(name.family for lanes in self.lanes for name in lanes if name.direction != "all")

    def lane(self, rank: int, name: LaneName) -> Lane:
        return self.lanes[self.number_of[rank]].get(name, NOTHING)

    def call(self, rank: int, name: LaneName, place: int) -> Call:
        """What the rank does at this place of the lane."""
        numbers = self.lane(rank, name).numbers
        if place >= len(numbers):
            return Call(rank, None, None)
        return Call(rank, numbers[place], self.operations[self.number_of[rank]][numbers[place] - 1])
