"""Which virtual stage holds which layers, and which stage holds which virtual stages."""

from dataclasses import dataclass
from itertools import accumulate

from mai.recipe import ParallelConfig
from mai.recipe.stage_text import layers_of_virtual_stages


@dataclass(frozen=True, slots=True)
class VirtualStage:
    """A run of consecutive layers that one rank computes at once: a whole pipeline stage, or one of several of it."""

    layers: range
    """Counted from 0 over the whole model; may be empty."""
    has_embedding: bool
    has_loss: bool


def all_virtual_stages(num_layers: int, parallel: ParallelConfig) -> tuple[VirtualStage, ...]:
    """Those of all stages in the order of the forward pass; the i-th is number i // pipeline of stage i % pipeline."""
    last = parallel.num_virtual_stages - 1
    sizes = layers_of_virtual_stages(parallel.stages, num_layers=num_layers, num_virtual_stages=last + 1)
    return tuple(
        VirtualStage(range(end - size, end), has_embedding=number == 0, has_loss=number == last)
        for number, (size, end) in enumerate(zip(sizes, accumulate(sizes), strict=True))
    )


def virtual_stages_of(num_layers: int, parallel: ParallelConfig, stage: int) -> tuple[VirtualStage, ...]:
    """Those of one stage, in that order."""
    return all_virtual_stages(num_layers, parallel)[stage :: parallel.pipeline]
