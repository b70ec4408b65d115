"""What ranks call for the weights that they share, as `parallel.sharding` says, event by event."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from mai.model.shapes import Parameter, Split
from mai.parallel.layout import Layout, num_micro_batches
from mai.plan.communication.buckets import Held, Sharing, Sums, buckets, least_elements
from mai.plan.communication.caller import Caller
from mai.plan.communication.modules import Edge, Weights
from mai.plan.communication.operation import Operation
from mai.plan.communication.parameters import both_ends_hold, elements_of
from mai.plan.communication.weight_units import ROOT, Unit, Units
from mai.recipe.pipeline_schedule import Turn


class SharedWeights(Protocol):
    """What ranks call for the weights of one virtual stage."""

    def begin(self, turn: Turn) -> Iterator[Operation]:
        """Before the pass."""

    def at(self, event: Weights | Edge, turn: Turn) -> Iterator[Operation]:
        """Where the pass comes by."""

    def end(self, turn: Turn) -> Iterator[Operation]:
        """Behind the pass."""


def bucketed(caller: Caller, stage: int, virtual_stage: int, parameters: Sequence[Parameter]) -> SharedWeights:
    """As the distributed optimizer shares them, in buckets."""
    layout, number = caller.layout, virtual_stage * caller.layout.pipeline + stage
    # Only the first virtual stage's sums have nothing to hide behind (optimizer_sharding.py).
    least = least_elements(layout.data) if number == 0 else None
    doubled = both_ends_hold(caller.recipe)
    sums = []
    for is_expert in (False, True):
        held = [
            Held(each.name, elements_of(each, layout), stands_alone=each.name in doubled)
            for each in parameters
            if each.is_expert == is_expert
        ]
        family, ranks = _sharers(layout, is_expert=is_expert)
        sharing = Sharing(family, ranks, layout.sharding_copies, caller.dtype)
        what = f"{'experts' if is_expert else 'weights'} of virtual stage {number}, bucket"
        cut = buckets(held, ranks=ranks, least=least)
        sums.append(Sums(cut, sharing, together=virtual_stage > 0, what=what))
    return _Bucketed(sums, last_micro_batch=num_micro_batches(caller.recipe, layout) - 1)


def fully_shared(caller: Caller, stage: int, virtual_stage: int, parameters: Sequence[Parameter]) -> SharedWeights:
    """As full sharding does, unit by unit."""
    layout, number = caller.layout, virtual_stage * caller.layout.pipeline + stage
    has_further = any(each.name.startswith("mtp.") for each in parameters)
    ends_are_units = not (caller.recipe.model.tied_embeddings or has_further)
    own: dict[str, int] = {}
    families = {}
    of_units = [(_unit_of(parameter, ends_are_units=ends_are_units), parameter) for parameter in parameters]
    for unit, parameter in sorted(of_units, key=lambda one: one[0] != ROOT):
        families[unit] = _sharers(layout, is_expert=parameter.is_expert)
        own[unit] = own.get(unit, 0) + own_elements(parameter, layout)
    units = {name: Unit(own[name], *families[name], layout.sharding_copies) for name in own}
    is_last = number == layout.pipeline * layout.virtual_stages - 1
    ends_in_unit = not (is_last or any(each.name == "decoder.final_layernorm.weight" for each in parameters))
    return _FullyShared(Units(units, dtype=caller.dtype, what=f"virtual stage {number}"), ends_in_unit=ends_in_unit)


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
                yield from sums.before(event.name)
            if turn.direction == "backward" and turn.micro_batch == self._last_micro_batch:
                yield from sums.behind(event.name)

    def end(self, turn: Turn) -> Iterator[Operation]:
        yield from ()
        if turn.direction == "backward" and turn.micro_batch == self._last_micro_batch:
            left = sorted(name for sums in self._sums for name in sums.left)
            assert not left, f"no module has these parameters: {left}"


class _FullyShared:
    def __init__(self, units: Units, *, ends_in_unit: bool) -> None:
        """`ends_in_unit`: the last unit's output is that of the virtual stage."""
        self._units, self._ends_in_unit = units, ends_in_unit
        self._must_enter_root = False

    def begin(self, turn: Turn) -> Iterator[Operation]:
        # Of two that have one output the inner hears of its gradient first.
        self._must_enter_root = turn.direction == "backward" and self._ends_in_unit
        if not self._must_enter_root:
            yield from self.at(Edge(ROOT, is_begin=True), turn)

    def at(self, event: Weights | Edge, turn: Turn) -> Iterator[Operation]:
        if isinstance(event, Weights):
            return
        if turn.direction == "forward" and event.is_begin:
            yield from self._units.begin_forward(event.unit)
        elif turn.direction == "forward":
            self._units.end_forward(event.unit)
        elif event.is_begin:
            yield from self._units.begin_backward(event.unit)
            if self._must_enter_root:
                self._must_enter_root = False
                yield from self._units.begin_backward(ROOT)
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


def _unit_of(parameter: Parameter, *, ends_are_units: bool) -> str:
    """As mai/engine/full_sharding.py cuts the model."""
    name = parameter.name
    if parameter.is_expert:
        return name[: name.index(".experts.")] + ".experts"
    if name.startswith(("decoder.layers.", "mtp.layers.")):
        return ".".join(name.split(".")[:3])
    if ends_are_units and name.startswith(("embedding.", "output_layer.")):
        return name.partition(".")[0]
    return ROOT


def own_elements(parameter: Parameter, layout: Layout) -> int:
    """Elements of the rows that a rank of full sharding gets, padded to the same for all; experts' matrices stand one
    below the other."""
    _, ranks = _sharers(layout, is_expert=parameter.is_expert)
    elements, (_, *inner) = elements_of(parameter, layout), parameter.shape
    columns = inner[-1] if inner else 1
    if parameter.is_expert and len(inner) == 1:
        columns = 1
    if parameter.split is Split.COLUMNS:
        columns //= layout.expert_tensor if parameter.is_expert else layout.tensor
    return -(-(elements // columns) // ranks) * columns
