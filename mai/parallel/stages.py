"""Which part of the model holds which layers, and which stage holds which parts."""

from dataclasses import dataclass
from itertools import accumulate

from mai.recipe import ParallelConfig
from mai.recipe.stage_text import layers_of_parts


@dataclass(frozen=True, slots=True)
class Part:
    """A run of consecutive layers that one rank computes at once: a whole pipeline stage, or a virtual one of it."""

    layers: range
    """Counted from 0 over the whole model; may be empty."""
    has_embedding: bool
    has_loss: bool


def parts(num_layers: int, parallel: ParallelConfig) -> tuple[Part, ...]:
    """All parts in the order of the forward pass; part i is virtual stage i // pipeline of stage i % pipeline."""
    num_parts = parallel.pipeline * parallel.virtual_stages
    sizes = layers_of_parts(parallel.stages, num_layers=num_layers, num_parts=num_parts)
    return tuple(
        Part(range(end - size, end), has_embedding=part == 0, has_loss=part == num_parts - 1)
        for part, (size, end) in enumerate(zip(sizes, accumulate(sizes), strict=True))
    )


def parts_of_stage(num_layers: int, parallel: ParallelConfig, stage: int) -> tuple[Part, ...]:
    """The parts of one stage, by virtual stage."""
    return parts(num_layers, parallel)[stage :: parallel.pipeline]
