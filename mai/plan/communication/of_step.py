"""What every rank calls in one step, in order: the programs of all pipeline stages.

Ranks of a stage call alike: whatever their place on the other axes, their parts are as large.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from mai.errors import PlanError
from mai.model.shapes import Parameter, Split
from mai.parallel.layout import Layout, num_micro_batches
from mai.parallel.stages import VirtualStage, virtual_stages_of
from mai.plan.communication.caller import Caller
from mai.plan.communication.matrix_traffic import norm
from mai.plan.communication.modules import Stretch, backward, forward, within
from mai.plan.communication.of_depths import of_depths
from mai.plan.communication.of_layer import embedding, modules_of_layer
from mai.plan.communication.of_output import output
from mai.plan.communication.operation import Operation, Program, Together
from mai.plan.communication.parameters import both_ends_hold, elements_of, has_final_norm, parameters_of
from mai.plan.communication.sends import Send, turns_and_sends
from mai.plan.communication.sharing import SharedWeights, bucketed, fully_shared, own_elements
from mai.recipe import ModelConfig, Recipe
from mai.recipe.pipeline_schedule import Turn

_TOTALS = "loss and number of tokens"


def programs(recipe: Recipe, layout: Layout) -> tuple[Program, ...]:
    """The program of every stage's ranks, in a step that is not the first.

    An attention core or a loss of the user's own is taken to call nothing. Raises PlanError for a layer of the user's
    own, and for further depths on context ranks, of which each calls otherwise than its neighbours."""
    _refuse(recipe)
    caller = Caller(recipe, layout)
    return tuple(tuple(_Stage(caller, stage).program()) for stage in range(layout.pipeline))


@dataclass(frozen=True)
class _Stage:
    caller: Caller
    stage: int

    def program(self) -> Iterator[Together]:
        layout = self.caller.layout
        for item in turns_and_sends(layout.schedule, self.stage, self.micro_batches):
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
    def virtual_stages(self) -> tuple[VirtualStage, ...]:
        recipe = self.caller.recipe
        return virtual_stages_of(recipe.model.num_layers, recipe.parallel, self.stage)

    @cached_property
    def stretches(self) -> list[list[Stretch]]:
        return [list(_stretches(self.caller, each)) for each in self.virtual_stages]

    @cached_property
    def parameters(self) -> list[list[Parameter]]:
        return [parameters_of(self.caller.recipe, each) for each in self.virtual_stages]

    @cached_property
    def shared(self) -> list[SharedWeights]:
        shared_weights = fully_shared if self.caller.recipe.parallel.sharding == "full" else bucketed
        return [shared_weights(self.caller, self.stage, number, held) for number, held in enumerate(self.parameters)]

    def _turn(self, turn: Turn) -> Iterator[Together]:
        stretches, shared = self.stretches[turn.virtual_stage], self.shared[turn.virtual_stage]
        when = f"{turn.direction} of micro-batch {turn.micro_batch}"
        is_forward = turn.direction == "forward"
        for operation in shared.begin(turn):
            yield (operation,)
        for stretch in stretches if is_forward else reversed(stretches):
            for event in forward(*stretch) if is_forward else backward(*stretch):
                if isinstance(event, Operation):
                    yield (replace(event, what=f"{event.what}, {when}"),)
                else:
                    yield from ((operation,) for operation in shared.at(event, turn))
        for operation in shared.end(turn):
            yield (operation,)

    def _send(self, send: Send) -> Operation:
        caller, turn = self.caller, send.result_of
        elements = caller.own_tokens * caller.recipe.model.hidden_size
        what = f"{turn.direction} of micro-batch {turn.micro_batch}, result of virtual stage {turn.virtual_stage}"
        return Operation(send.kind, "pipeline", elements, caller.dtype, peer=send.peer, what=what)


def _stretches(caller: Caller, virtual_stage: VirtualStage) -> Iterator[Stretch]:
    """Ends are never recomputed."""
    recomputed = frozenset(caller.recipe.parallel.recompute)
    if virtual_stage.has_embedding:
        yield embedding(caller), frozenset()
    for layer in virtual_stage.layers:
        prefix = f"decoder.layers.{layer}"
        yield within(prefix, *modules_of_layer(caller, layer, prefix=prefix)), recomputed
    if has_final_norm(caller.recipe, virtual_stage):
        yield [norm("decoder.final_layernorm")], frozenset()
    if virtual_stage.has_loss:
        yield output(caller), frozenset()
        yield from of_depths(caller, recomputed, has_embedding=virtual_stage.has_embedding)


def _behind(caller: Caller, stage: int, parameters: Sequence[Sequence[Parameter]]) -> Iterator[Operation]:
    """Behind all turns: what is left of gradients, their norm, and the loss."""
    layout = caller.layout
    if layout.tensor > 1:
        uncut = sum(_held(caller, p) for each in parameters for p in each if _is_summed(caller, p))
        if uncut:
            yield Operation("all_reduce", "tensor", uncut, "float32", what="gradients of what tensor ranks hold alike")
    for parameter in (p for each in parameters for p in each if p.name in both_ends_hold(caller.recipe)):
        elements = _held(caller, parameter)
        yield Operation("all_reduce", "embedding", elements, "float32", what="gradient of the embedding")
    sharing = layout.context * layout.data
    if layout.pipeline > 1:
        yield Operation("broadcast", "pipeline", 1, "int32", peer=layout.pipeline - 1, what="number of tokens")
    if sharing > 1:
        yield Operation("all_reduce", "data_with_context", 1, "int32", what="number of tokens")
    if layout.world_size > 1:
        is_within_copy = layout.sharding_copies > 1 and caller.recipe.parallel.sharding == "optimizer"
        family = "optimizer_instance" if is_within_copy else "world"
        if not is_within_copy or layout.world_size > layout.sharding_copies:
            yield Operation("all_reduce", family, 1, "float64", what="gradient norm")
        yield Operation("all_reduce", "world", _num_totals(caller.recipe.model), "float64", what=_TOTALS)
    experts = caller.recipe.model.experts
    routers = sum(p.name.endswith("router.weight") for each in parameters for p in each)
    if experts is not None and experts.bias_update_rate and routers and layout.stage_ranks > 1:
        counts = routers * experts.num_experts
        yield Operation("all_reduce", "tensor_data_context", counts, "int64", what="tokens of all experts")


def _held(caller: Caller, parameter: Parameter) -> int:
    """Elements of its gradient on a rank; of full sharding's uneven rows, the first ranks'."""
    if caller.recipe.parallel.sharding == "optimizer":
        return elements_of(parameter, caller.layout)
    return own_elements(parameter, caller.layout)


def _refuse(recipe: Recipe) -> None:
    if recipe.model.layer is not None:
        raise PlanError(
            f"model.layer={recipe.model.layer}: what your own layer sends is not known before it runs; "
            "use model.layer=none"
        )
    if recipe.model.multi_token_depths and recipe.parallel.context > 1:
        raise PlanError(
            f"model.multi_token_depths={recipe.model.multi_token_depths}, parallel.context={recipe.parallel.context}: "
            "what context ranks hand on to each other for further tokens is not described; use parallel.context=1, or "
            "model.multi_token_depths=0"
        )


def _is_summed(caller: Caller, parameter: Parameter) -> bool:
    """Over tensor ranks, of which each has a part of its gradient: of its own tokens or, of a norm of each head, of its
    own heads (megatron/core/distributed/finalize_model_grads.py, core 0.16.1)."""
    model = caller.recipe.model
    is_head_norm = model.latent_attention is None and parameter.name.endswith(
        ("q_layernorm.weight", "k_layernorm.weight")
    )
    is_whole = not parameter.is_expert and parameter.split is Split.NONE
    return is_whole and (caller.recipe.parallel.sequence or is_head_norm)


def _num_totals(model: ModelConfig) -> int:
    """Numbers that all ranks sum behind a step: losses, their tokens, and the tokens of each layer's experts."""
    of_experts = 0 if model.experts is None else model.num_layers * model.experts.num_experts
    return (4 if model.multi_token_depths else 3) + of_experts
