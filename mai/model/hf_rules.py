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
class StackedByHead:
    """For each key-value head: the rows of its query heads, of its key, of its value."""

    query: Source
    key: Source
    value: Source
    num_kv_heads: int
    head_size: int

    @property
    def sources(self) -> Sequence[Source]:
        return (self.query, self.key, self.value)


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


Making = Same | Repeated | Stacked | StackedByHead | Alternating | InterleavedRotary


@dataclass(frozen=True, slots=True)
class Rule:
    target: Target
    making: Making
