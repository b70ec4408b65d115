"""Which part of which parameter a rank is to hold, by `mai/model/shapes.py` and the layout. Pure arithmetic."""

from collections.abc import Iterator
from dataclasses import dataclass

from mai.model.shapes import Parameter, Split, buffers, parameters
from mai.parallel.layout import Coordinates, Layout
from mai.parallel.stages import virtual_stages_of
from mai.recipe import Recipe


@dataclass(frozen=True, slots=True, order=True)
class Box:
    offset: tuple[int, ...]
    shape: tuple[int, ...]


def telling_ranks(layout: Layout) -> list[int]:
    """One rank for each stage, tensor rank and expert rank, in the first copies: the others hold the same."""
    found: dict[tuple[int, ...], int] = {}
    for rank in range(layout.world_size):
        place = layout.coordinates(rank)
        found.setdefault((place.pipeline, place.tensor, place.expert, place.expert_tensor), rank)
    return sorted(found.values())


def held(recipe: Recipe, layout: Layout, rank: int) -> Iterator[tuple[Parameter, list[Box]]]:
    """Every parameter and buffer of the rank's stage, with the rank's boxes of it."""
    model, place = recipe.model, layout.coordinates(rank)
    stage = virtual_stages_of(model.num_layers, recipe.parallel, place.pipeline)
    layers = {layer for each in stage for layer in each.layers}
    has_embedding, has_loss = (any(getattr(each, end) for each in stage) for end in ("has_embedding", "has_loss"))
    for parameter in (*parameters(model), *buffers(model)):
        if parameter.name.startswith("embedding."):
            is_here = has_embedding or (has_loss and (model.tied_embeddings or model.multi_token_depths > 0))
        elif parameter.name.startswith("decoder.final") and model.multi_token_depths == 0:
            # With further depths it is behind the last layer, because they take what it gives.
            is_here = has_loss
        elif parameter.name.startswith(("mtp.", "output_layer")):
            is_here = has_loss
        else:
            is_here = parameter.layer in layers
        if is_here:
            yield parameter, sorted(boxes_of(parameter, layout, place))


def boxes_of(parameter: Parameter, layout: Layout, place: Coordinates) -> Iterator[Box]:
    if not parameter.is_expert:
        yield from _cut(parameter.shape, parameter.split, ranks=layout.tensor, rank=place.tensor)
        return
    num_experts, *matrix = parameter.shape
    here = num_experts // layout.expert
    for box in _cut(tuple(matrix), parameter.split, ranks=layout.expert_tensor, rank=place.expert_tensor):
        for expert in range(place.expert * here, (place.expert + 1) * here):
            yield Box((expert, *box.offset), (1, *box.shape))


def _cut(shape: tuple[int, ...], split: Split, *, ranks: int, rank: int) -> Iterator[Box]:
    """One tensor rank's boxes of a matrix."""
    if split is Split.NONE:
        yield Box((0,) * len(shape), shape)
        return
    axis = 1 if split is Split.COLUMNS else 0
    num_parts = 2 if split is Split.GATE_AND_UP_ROWS else 1
    part = shape[axis] // num_parts
    size = part // ranks
    for begin in range(0, num_parts * part, part):
        offset, box = [0] * len(shape), list(shape)
        offset[axis], box[axis] = begin + rank * size, size
        yield Box(tuple(offset), tuple(box))
