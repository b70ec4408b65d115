"""What every rank calls in one step, in order: the programs of all pipeline stages.

Ranks of a stage call alike: whatever their place on the other axes, their parts are as large.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property

from mai.model.shapes import Parameter, Split, depth_parameters, layer_parameters
from mai.parallel.layout import Layout, num_micro_batches
from mai.parallel.stages import Part, parts_of_stage
from mai.plan.communication import of_layer
from mai.plan.communication.of_layer import Caller, Event, Module, Weights
from mai.plan.communication.operation import Operation, Program, Together
from mai.plan.communication.sends import Moment, turns_and_sends
from mai.plan.communication.shared_weights import Held, Sharing, Sums, buckets, least_elements
from mai.plan.time.schedule import Turn
from mai.recipe import Recipe

_Unit = tuple[list[Module], Set[str]]
"""A layer or an end of the model, and what of it is recomputed."""


def programs(recipe: Recipe, layout: Layout) -> tuple[Program, ...]:
    """Of the ranks of every stage, of a step that is not the first."""
    caller = Caller(recipe, layout)
    return tuple(tuple(_Stage(caller, stage).program()) for stage in range(layout.pipeline))


@dataclass(frozen=True)
class _Stage:
    caller: Caller
    stage: int

    def program(self) -> Iterator[Together]:
        layout, recipe = self.caller.layout, self.caller.recipe
        for item in turns_and_sends(self.stage, layout.pipeline, self.micro_batches, layout.virtual_stages):
            if isinstance(item, Turn):
                yield from self._turn(item)
            else:
                yield tuple(self._send(send) for send in item)
        for operation in _behind(self.caller, self.stage, self.parameters):
            yield (operation,)

    @property
    def micro_batches(self) -> int:
        return num_micro_batches(self.caller.recipe, self.caller.layout)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        recipe = self.caller.recipe
        return parts_of_stage(recipe.model.num_layers, recipe.parallel, self.stage)

    @cached_property
    def units(self) -> list[list[_Unit]]:
        return [list(_units(self.caller, part)) for part in self.parts]

    @cached_property
    def parameters(self) -> list[list[Parameter]]:
        return [list(_parameters(self.caller.recipe, part)) for part in self.parts]

    @cached_property
    def sums(self) -> list[list[Sums]]:
        return [
            list(_sums(self.caller, self.stage, number, parameters))
            for number, parameters in enumerate(self.parameters)
        ]

    def _turn(self, turn: Turn) -> Iterator[Together]:
        units = self.units[turn.part]
        if turn.direction == "forward":
            events = [event for unit in units for event in of_layer.forward(*unit)]
        else:
            events = [event for unit in reversed(units) for event in of_layer.backward(*unit)]
        when = f"{turn.direction} of micro-batch {turn.micro_batch}"
        for event in events:
            if isinstance(event, Operation):
                yield (replace(event, what=f"{event.what}, {when}"),)
            else:
                yield from ((operation,) for operation in self._weights(turn, event))

    def _weights(self, turn: Turn, event: Weights) -> Iterator[Operation]:
        for sums in self.sums[turn.part]:
            if turn.direction == "forward" and turn.micro_batch == 0:
                yield from sums.before(event.names)
            if turn.direction == "backward" and turn.micro_batch == self.micro_batches - 1:
                yield from sums.behind(event.names)

    def _send(self, send) -> Operation:
        caller, turn = self.caller, send.result_of
        elements = caller.own_tokens * caller.recipe.model.hidden_size
        what = f"{turn.direction} of micro-batch {turn.micro_batch}, result of part {turn.part}"
        return Operation(send.kind, "pipeline", elements, caller.dtype, peer=send.peer, what=what)


def _units(caller: Caller, part: Part) -> Iterator[_Unit]:
    """Ends are never recomputed."""
    recomputed = frozenset(caller.recipe.parallel.recompute)
    if part.has_embedding:
        yield [of_layer.embedding(caller)], frozenset()
    for layer in part.layers:
        yield of_layer.modules_of_layer(caller, layer, prefix=f"decoder.layers.{layer}"), recomputed
    if part.has_loss:
        yield of_layer.output(caller, "output_layer"), frozenset()


def _parameters(recipe: Recipe, part: Part) -> Iterator[Parameter]:
    """In the order in which Megatron's modules register them."""
    model, last = recipe.model, recipe.model.num_layers - 1
    vocabulary = (model.vocab_size, model.hidden_size)
    if part.has_embedding:
        yield Parameter("embedding.word_embeddings.weight", vocabulary, Split.VOCABULARY_ROWS, 0)
    for layer in part.layers:
        yield from layer_parameters(model, layer)
    if part.has_loss:
        yield Parameter("decoder.final_layernorm.weight", (model.hidden_size,), Split.NONE, last)
        for depth in range(model.multi_token_depths):
            yield from depth_parameters(model, depth)
        yield Parameter("output_layer.weight", vocabulary, Split.VOCABULARY_ROWS, last)


