"""A recipe with another layout, and the words that make it."""

import math
from dataclasses import replace

from mai.recipe import ParallelConfig, Recipe, rules, to_dict
from mai.recipe.breach import shown
from mai.recipe.knobs import flat


def with_layout(recipe: Recipe, parallel: ParallelConfig) -> Recipe:
    """With as many sequences to evaluate, or a few more, as all copies of this layout take at a time."""
    changed = replace(recipe, parallel=parallel)
    at_once = parallel.schedule.micro_batch_group * parallel.micro_batch_sequences * (parallel.data or 1)
    sequences = math.ceil(recipe.evaluate.sequences / at_once) * at_once
    return replace(changed, evaluate=replace(recipe.evaluate, sequences=sequences))


def trains(recipe: Recipe, parallel: ParallelConfig) -> bool:
    """Whether mai would train the recipe in this layout."""
    return not rules.violations(with_layout(recipe, parallel))


def words(recipe: Recipe, parallel: ParallelConfig) -> list[str]:
    """What to type behind the recipe's name for this layout: `parallel.tensor=4`, and so on."""
    before = dict(flat(to_dict(recipe)))
    after = flat(to_dict(with_layout(recipe, parallel)))
    return [f"{path}={shown(value)}" for path, value in after if before[path] != value]
