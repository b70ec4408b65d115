"""The proof of a recipe's schedule in a layout."""

from mai.parallel.layout import Layout
from mai.plan.communication.groups import families
from mai.plan.communication.of_step import programs
from mai.plan.communication.proof import Proof, prove
from mai.recipe import Recipe


def prove_schedule(recipe: Recipe, layout: Layout) -> Proof:
    """Of one step of every rank.

    Example:
        prove_schedule(recipe, Layout.of(recipe.parallel, 15_000)).holds
    """
    of_stages = programs(recipe, layout)
    return prove(families(layout), lambda rank: of_stages[layout.coordinates(rank).pipeline])
