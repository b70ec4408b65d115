"""When ranks that hold the same weights gather them and sum their gradients: Megatron-Core's buckets.

megatron/core/distributed (core 0.16.1), param_and_grad_buffer.py and distributed_data_parallel.py. Parameters fill
buckets from the last to the first; only the first virtual stage of all has more than one of some 40 million.

    first forward pass     a bucket is gathered where its first module runs, and the next one sent for at once
    last backward pass     a bucket is summed where the last of its gradients is complete
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mai.plan.communication.operation import Operation

LEAST_ELEMENTS, LEAST_ELEMENTS_A_RANK = 40_000_000, 1_000_000
"""A bucket is full at so many elements: the former, or the latter times the data ranks where that is more."""
_PARAMETER_ELEMENTS, _BUCKET_ELEMENTS = 64, 128
"""What begins of parameters, and ends of buckets, are padded to."""


@dataclass(frozen=True, slots=True)
class Held:
    """A parameter as this rank holds it."""

    name: str
    elements: int
    stands_alone: bool
    """In a bucket of its own: one that another stage holds too, so that both share it out alike."""


@dataclass(frozen=True, slots=True)
class Bucket:
    names: frozenset[str]
    elements: int
    """Padded."""


def least_elements(data_ranks: int) -> int:
    """The fewest elements of a bucket, where a model is cut into buckets at all."""
    return max(LEAST_ELEMENTS, LEAST_ELEMENTS_A_RANK * data_ranks)


def buckets(parameters: Sequence[Held], *, ranks: int, least: int | None) -> list[Bucket]:
    """Cut all parameters, which come in the model's order, into buckets; `least` None makes one."""
    found: list[Bucket] = []
    names: list[str] = []
    start = end = 0
    divisor = math.lcm(ranks, _BUCKET_ELEMENTS)

    def close() -> None:
        nonlocal start, end
        closed = _padded(end, divisor)
        found.append(Bucket(frozenset(names), closed - start))
        names.clear()
        start = end = closed

    for parameter in reversed(parameters):
        end = _padded(end, _PARAMETER_ELEMENTS)
        if parameter.stands_alone and names:
            close()
        names.append(parameter.name)
        end += parameter.elements
        if parameter.stands_alone or (least is not None and end - start >= least):
            close()
    if names:
        close()
    return found


def _padded(elements: int, divisor: int) -> int:
    return -(-elements // divisor) * divisor


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who shares buckets."""

    within: str
    """The family of the ranks that share them out."""
    ranks: int
    copies: int
    """Kept equal, of hybrid sharding."""
    dtype: str
    """The type that weights are gathered in; gradients are summed in fp32."""


class Sums:
    """The operations on the buckets of one virtual stage, asked for module by module."""

    def __init__(self, buckets: Sequence[Bucket], sharing: Sharing, *, together: bool, what: str) -> None:
        """`together`: all buckets are one, but in name."""
        groups = [list(buckets)] if together else [[bucket] for bucket in buckets]
        self._groups, self._sharing, self._what = [group for group in groups if group], sharing, what
        self._number_of: Mapping[str, int] = {
            name: number for number, group in enumerate(self._groups) for bucket in group for name in bucket.names
        }
        self._gathered: set[int] = set()
        self._used: set[int] = set()
        self._left = {number: {n for b in group for n in b.names} for number, group in enumerate(self._groups)}

    def before(self, name: str) -> Iterator[Operation]:
        """A module that holds this parameter runs."""
        number = self._number_of.get(name)
        if number is None or number in self._used:
            return
        self._used.add(number)
        for wanted in (number, number - 1):
            if wanted >= 0 and wanted not in self._gathered:
                yield from self._gather(wanted)

    def behind(self, name: str) -> Iterator[Operation]:
        """Its gradient is complete."""
        number = self._number_of.get(name)
        if number is not None:
            self._left[number].remove(name)
            if not self._left[number]:
                yield from self._sum(number)

    @property
    def left(self) -> Iterator[str]:
        """Parameters whose gradients are not complete."""
        return (name for names in self._left.values() for name in names)

    def _gather(self, number: int) -> Iterator[Operation]:
        self._gathered.add(number)
        sharing = self._sharing
        if sharing.ranks > 1:
            for bucket in self._groups[number]:
                own = bucket.elements // sharing.ranks
                yield Operation("all_gather", sharing.within, own, sharing.dtype, what=f"{self._what} {number}")

    def _sum(self, number: int) -> Iterator[Operation]:
        sharing = self._sharing
        what = f"gradients of {self._what} {number}"
        if sharing.ranks > 1:
            for bucket in self._groups[number]:
                yield Operation("reduce_scatter", sharing.within, bucket.elements, "float32", what=what)
        if sharing.copies > 1:
            for bucket in self._groups[number]:
                yield Operation("all_reduce", "between_copies", bucket.elements // sharing.ranks, "float32", what=what)
