"""Poisson's law: what a count of things that come at random says of their mean."""

from math import exp, lgamma, log


def poisson_interval(number: int, confidence: float) -> tuple[float, float]:
    """The means that such a count leaves possible, exactly: at either end as many or as few come with half of what is
    missing to the confidence (Garwood, Biometrika 28, 1936)."""
    tail = (1 - confidence) / 2
    low = _mean_with(number - 1, 1 - tail) if number else 0.0
    return low, _mean_with(number, tail)


def _mean_with(number: int, chance: float) -> float:
    """The mean with which no more than so many come by this chance."""
    low, high = 0.0, 1.0
    while _chance_of_most(number, high) > chance:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _chance_of_most(number, middle) > chance else (low, middle)
    return low


def _chance_of_most(number: int, mean: float) -> float:
    return sum(_chance(each, mean) for each in range(number + 1))


def _chance(number: int, mean: float) -> float:
    return exp(number * log(mean) - mean - lgamma(number + 1)) if mean else float(number == 0)
