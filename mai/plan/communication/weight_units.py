"""When fully sharded ranks gather weights and sum gradients: torch's FSDP2, unit by unit.

torch/distributed/fsdp/_fully_shard, _fsdp_param_group.py and _fsdp_state.py (torch 2.13). Forward, a unit is gathered
where it begins and freed where it ends. Backward, it is gathered where it begins, and with it the unit that ended
before it in the last forward pass, which is next; its gradients are summed where it ends. After the first of several
backward passes nobody remembers an order, and nothing is gathered ahead of earlier forward passes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mai.plan.communication.operation import Operation

ROOT = ""
"""The unit around all others, with what none of them holds."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Weights that are gathered at once."""

    own_elements: int
    """How many of its numbers this rank holds, padded to as many rows on every rank."""
    family: str
    """The family of the ranks that share it out."""
    ranks: int
    copies: int
    """Kept equal, of hybrid sharding."""


class Units:
    """The units of one virtual stage; `name` in every verb is that of a unit."""

    def __init__(self, units: Mapping[str, Unit], *, dtype: str, what: str) -> None:
        self._units, self._dtype, self._what = units, dtype, what
        self._gathered: set[str] = set()
        self._order: list[str] = []
        self._places: dict[str, list[int]] = {name: [] for name in units}
        self._summed: set[str] = set()

    def begin_forward(self, name: str) -> Iterator[Operation]:
        yield from self._gather(name)

    def end_forward(self, name: str) -> None:
        if name in self._units:
            self._gathered.discard(name)
            self._places[name].append(len(self._order))
            self._order.append(name)

    def begin_backward(self, name: str) -> Iterator[Operation]:
        yield from self._gather(name)
        if self._places.get(name):
            place = self._places[name].pop()
            if place > 0:
                yield from self._gather(self._order[place - 1])

    def end_backward(self, name: str) -> Iterator[Operation]:
        if name not in self._units or name in self._summed:
            return
        self._summed.add(name)
        self._gathered.discard(name)
        unit, what = self._units[name], f"gradients of {self._named(name)}"
        if unit.ranks > 1:
            elements = unit.own_elements * unit.ranks
            yield Operation("reduce_scatter", unit.family, elements, "float32", what=what)
        if unit.copies > 1:
            yield Operation("all_reduce", "between_copies", unit.own_elements, "float32", what=what)

    def end_all(self) -> Iterator[Operation]:
        """The backward pass is over; units that nothing came into are not summed yet."""
        for name in self._units:
            yield from self.end_backward(name)
        # What was gathered for a micro-batch whose backward pass is not next is thrown away (finalize_backward).
        self._gathered.clear()
        self._summed.clear()
        self._order.clear()
        for places in self._places.values():
            places.clear()

    def _gather(self, name: str) -> Iterator[Operation]:
        if name in self._units and name not in self._gathered:
            self._gathered.add(name)
            unit = self._units[name]
            if unit.ranks > 1:
                what = f"weights of {self._named(name)}"
                yield Operation("all_gather", unit.family, unit.own_elements, self._dtype, what=what)

    def _named(self, name: str) -> str:
        return name or f"the rest of {self._what}"
