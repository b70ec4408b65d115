"""Which rule of update a parameter follows: by the first group of the recipe that names it, else by its shape."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from mai.errors import RecipeError
from mai.model.shapes import parameters
from mai.recipe import OptimizerConfig, Recipe
from mai.recipe.group_text import Group, groups_of


@dataclass(frozen=True, order=True, slots=True)
class GroupRule:
    """What an update does to the parameters of a group."""

    learning_rate_factor: float
    """The step's learning rate is multiplied with it."""
    weight_decay: float
    is_frozen: bool = False
    """Neither updated nor counted in the gradient norm."""


def rule_of(name: str, shape: Sequence[int], optimizer: OptimizerConfig) -> GroupRule:
    """The rule of the parameter with this global name; `shape` has as many dims as the parameter.

    Matrices decay; norm weights and biases, which are vectors, do not (GPT-3, arXiv 2005.14165, appendix B)."""
    decay = optimizer.weight_decay if len(shape) > 1 else 0.0
    group = next((group for group in groups_of(optimizer.groups) if fnmatchcase(name, group.pattern)), None)
    if group is None:
        return GroupRule(1.0, decay)
    return GroupRule(group.rate, decay if group.decay is None else group.decay, group.is_frozen)


def check_names(recipe: Recipe) -> None:
    """Raise RecipeError where a group of `optimizer.groups` stands for no parameter of the model, or all are frozen.

    Not a rule of mai/recipe, which knows no parameters' names."""
    if not recipe.optimizer.groups:
        return
    names = [parameter.name for parameter in parameters(recipe.model)]
    left, learning, wrong = set(names), set(names), []
    for group in groups_of(recipe.optimizer.groups):
        taken = {name for name in left if fnmatchcase(name, group.pattern)}
        left -= taken
        if group.is_frozen:
            learning -= taken
        if not taken:
            wrong.append(_why_none(group, names))
    if not learning:
        wrong.append("optimizer.groups: every parameter is frozen, so that nothing would learn; leave some out")
    if wrong:
        raise RecipeError(*wrong)


def _why_none(group: Group, names: Sequence[str]) -> str:
    text = f"optimizer.groups={group.text}"
    if any(fnmatchcase(name, group.pattern) for name in names):
        return f"{text}: all that {group.pattern} names is in groups before it; put it before them, or leave it out"
    near = get_close_matches(group.pattern, _patterns(names), n=1, cutoff=0.0)
    return f"{text}: no parameter of the model is called {group.pattern}; there is {near[0]}"


def _patterns(names: Iterable[str]) -> Iterator[str]:
    """Every name, its variant that stands for all layers, and what stands for all that begins as it does."""
    for name in names:
        parts = name.split(".")
        yield from (name, ".".join("*" if part.isdigit() else part for part in parts))
        yield from (".".join([*parts[:number], "*"]) for number in range(1, len(parts)))
