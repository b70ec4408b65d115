"""The words of a weight map: how one of our tensors is made of those of a Hugging Face checkpoint. Data, no tensors.

Every rule only moves elements, so it can be gone both ways, and what comes back is the same bit for bit. They are
carried out in `mai/checkpoint/hf_tensors.py`. The rotary parts of heads are in the half-split order everywhere here,
as in Llama; DeepSeek interleaves the two halves.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of the Hugging Face checkpoint, or one entry of its first axis."""

    name: str
    entry: int | None = None
    num_entries: int = 1
    """Length of that axis."""


@dataclass(frozen=True, slots=True)
class Target:
    """One of our tensors (mai/model/shapes.py), or one expert of it."""

    name: str
    expert: int | None = None


@dataclass(frozen=True, slots=True)
class Same:
    """The tensor as it is; `is_transposed`: rows and columns change places."""

    source: Source
    is_transposed: bool = False

    @property
    def sources(self) -> Sequence[Source]:
        return (self.source,)


@dataclass(frozen=True, slots=True)
class Repeated:
    """The same tensor under several names; an import refuses it where they differ."""

    sources: Sequence[Source]


@dataclass(frozen=True, slots=True)
class Stacked:
    """The rows of the gate projection, then as many of the up projection."""

    gate: Source
    up: Source

    @property
    def sources(self) -> Sequence[Source]:
        return (self.gate, self.up)


@dataclass(frozen=True, slots=True)
class HeadOrder:
    """Which rows of a head make a pair that turns: ours are i and i + size / 2, and the first pairs turn."""

    size: int
    num_turned: int
    """Numbers of the head that carry its position, in the source the first ones: i and i + num_turned / 2, or
    neighbours."""
    are_neighbours: bool = False

    @property
    def rows(self) -> Sequence[int]:
        """The source's rows in our order."""
        turned, half = range(self.num_turned), self.num_turned // 2
        first, second = (turned[0::2], turned[1::2]) if self.are_neighbours else (turned[:half], turned[half:])
        still = range(self.num_turned, self.size)
        middle = len(still) // 2
        return [*first, *still[:middle], *second, *still[middle:]]


@dataclass(frozen=True, slots=True)
class StackedByHead:
    """For each key-value head: the rows of its query heads, of its key, of its value."""

    query: Source
    key: Source
    value: Source
    num_kv_heads: int
    order: HeadOrder

    @property
    def sources(self) -> Sequence[Source]:
        return (self.query, self.key, self.value)


@dataclass(frozen=True, slots=True)
class CutByHead:
    """The same, of one tensor that holds the queries' rows, then the keys', then the values'."""

    source: Source
    num_heads: int
    num_kv_heads: int
    order: HeadOrder

    @property
    def sources(self) -> Sequence[Source]:
        return (self.source,)


@dataclass(frozen=True, slots=True)
class OfHeads:
    """A number for each row of one head or several, such as the weight of a norm."""

    source: Source
    order: HeadOrder

    @property
    def sources(self) -> Sequence[Source]:
        return (self.source,)


@dataclass(frozen=True, slots=True)
class Alternating:
    """Gate and up projection alternate along the last axis of the source; ours has the gate's rows, then the up's."""

    source: Source

    @property
    def sources(self) -> Sequence[Source]:
        return (self.source,)


@dataclass(frozen=True, slots=True)
class InterleavedRotary:
    """Rows by head, each `still_size` and then `rotary_size`, whose two halves alternate in the source."""

    source: Source
    num_heads: int
    still_size: int
    rotary_size: int

    @property
    def sources(self) -> Sequence[Source]:
        return (self.source,)


Making = Same | Repeated | Stacked | StackedByHead | CutByHead | OfHeads | Alternating | InterleavedRotary


@dataclass(frozen=True, slots=True)
class Rule:
    target: Target
    making: Making
