"""Modules of a layer: what a rank calls in them forward and backward, and what is computed once more."""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace

from mai.plan.communication.operation import Operation


@dataclass(frozen=True, slots=True)
class Weights:
    """A module is about to use this parameter, or, in a backward pass, its gradient is complete."""

    name: str


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a unit of full sharding begins or ends, in the direction of the pass; a layer, experts, or an end."""

    unit: str
    is_begin: bool


Event = Operation | Weights | Edge


@dataclass(frozen=True, slots=True)
class Module:
    """Part of a layer: what it calls in both directions, in order."""

    name: str
    """As `parallel.recompute` calls it, or what it computes."""
    forward: tuple[Event, ...]
    backward: tuple[Event, ...]
    without_gradients: tuple[Event, ...] | None = None
    """A forward pass that is computed once more in the backward pass; None where it is the same."""

    @property
    def first(self) -> tuple[Event, ...]:
        return self.forward if self.without_gradients is None else self.without_gradients


Stretch = tuple[list[Module], Set[str]]
"""Modules one after the other, and what of them is recomputed: a layer, or an end of the model."""


def within(unit: str, *modules: Module) -> list[Module]:
    """The modules, between the edges of a unit."""
    begin, end = (Edge(unit, is_begin=True),), (Edge(unit, is_begin=False),)
    return [Module("unit", begin, end), *modules, Module("unit", end, begin)]


def joined(name: str, *modules: Module) -> Module:
    """Modules that are computed once more together."""
    return Module(
        name,
        tuple(event for module in modules for event in module.forward),
        tuple(event for module in reversed(modules) for event in module.backward),
        without_gradients=tuple(event for module in modules for event in module.first),
    )


def forward(modules: Sequence[Module], recomputed: Set[str] = frozenset()) -> Iterator[Event]:
    """One module after the other."""
    for module in modules:
        yield from module.first if recomputed & {"layer", module.name} else module.forward


def backward(modules: Sequence[Module], recomputed: Set[str] = frozenset()) -> Iterator[Event]:
    """Last module first; what was not kept is computed once more before."""
    if "layer" in recomputed:
        yield from _again(forward(modules))
    for module in reversed(modules):
        if module.name in recomputed and "layer" not in recomputed:
            yield from _again(module.forward)
        yield from module.backward


def recomputed(module: Module) -> Module:
    """A module that is computed once more in the backward pass, whatever it is part of."""
    return replace(module, backward=(*_again(module.forward), *module.backward))


def _again(events: Iterable[Event]) -> Iterator[Event]:
    """The weights are there by now."""
    return (event for event in events if isinstance(event, Operation))
