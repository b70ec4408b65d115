"""A program's calls by whom they meet: what must be the same in the same order at both, or all, ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mai.plan.communication.operation import Operation, Program, operations

Direction = Literal["all", "send", "receive"]


class LaneName(NamedTuple):
    """One of a rank's lanes: its calls with a whole group, or those to or from one place of it."""

    family: str
    direction: Direction
    peer: int | None = None
    """The other rank's place, of a send or receive."""

    def seen_from(self, place: int) -> "LaneName":
        """By those who meet the rank at this place on its lane: the lane of theirs that must match."""
        if self.direction == "all":
            return self
        return LaneName(self.family, "receive" if self.direction == "send" else "send", place)


class Content(NamedTuple):
    """What calls that meet have in common."""

    kind: str
    elements: int
    dtype: str
    root: int | None
    what: str


@dataclass(frozen=True, slots=True)
class Lane:
    numbers: list[int] = field(default_factory=list)
    """Which operations of the program, counted from 1."""
    contents: list[Content] = field(default_factory=list)


Lanes = Mapping[LaneName, Lane]

NOTHING = Lane()


def lanes_of(program: Program) -> Lanes:
    """By name; NOTHING stands for a lane that is not there."""
    lanes: dict[LaneName, Lane] = {}
    for number, operation in enumerate(operations(program), start=1):
        lane = lanes.setdefault(lane_name(operation), Lane())
        lane.numbers.append(number)
        lane.contents.append(_content(operation))
    return lanes


def lane_name(operation: Operation) -> LaneName:
    if operation.kind == "send" or operation.kind == "receive":
        return LaneName(operation.group, operation.kind, operation.peer)
    return LaneName(operation.group, "all")


def _content(operation: Operation) -> Content:
    between_two = operation.kind in ("send", "receive")
    return Content(
        kind="" if between_two else operation.kind,
        elements=operation.elements,
        dtype=operation.dtype,
        root=None if between_two else operation.peer,
        what=operation.what,
    )
