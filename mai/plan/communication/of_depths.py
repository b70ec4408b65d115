"""What a rank of the last stage calls to predict further tokens: Megatron-Core's block behind the last layer.

megatron/core/transformer/multi_token_prediction.py (core 0.16.1) and mai/engine/multi_token.py: after the next token's
losses all depths, one after the other, and then the losses of each.
"""

from collections.abc import Iterator, Set
from dataclasses import replace

from mai.model.shapes import depth_layer
from mai.plan.communication.caller import Caller
from mai.plan.communication.matrix_traffic import column_parallel, norm
from mai.plan.communication.modules import Module, Stretch, Weights, within
from mai.plan.communication.of_layer import look_up, modules_of_layer
from mai.plan.communication.of_output import token_losses


def of_depths(caller: Caller, recomputed: Set[str], *, has_embedding: bool) -> Iterator[Stretch]:
    """`has_embedding`: the model's first layer is in the same virtual stage, so that the gradient of the embedding is
    complete only with that."""
    depths = range(caller.recipe.model.multi_token_depths)
    for depth in depths:
        is_first_user = depth == 0 and not has_embedding
        embedding = look_up(caller) if is_first_user else _used_before(look_up(caller))
        begin, end = within(f"mtp.layers.{depth}")
        # Layers are recomputed from here on: the embedding is kept.
        yield [begin, embedding], frozenset()
        yield list(_behind_embedding(caller, depth)), recomputed
        yield [end], frozenset()
    for _ in depths:
        yield [_used_before(token_losses(caller))], frozenset()


def _behind_embedding(caller: Caller, depth: int) -> Iterator[Module]:
    model, prefix = caller.recipe.model, f"mtp.layers.{depth}"
    yield norm(f"{prefix}.enorm")
    yield norm(f"{prefix}.hnorm")
    yield column_parallel(caller, f"{prefix}.eh_proj", inputs=2 * model.hidden_size)
    yield _whole_rows(caller, f"{prefix}.eh_proj")
    yield from modules_of_layer(caller, model.num_layers - 1, prefix=depth_layer(depth))
    yield norm(f"{prefix}.final_layernorm")


def _whole_rows(caller: Caller, name: str) -> Module:
    """Every tensor rank gets all columns of what it and the others have some of; with sequence parallelism it goes on
    with its tokens only."""
    width = caller.recipe.model.hidden_size
    gather = caller.tensor("all_gather", caller.tokens * width // caller.layout.tensor, f"{name}, its output")
    if not caller.recipe.parallel.sequence:
        return Module("whole rows", gather, ())
    return Module(
        "whole rows", gather, caller.tensor("all_gather", caller.own_tokens * width, f"{name}, gradient of its output")
    )


def _used_before(module: Module) -> Module:
    """Its weights' gradients are complete with an earlier module's, which is later in the backward pass."""
    return replace(module, backward=tuple(event for event in module.backward if not isinstance(event, Weights)))
