"""Tokens per second against GPUs, with more and fewer data ranks: at the recipe's batch, and at one that grows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mai.plan.of_recipe import setting_of
from mai.plan.setting import Setting
from mai.plan.step_time import step_time
from mai.recipe import Recipe, rules

_FEWEST, _MOST = 1 / 32, 4
"""Data ranks, over those of the plan."""
_POINTS = 12


@dataclass(frozen=True, slots=True)
class Point:
    gpus: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Scaling:
    same_batch: tuple[Point, ...]
    """The batch of the recipe, shared by more ranks or fewer."""
    same_share: tuple[Point, ...]
    """Every rank computes as much as in the plan: the batch grows with the ranks."""


def scaling(recipe: Recipe, setting: Setting) -> Scaling:
    """Of the recipe's layout; only where mai would train it."""
    data = setting.layout.data
    least, most = max(1, round(_FEWEST * data)), _MOST * data
    sequences = recipe.batch_sequences // recipe.parallel.micro_batch_sequences
    shares = [ranks for ranks in range(least, most + 1) if sequences % ranks == 0]
    multiples = [round(data * 2**power) for power in range(-5, 3)]
    return Scaling(
        same_batch=tuple(_points(recipe, setting, _spread(shares, keep=data), grows=False)),
        same_share=tuple(_points(recipe, setting, sorted({max(1, each) for each in multiples}), grows=True)),
    )


def _spread(numbers: list[int], *, keep: int) -> list[int]:
    """At most some `_POINTS` of them, with the first, the last and the one to keep."""
    step = -(-len(numbers) // _POINTS)
    return sorted({*numbers[::step], *numbers[-1:], keep})


def _points(recipe: Recipe, setting: Setting, data_ranks: list[int], *, grows: bool) -> Iterator[Point]:
    for data in data_ranks:
        tokens = recipe.train.batch_tokens // setting.layout.data * data if grows else recipe.train.batch_tokens
        train = replace(recipe.train, batch_tokens=tokens)
        scaled = replace(recipe, train=train, parallel=replace(recipe.parallel, data=data))
        if _trains(scaled):
            at_size = setting_of(scaled, setting.cluster, setting.software, imbalance=setting.imbalance)
            yield Point(at_size.layout.world_size, at_size.tokens / step_time(at_size).seconds)


def _trains(recipe: Recipe) -> bool:
    """Whether it breaks no rule; how much is evaluated can follow the ranks."""
    return all("evaluate.sequences" in breach.paths for breach in rules.breaches(recipe))
