"""The recipe's objective."""

from mai.objective.interface import Objective
from mai.objective.own_loss import own_loss
from mai.objective.pretrain import Pretrain
from mai.recipe import Recipe


def objective_of(recipe: Recipe) -> Objective:
    """What this recipe trains for. Raises RecipeError where it names a loss of its own that cannot be loaded."""
    text = recipe.objective.loss
    return Pretrain(own_loss=None if text is None else own_loss(text))
