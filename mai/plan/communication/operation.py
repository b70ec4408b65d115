"""One call of a rank to the network, and a rank's calls of a step in their order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send", "receive"]

_ELEMENT_BYTES = {"bfloat16": 2, "float32": 4, "int32": 4, "float64": 8, "int64": 8}


@dataclass(frozen=True, slots=True)
class Operation:
    kind: Kind
    group: str
    """Whose ranks must all call it: the name of a family of groups, of which each rank is in one (rank_families.py)."""
    elements: int
    """How many this rank puts in, or gets where it puts nothing in; in an all-to-all, as an even router would send."""
    dtype: str
    peer: int | None = None
    """Place in the group of a send's or receive's other rank, or of the rank that has what is broadcast; else None."""
    what: str = ""
    """Which tensor of which layer and micro-batch: "layer 3 forward of micro-batch 2, hidden state". All that call it
    together call it the same, the sender and the receiver too: two calls of one size in the wrong order differ in
    nothing else."""
    depends_on_routing: bool = False
    """Its ranks tell each other before how much it is; `elements` is what an even router would send."""

    @property
    def num_bytes(self) -> int:
        """Size of `elements`."""
        return self.elements * _ELEMENT_BYTES[self.dtype]


Together = tuple[Operation, ...]
"""Posted at once; the rank goes on when all are done."""

Program = tuple[Together, ...]
"""All that one rank calls, in its order."""


def operations(program: Program) -> Iterator[Operation]:
    """All of a program's, in order."""
    for together in program:
        yield from together
