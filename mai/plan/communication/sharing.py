"""What ranks call for the weights that they share, as `parallel.sharding` says, event by event."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from mai.model.shapes import Parameter, Split
from mai.parallel.layout import Layout, num_micro_batches
from mai.plan.communication.buckets import Held, Sharing, Sums, buckets, least_elements
from mai.plan.communication.caller import Caller
from mai.plan.communication.full_sharding import ROOT, Unit, Units
from mai.plan.communication.modules import Edge, Weights
from mai.plan.communication.operation import Operation
from mai.plan.time.schedule import Turn


class SharedWeights(Protocol):
    """Of one part of the model."""

    def begin(self, turn: Turn) -> Iterator[Operation]:
        """Before the pass."""

    def at(self, event: Weights | Edge, turn: Turn) -> Iterator[Operation]:
        """Where the pass comes by."""

    def end(self, turn: Turn) -> Iterator[Operation]:
        """Behind the pass."""


def bucketed(caller: Caller, stage: int, virtual_stage: int, parameters: Sequence[Parameter]) -> SharedWeights:
    """Of the distributed optimizer."""
    layout, part = caller.layout, virtual_stage * caller.layout.pipeline + stage
    # Only the first part's sums have nothing to hide behind (optimizer_sharding.py).
    least = least_elements(layout.data) if part == 0 else None
    sums = []
    for is_expert in (False, True):
        held = [Held(each.name, _elements(each, layout)) for each in parameters if each.is_expert == is_expert]
        family, ranks = _sharers(layout, is_expert=is_expert)
        sharing = Sharing(family, ranks, layout.sharding_copies, caller.dtype)
        what = f"{'experts' if is_expert else 'weights'} of part {part}, bucket"
        cut = buckets(held, ranks=ranks, least=least)
        sums.append(Sums(cut, sharing, together=virtual_stage > 0, what=what))
    return _Bucketed(sums, last_micro_batch=num_micro_batches(caller.recipe, layout) - 1)


def fully_shared(caller: Caller, stage: int, virtual_stage: int, parameters: Sequence[Parameter]) -> SharedWeights:
    """Of full sharding."""
    layout, part = caller.layout, virtual_stage * caller.layout.pipeline + stage
    own: dict[str, int] = {}
    families = {}
    for parameter in sorted(parameters, key=lambda each: _unit_of(each) != ROOT):
        unit = _unit_of(parameter)
        families[unit] = _sharers(layout, is_expert=parameter.is_expert)
        own[unit] = own.get(unit, 0) + own_elements(parameter, layout)
    units = {name: Unit(own[name], *families[name], layout.sharding_copies) for name in own}
    return _FullyShared(Units(units, dtype=caller.dtype, what=f"part {part}"))


class _Bucketed:
    def __init__(self, sums: Sequence[Sums], *, last_micro_batch: int) -> None:
        self._sums, self._last_micro_batch = sums, last_micro_batch

    def begin(self, turn: Turn) -> Iterator[Operation]:
        yield from ()

    def at(self, event: Weights | Edge, turn: Turn) -> Iterator[Operation]:
        if isinstance(event, Edge):
            return
        for sums in self._sums:
            if turn.direction == "forward" and turn.micro_batch == 0:
                yield from sums.before(event.names)
            if turn.direction == "backward" and turn.micro_batch == self._last_micro_batch:
                yield from sums.behind(event.names)

    def end(self, turn: Turn) -> Iterator[Operation]:
        yield from ()


class _FullyShared:
    def __init__(self, units: Units) -> None:
        self._units = units

    def begin(self, turn: Turn) -> Iterator[Operation]:
        return self.at(Edge(ROOT, is_begin=True), turn)

    def at(self, event: Weights | Edge, turn: Turn) -> Iterator[Operation]:
        if isinstance(event, Weights):
            return
        if turn.direction == "forward" and event.is_begin:
            yield from self._units.begin_forward(event.unit)
        elif turn.direction == "forward":
            self._units.end_forward(event.unit)
        elif event.is_begin:
            yield from self._units.begin_backward(event.unit)
        elif event.unit != "embedding":
            # Tokens have no gradient, so nothing tells the embedding where its backward pass ends.
            yield from self._units.end_backward(event.unit)

    def end(self, turn: Turn) -> Iterator[Operation]:
        if turn.direction == "forward":
            self._units.end_forward(ROOT)
        else:
            yield from self._units.end_all()


def _sharers(layout: Layout, *, is_expert: bool) -> tuple[str, int]:
    """The family of the ranks that share a weight out, and how many they are."""
    family = "expert_data_within_copy" if is_expert else "data_within_copy"
    return family, (layout.expert_data if is_expert else layout.context * layout.data) // layout.sharding_copies


def _unit_of(parameter: Parameter) -> str:
    """As mai/engine/full_sharding.py cuts the model."""
    name = parameter.name
    if name.startswith(("embedding.", "output_layer.")):
        return name.partition(".")[0]
    if name.startswith("decoder.layers."):
        layer = ".".join(name.split(".")[:3])
        return f"{layer}.mlp.experts" if parameter.is_expert else layer
    return ROOT


def _elements(parameter: Parameter, layout: Layout) -> int:
    """On this rank, before it is shared out."""
    if parameter.is_expert:
        return parameter.num_elements // layout.expert // (1 if parameter.split is Split.NONE else layout.expert_tensor)
    return parameter.num_elements // (1 if parameter.split is Split.NONE else layout.tensor)


def own_elements(parameter: Parameter, layout: Layout) -> int:
    """Of the rows that a rank of full sharding gets, padded to the same for all; experts' matrices stand one below the
    other."""
    _, ranks = _sharers(layout, is_expert=parameter.is_expert)
    elements, (_, *inner) = _elements(parameter, layout), parameter.shape
    columns = inner[-1] if inner else 1
    if parameter.is_expert and len(inner) == 1:
        columns = 1
    if parameter.split is Split.COLUMNS:
        columns //= layout.expert_tensor if parameter.is_expert else layout.tensor
    return -(-(elements // columns) // ranks) * columns
