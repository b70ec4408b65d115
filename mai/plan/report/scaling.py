"""Tokens per second against GPUs, with more and fewer data ranks: at the recipe's batch, and at one that grows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mai.plan.setting.of_layout import trains
from mai.plan.setting.of_recipe import setting_of
from mai.plan.setting.setting import Setting
from mai.plan.time.step_time import step_time
from mai.recipe import Recipe

_HALVINGS, _DOUBLINGS = 5, 1
"""How often the plan's data ranks are halved and doubled at most: from a 32nd of them to twice as many."""
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
    """Both lines of the recipe's layout; only where mai would train it."""
    data, tokens = setting.layout.data, recipe.train.batch_tokens
    least, most = max(1, data >> _HALVINGS), data << _DOUBLINGS
    sequences = recipe.batch_sequences // recipe.parallel.micro_batch_sequences
    shares = [ranks for ranks in range(least, most + 1) if sequences % ranks == 0]
    powers = sorted({max(1, most >> halvings) for halvings in range(_HALVINGS + _DOUBLINGS + 1)})
    return Scaling(
        same_batch=tuple(_points([_with_data(recipe, ranks, tokens) for ranks in shares], setting)),
        same_share=tuple(_points([_with_data(recipe, ranks, tokens // data * ranks) for ranks in powers], setting)),
    )


def _with_data(recipe: Recipe, data: int, batch_tokens: int) -> Recipe:
    train = replace(recipe.train, batch_tokens=batch_tokens)
    return replace(recipe, train=train, parallel=replace(recipe.parallel, data=data))


def _points(recipes: Sequence[Recipe], setting: Setting) -> Iterator[Point]:
    """Where they are many, some, and of these the first and the last."""
    legal = [recipe for recipe in recipes if trains(recipe, recipe.parallel)]
    step = -(-len(legal) // _POINTS) or 1
    for recipe in [*legal[:-1:step], *legal[-1:]]:
        at_size = setting_of(recipe, setting.cluster, setting.software, imbalance=setting.imbalance)
        yield Point(at_size.layout.world_size, at_size.tokens / step_time(at_size).seconds)
