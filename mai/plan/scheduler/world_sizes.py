"""On how many GPUs the recipe's layout trains the recipe's batch: other numbers of data ranks, nothing else changed.

A checkpoint of one size resumes on every other: mai/checkpoint/load_shards.py reads any layout's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mai.plan.memory.memory import memory
from mai.plan.setting.of_layout import trains, with_layout, words
from mai.plan.setting.of_recipe import setting_of
from mai.plan.setting.setting import Setting
from mai.plan.time.step_time import step_time
from mai.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldSize:
    gpus: int
    nodes: int
    data: int
    """Data ranks."""
    overrides: list[str]
    """Words that make it of the recipe."""
    micro_batches: int
    step_seconds: float
    tokens_per_second: float
    needed_bytes: int
    """What the largest rank needs of its GPU's memory."""
    fits: bool


def world_sizes(recipe: Recipe, setting: Setting, *, most_gpus: int) -> list[WorldSize]:
    """Every size up to `most_gpus` that `mai train` starts on, the smallest first, with time and memory of each."""
    return [_of_size(recipe, sized, setting) for sized in _legal(recipe, most_gpus // recipe.parallel.model_ranks)]


def _legal(recipe: Recipe, most_data: int) -> Iterator[Recipe]:
    """Where each data rank gets as many whole micro-batches, and no rule is broken."""
    shared = recipe.batch_sequences // recipe.parallel.micro_batch_sequences
    for data in range(1, min(most_data, shared) + 1):
        parallel = replace(recipe.parallel, data=data)
        if shared % data == 0 and trains(recipe, parallel):
            yield with_layout(recipe, parallel)


def _of_size(recipe: Recipe, sized: Recipe, like: Setting) -> WorldSize:
    setting = setting_of(sized, like.cluster, like.software, imbalance=like.imbalance)
    seconds, needed = step_time(setting).seconds, memory(setting)
    gpus = setting.layout.world_size
    return WorldSize(
        gpus=gpus,
        nodes=-(-gpus // like.cluster.gpus_per_node),
        data=setting.layout.data,
        overrides=words(recipe, sized.parallel),
        micro_batches=setting.num_micro_batches,
        step_seconds=seconds,
        tokens_per_second=setting.tokens / seconds,
        needed_bytes=needed.largest.needed_bytes,
        fits=needed.fits,
    )
