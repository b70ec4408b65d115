"""How many nodes wait for another one to break."""

from itertools import count
from math import exp, lgamma, log


def spare_nodes(*, nodes: int, failures_per_node_day: float, repair_days: float, confidence: float) -> int:
    """The fewest that are enough this share of the time: nodes in repair follow Poisson's law, however long single
    repairs take (Palm's theorem)."""
    return poisson_quantile(nodes * failures_per_node_day * repair_days, confidence)


def poisson_quantile(mean: float, confidence: float) -> int:
    """The smallest number that is not exceeded with this probability, which is below 1."""
    if mean == 0:
        return 0
    total = 0.0
    for number in count():
        total += exp(number * log(mean) - mean - lgamma(number + 1))
        # Rounding may leave the sum a little below 1 for good.
        if total >= confidence or (number > mean and total > 1 - 1e-12):
            return number
    raise AssertionError
