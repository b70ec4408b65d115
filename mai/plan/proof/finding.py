"""What keeps a step from reaching its end, and at whom."""

from dataclasses import dataclass
from typing import Literal

from mai.parallel.layout import Group
from mai.plan.communication.operation import Operation

Fault = Literal["kind", "size", "dtype", "root", "name", "order", "missing", "extra", "peer", "group", "deadlock"]
"""`name`: all else is alike, and the two calls mean different tensors. `extra`: nobody answers it. `peer` and `group`:
it goes to others than those who wait for it. Of a rank's faults the first in its step is told."""


@dataclass(frozen=True, slots=True)
class Call:
    """What one rank does where it differs; in a deadlock, what it waits in."""

    rank: int
    number: int | None
    """Which operation of the rank's step it is, counted from 1; None where the rank calls nothing more there."""
    operation: Operation | None


@dataclass(frozen=True, slots=True)
class Finding:
    fault: Fault
    family: str
    group: Group
    """The ranks that should call together; nobody where the rank is in no group of the family."""
    calls: tuple[Call, ...]
    """The blamed rank's first. In a deadlock each waits for the next, and the last for the first."""
    groups: int = 1
    """In so many the same goes wrong."""
    further: int = 0
    """Differences of the same program behind this one: of the same cause, or hidden by it."""
