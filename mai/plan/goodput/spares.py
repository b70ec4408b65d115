"""How many nodes wait for another one to break."""

from collections.abc import Mapping
from itertools import count
from math import exp, lgamma, log


def poisson_quantile(mean: float, confidence: float) -> int:
    """The smallest number that is not exceeded with this probability, which is below 1.

    Nodes in repair follow Poisson's law around their mean, however long single repairs take (Palm's theorem): so many
    spares are enough this share of the time.
    """
    if mean == 0:
        return 0
    total = 0.0
    for number in count():
        total += exp(number * log(mean) - mean - lgamma(number + 1))
        # Rounding may leave the sum a little below 1 for good.
        if total >= confidence or (number > mean and total > 1 - 1e-12):
            return number
    raise AssertionError


def waiting_share(failures_per_repair: Mapping[int, float], spares: int) -> float:
    """Of a run's time, what it waits for a node, where nothing breaks while it waits: Erlang's loss formula (1917) with
    one place more than spares, for failures that take several nodes as well.

    `failures_per_repair` has the failures in the mean time of a repair, by the nodes that each takes. Nodes come back
    as often as nodes leave: across every number in repair, as many failures pass upwards as repairs downwards.
    """
    largest = max(failures_per_repair, default=0)
    weights, trains = [1.0], 1.0
    waits = 0.0
    for number in range(1, spares + largest + 1):
        weight = 0.0
        for down in range(1, min(largest, number) + 1):
            if number - down <= spares:
                passing = sum(rate for nodes, rate in failures_per_repair.items() if nodes >= down)
                weight += weights[-down] * passing / number
        weights = [*weights[-largest:], weight]
        if number <= spares:
            trains += weight
        else:
            waits += weight
        # Only shares are asked for, and a factorial soon overflows.
        weights, trains, waits = [each / trains for each in weights], 1.0, waits / trains
    return waits / (trains + waits)
