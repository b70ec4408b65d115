"""Programs of a few ranks, written out as a training step would have them, and faults planted in them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from mai.parallel.layout import Layout
from mai.plan.communication.operation import Kind, Operation, Program, Together
from mai.recipe.pipeline_schedule import OneForwardOneBackward, Turn

Step = list[list[Operation]]
"""A program that can be changed."""


def step_of(layout: Layout, stage: int, num_micro_batches: int, num_layers: int = 2) -> Program:
    """1F1B: tensor all-reduces in each layer, sends between stages, gradients over the copies, norms over the model."""
    together: list[Together] = []
    for turn in OneForwardOneBackward(layout.pipeline).turns_of(stage, num_micro_batches):
        together += _turn(layout, stage, turn, num_layers)
    together.append((Operation("reduce_scatter", "data_with_context", 4096, "fp32", what="gradients"),))
    if stage in (0, layout.pipeline - 1):
        together.append((Operation("all_reduce", "embedding", 512, "fp32", what="gradient of the embedding"),))
    together.append((Operation("all_reduce", "model", 1, "fp32", what="norm of the gradients"),))
    together.append((Operation("all_gather", "data_with_context", 1024, "bf16", what="weights"),))
    return tuple(together)


def _turn(layout: Layout, stage: int, turn: Turn, num_layers: int) -> Iterator[Together]:
    step = 1 if turn.direction == "forward" else -1
    before, after = stage - step, stage + step
    what = f"{turn.direction} of micro-batch {turn.micro_batch}"

    def hand_on(kind: Kind, source: int, peer: int) -> Operation:
        return Operation(kind, "pipeline", 256, "bf16", peer, f"{what}, from stage {source}")

    if 0 <= before < layout.pipeline:
        yield (hand_on("receive", before, before),)
    for layer in range(num_layers):
        yield (Operation("all_reduce", "tensor", 256, "bf16", what=f"layer {layer}, {what}"),)
    if 0 <= after < layout.pipeline:
        yield (hand_on("send", stage, after),)


def programs(layout: Layout, num_micro_batches: int = 4) -> list[Program]:
    """Of each rank; those of a stage are one object.

    1F1B as Megatron-Core has it exchanges in one go what neighbours send each other between a forward and a backward
    turn: each on its own would be a deadlock, as both would send first.
    """
    of_stage = [merged(step_of(layout, stage, num_micro_batches)) for stage in range(layout.pipeline)]
    return [of_stage[layout.coordinates(rank).pipeline] for rank in range(layout.world_size)]


def merged(program: Program) -> Program:
    """A send and the receive behind it from the same place, posted at once."""
    steps: list[Together] = []
    for together in program:
        last = steps[-1] if steps else ()
        if len(last) == 1 == len(together) and (last[0].kind, together[0].kind) == ("send", "receive"):
            steps[-1] = (last[0], together[0]) if last[0].peer == together[0].peer else last
            if last[0].peer != together[0].peer:
                steps.append(together)
        else:
            steps.append(together)
    return tuple(steps)


def planted(healthy: list[Program], rank: int, change: Callable[[Step], None]) -> list[Program]:
    """The programs with that of one rank changed."""
    step = [list(together) for together in healthy[rank]]
    change(step)
    return [
        tuple(tuple(together) for together in step if together) if other == rank else program
        for other, program in enumerate(healthy)
    ]


def where(step: Step, **wanted: object) -> tuple[int, int]:
    """The first operation with these fields, by its place among what is posted at once."""
    for number, together in enumerate(step):
        for place, operation in enumerate(together):
            if all(getattr(operation, field) == value for field, value in wanted.items()):
                return number, place
    raise AssertionError(f"none with {wanted}")


def changing(wanted: dict[str, object], **fields: Any) -> Callable[[Step], None]:
    """Plants other fields in the first operation that is wanted."""

    def change(step: Step) -> None:
        number, place = where(step, **wanted)
        step[number][place] = replace(step[number][place], **fields)

    return change


def leaving_out(**wanted: object) -> Callable[[Step], None]:
    def change(step: Step) -> None:
        number, place = where(step, **wanted)
        del step[number][place]

    return change


def swapping(one: dict[str, object], other: dict[str, object]) -> Callable[[Step], None]:
    def change(step: Step) -> None:
        (number, place), (number_behind, place_behind) = where(step, **one), where(step, **other)
        step[number][place], step[number_behind][place_behind] = (
            step[number_behind][place_behind],
            step[number][place],
        )

    return change
