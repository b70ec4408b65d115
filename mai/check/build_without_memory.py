"""Build ranks of a recipe's real model without memory and without the other ranks, and hold every parameter, and which
part of it the rank has, against `mai/model/shapes.py`.

The process stands for one rank of the job: torch's fake process group answers every collective (torch/testing/
_internal/distributed/fake_pg.py), and on the meta device tensors have shapes and no numbers.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from mai.check.boxes import Box, held
from mai.engine.build_model import build_virtual_stages, prepare_megatron
from mai.engine.groups import build_groups, destroy_groups, own_groups_only
from mai.engine.shard import Block
from mai.engine.sharded_state import blocks, buffer_blocks
from mai.errors import ParityError
from mai.model.shapes import Parameter
from mai.parallel.layout import Layout
from mai.recipe import Recipe


@dataclass(frozen=True, slots=True)
class BuiltRank:
    rank: int
    pipeline: int
    tensor: int
    expert: int
    num_parameters: int
    """Elements of its parameters, replicas included."""


def build_ranks(recipe: Recipe, layout: Layout, ranks: Iterable[int]) -> Iterator[BuiltRank]:
    """Build each and check it; raises ParityError with every parameter that is not as `shapes.py` says."""
    for rank in ranks:
        with own_groups_only(rank):
            dist.init_process_group("fake", rank=rank, world_size=layout.world_size, store=FakeStore())
            try:
                yield _build(recipe, layout, rank)
            finally:
                destroy_groups()
                dist.destroy_process_group()


def _build(recipe: Recipe, layout: Layout, rank: int) -> BuiltRank:
    groups = build_groups(layout, timeout_seconds=recipe.resilience.peer_timeout_seconds)
    prepare_megatron(recipe)
    with torch.device("meta"):
        model = build_virtual_stages(
            recipe,
            layout,
            groups,
            device=torch.device("meta"),
            # The rotary tables alone have this length, and they are no parameters.
            max_length=2,
            sequence_parallel=recipe.parallel.sequence,
        )
        built = [block for _, _, block in (*blocks(model), *buffer_blocks(model))]
        num_parameters = sum(parameter.numel() for virtual_stage in model for parameter in virtual_stage.parameters())
    place = layout.coordinates(rank)
    wanted = {parameter.name: (parameter, boxes) for parameter, boxes in held(recipe, layout, rank)}
    if wrong := list(_differences(built, wanted)):
        raise ParityError("\n".join(f"rank {rank}: {sentence}" for sentence in wrong))
    return BuiltRank(rank, place.pipeline, place.tensor, place.expert, num_parameters)


def _differences(built: Iterable[Block], wanted: Mapping[str, tuple[Parameter, list[Box]]]) -> Iterator[str]:
    found: dict[str, list[Box]] = {}
    for block in built:
        if block.name not in wanted:
            yield f"{block.name} {list(block.global_shape)}: built, and shapes.py does not know it"
            continue
        parameter, _ = wanted[block.name]
        if block.global_shape != parameter.shape:
            yield f"{block.name}: built {list(block.global_shape)}, shapes.py says {list(parameter.shape)}"
        found.setdefault(block.name, []).append(Box(block.offset, block.shape))
    for name, (parameter, boxes) in wanted.items():
        if sorted(found.get(name, [])) != boxes:
            yield f"{name} {list(parameter.shape)}: holds {found.get(name, [])}, shapes.py says {boxes}"
