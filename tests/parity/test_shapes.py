"""`mai/model/shapes.py` says of every parameter what the engine builds: planner and checkpoint may rely on it."""

import math

import pytest

from mai.model.shapes import num_parameters, parameters
from mai.parallel.place import Place
from mai.recipe import Recipe
from tests.corpus import changed
from tests.ranks import on_ranks

Box = tuple[tuple[int, ...], tuple[int, ...]]


def built_blocks(place: Place, recipe: Recipe) -> list[tuple[str, tuple[int, ...], Box, bool]]:
    """Runs on every rank: name, whole shape, box (offset and shape) of each block, and whether another rank answers."""
    from mai.engine.build_model import build_model
    from mai.engine.device import open_device
    from mai.engine.groups import build_groups, join_world
    from mai.engine.sharded_state import blocks
    from mai.parallel.layout import Layout

    device = open_device("cpu", place)
    join_world(backend="gloo", place=place, timeout_seconds=60)
    layout = Layout.of(recipe.parallel, world_size=place.world_size)
    groups = build_groups(layout, timeout_seconds=60)
    model = build_model(
        recipe, layout, groups, device=device.torch_device, max_length=16, sequence_parallel=recipe.parallel.sequence
    )
    return [
        (block.name, block.global_shape, (block.offset, block.shape), block.is_replica) for _, _, block in blocks(model)
    ]


@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 2)])
def test_the_engine_builds_the_parameters_that_shapes_lists(tensor: int, pipeline: int, prepared: Recipe) -> None:
    recipe = changed(prepared, parallel={"tensor": tensor, "pipeline": pipeline, "sequence": tensor > 1})
    found = [block for rank in on_ranks(tensor * pipeline, built_blocks, recipe) for block in rank]
    assert {name: shape for name, shape, _, _ in found} == {
        parameter.name: parameter.shape for parameter in parameters(recipe.model)
    }
    # Each box once, where it is not a replica: their elements are the model's.
    boxes = [(name, box) for name, _, box, is_replica in found if not is_replica]
    assert len(set(boxes)) == len(boxes)
    assert sum(math.prod(shape) for _, (_, shape) in boxes) == num_parameters(recipe.model)
