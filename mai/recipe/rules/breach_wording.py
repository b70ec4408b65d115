"""How a breach is told: the fields with their values, the rule, and the nearest values that keep it."""

from mai.recipe.breach import Breach, shown
from mai.recipe.knobs import value_at
from mai.recipe.recipe import Recipe, all_fields

_LARGEST_DIVISOR = 4096
_NUM_SUGGESTIONS = 6


def breach(recipe: Recipe, rule: str, *paths: str) -> Breach:
    values = all_fields(recipe)
    given = ", ".join(f"{path}={shown(value_at(path, values))}" for path in paths)
    return Breach(f"{given}: {rule}", paths)


def multiples_near(value: int, unit: int, *, at_least: int = 1) -> list[int]:
    """The multiples of `unit` just below and above `value`."""
    below = value // unit * unit
    return [multiple for multiple in (below, below + unit) if multiple >= at_least]


def divisors(number: int) -> list[int]:
    """All that divide it, the largest left out where they are huge."""
    return [divisor for divisor in range(1, min(number, _LARGEST_DIVISOR) + 1) if number % divisor == 0]


def one_of(choices: list[int], *, near: int) -> str:
    """`one of 1, 2, 4`: the choices that are closest to `near`."""
    closest = sorted(sorted(choices, key=lambda choice: abs(choice - near))[:_NUM_SUGGESTIONS])
    return f"one of {', '.join(map(str, closest))}" if len(closest) > 1 else str(closest[0])