def _elements(parameter: Parameter, layout: Layout) -> int:
    if parameter.is_expert:
        cut = layout.expert * (1 if parameter.split is Split.NONE else layout.expert_tensor)
    else:
        cut = 1 if parameter.split is Split.NONE else layout.tensor
    return parameter.num_elements // cut


def _sums(caller: Caller, stage: int, virtual_stage: int, parameters: Sequence[Parameter]) -> Iterator[Sums]:
    layout = caller.layout
    is_cut = stage == 0 and virtual_stage == 0
    for is_expert in (False, True):
        held = [Held(p.name, _elements(p, layout)) for p in parameters if p.is_expert == is_expert]
        ranks = (layout.expert_data if is_expert else layout.context * layout.data) // layout.sharding_copies
        sharing = Sharing(
            within="expert_data_within_copy" if is_expert else "data_within_copy",
            ranks=ranks,
            copies=layout.sharding_copies,
            dtype=caller.dtype,
        )
        least = least_elements(layout.data) if is_cut else None
        what = f"{'experts' if is_expert else 'weights'} of part {virtual_stage * layout.pipeline + stage}, bucket"
        yield Sums(buckets(held, ranks=ranks, least=least), sharing, together=virtual_stage > 0, what=what)


def _behind(caller: Caller, stage: int, parameters: Sequence[Sequence[Parameter]]) -> Iterator[Operation]:
    """Behind all turns: what is left of gradients, their norm, and the loss."""
    layout, sequence = caller.layout, caller.recipe.parallel.sequence
    if layout.tensor > 1:
        uncut = sum(p.num_elements for part in parameters for p in part if _is_summed(p, sequence=sequence))
        if uncut:
            yield Operation("all_reduce", "tensor", uncut, "float32", what="gradients of what tensor ranks hold alike")
    sharing = layout.context * layout.data
    if layout.pipeline > 1:
        yield Operation("broadcast", "pipeline", 1, "int32", peer=layout.pipeline - 1, what="number of tokens")
    if sharing > 1:
        yield Operation("all_reduce", "data_with_context", 1, "int32", what="number of tokens")
    if layout.world_size > 1:
        family = "optimizer_instance" if layout.sharding_copies > 1 else "world"
        if layout.world_size > layout.sharding_copies:
            yield Operation("all_reduce", family, 1, "float64", what="gradient norm")
        yield Operation("all_reduce", "world", 3, "float64", what="loss and number of tokens")
    experts = caller.recipe.model.experts
    routers = sum(p.name.endswith("router.weight") for part in parameters for p in part)
    if experts is not None and experts.bias_update_rate and routers and layout.stage_ranks > 1:
        counts = routers * experts.num_experts
        yield Operation("all_reduce", "tensor_data_context", counts, "int64", what="tokens of all experts")


def _is_summed(parameter: Parameter, *, sequence: bool) -> bool:
    is_head_norm = parameter.name.endswith(("q_layernorm.weight", "k_layernorm.weight"))
    return not parameter.is_expert and parameter.split is Split.NONE and (sequence or is_head_norm)
