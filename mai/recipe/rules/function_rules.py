"""Rules of fields that name the user's own functions."""

from collections.abc import Iterator

from mai.errors import RecipeError
from mai.recipe.breach import Breach
from mai.recipe.named_function import check_function
from mai.recipe.recipe import Recipe
from mai.recipe.rules.breach_wording import breach


def named_functions_are_there(recipe: Recipe) -> Iterator[Breach]:
    named = {
        "model.layer": recipe.model.layer,
        "model.attention_core": recipe.model.attention_core,
        "objective.loss": recipe.objective.loss,
    }
    for path, text in named.items():
        if text is None:
            continue
        try:
            check_function(text)
        except RecipeError as error:
            yield from (breach(recipe, reason, path) for reason in error.violations)
