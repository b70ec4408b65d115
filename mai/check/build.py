"""Build ranks of a recipe's real model without memory and without the other ranks, and hold every parameter against
`mai/model/shapes.py`.

The process stands for one rank of the job: torch's fake process group answers every collective (torch/testing/
_internal/distributed/fake_pg.py), and on the meta device tensors have shapes and no numbers.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from mai.engine.build import build_parts, prepare_megatron
from mai.engine.groups import build_groups, destroy_groups, own_groups_only
from mai.engine.sharded_state import Block, blocks, buffer_blocks
from mai.errors import ParityError
from mai.model.shapes import Parameter, Split, buffers, parameters
from mai.parallel.layout import Layout
from mai.parallel.stages import parts_of_stage
from mai.recipe import Recipe


@dataclass(frozen=True, slots=True)
class BuiltRank:
    rank: int
    pipeline: int
    tensor: int
    expert: int
    num_parameters: int
    """Elements of its parameters, replicas included."""


def telling_ranks(layout: Layout) -> list[int]:
    """One rank for each pair of stage and expert rank, in the first copies: the others hold the same shapes."""
    found: dict[tuple[int, int], int] = {}
    for rank in range(layout.world_size):
        place = layout.coordinates(rank)
        found.setdefault((place.pipeline, place.expert), rank)
    return sorted(found.values())


def build_ranks(recipe: Recipe, layout: Layout, ranks: Iterable[int]) -> Iterator[BuiltRank]:
    """Build each and check it; raises ParityError with every parameter that is not as `shapes.py` says."""
    with own_groups_only():
        for rank in ranks:
            dist.init_process_group("fake", rank=rank, world_size=layout.world_size, store=FakeStore())
            try:
                yield _build(recipe, layout, rank)
            finally:
                destroy_groups()
                dist.destroy_process_group()


def _build(recipe: Recipe, layout: Layout, rank: int) -> BuiltRank:
    groups = build_groups(layout, timeout_seconds=60)
    prepare_megatron(recipe)
    with torch.device("meta"):
        model = build_parts(
            recipe,
            layout,
            groups,
            device=torch.device("meta"),
            # The rotary tables alone have this length, and they are no parameters.
            max_length=2,
            sequence_parallel=recipe.parallel.sequence,
        )
        built = [block for _, _, block in (*blocks(model), *buffer_blocks(model))]
        num_parameters = sum(parameter.numel() for chunk in model for parameter in chunk.parameters())
    place = layout.coordinates(rank)
    wanted = dict(_wanted(recipe, layout, rank))
    if wrong := list(_differences(built, wanted)):
        raise ParityError("\n".join(f"rank {rank}: {sentence}" for sentence in wrong))
    return BuiltRank(rank, place.pipeline, place.tensor, place.expert, num_parameters)


def _differences(built: Iterable[Block], wanted: Mapping[str, tuple[Parameter, int]]) -> Iterator[str]:
    held: dict[str, int] = {}
    for block in built:
        if block.name not in wanted:
            yield f"{block.name} {list(block.global_shape)}: built, and shapes.py does not know it"
            continue
        parameter, _ = wanted[block.name]
        if block.global_shape != parameter.shape:
            yield f"{block.name}: built {list(block.global_shape)}, shapes.py says {list(parameter.shape)}"
        held[block.name] = held.get(block.name, 0) + math.prod(block.shape)
    for name, (parameter, num_elements) in wanted.items():
        if held.get(name) != num_elements:
            yield f"{name} {list(parameter.shape)}: holds {held.get(name, 0)} elements, shapes.py says {num_elements}"


def _wanted(recipe: Recipe, layout: Layout, rank: int) -> Iterator[tuple[str, tuple[Parameter, int]]]:
    """What the rank holds: by name the parameter and how many of its elements."""
    model, place = recipe.model, layout.coordinates(rank)
    stage = parts_of_stage(model.num_layers, recipe.parallel, place.pipeline)
    layers = {layer for part in stage for layer in part.layers}
    has_embedding, has_loss = (any(getattr(part, end) for part in stage) for end in ("has_embedding", "has_loss"))
    for parameter in (*parameters(model), *buffers(model)):
        if parameter.name.startswith("embedding."):
            is_here = has_embedding or (has_loss and (model.tied_embeddings or model.multi_token_depths > 0))
        elif parameter.name.startswith("decoder.final"):
            # Megatron puts it behind the last layer when further depths take what comes out of it.
            is_here = parameter.layer in layers if model.multi_token_depths else has_loss
        elif parameter.name.startswith(("mtp.", "output_layer")):
            is_here = has_loss
        else:
            is_here = parameter.layer in layers
        if is_here:
            yield parameter.name, (parameter, _own_elements(parameter, layout))


def _own_elements(parameter: Parameter, layout: Layout) -> int:
    sharing = 1
    if parameter.split is not Split.NONE:
        sharing = layout.expert_tensor if parameter.is_expert else layout.tensor
    return parameter.num_elements // (sharing * (layout.expert if parameter.is_expert else 1))
