"""How many nodes are enough in reserve, and how long a run waits for one."""

from collections.abc import Mapping
from math import log

_LARGE = 1e200


def enough(failures_per_repair: Mapping[int, float], *, confidence: float) -> int:
    """The smallest number of nodes in repair that is not exceeded this share of the time, which is below 1.

    `failures_per_repair` has the failures in the mean time of a repair, by the nodes that each takes. Repairs take
    exponential times. So at any moment as many failures have k nodes still in repair as Poisson's law says around the
    failures of k nodes and more, over k; the sum of nodes is Panjer's recursion (ASTIN Bulletin 12, 1981).
    """
    largest = max(failures_per_repair)
    still = [sum(rate for nodes, rate in failures_per_repair.items() if nodes >= k) / k for k in range(1, largest + 1)]
    weights, total, log_scale, number = [1.0], 1.0, -sum(still), 0
    while log(total) + log_scale < log(confidence):
        number += 1
        pairs = zip(range(1, largest + 1), still, reversed(weights), strict=False)
        weights = [*weights[-largest:], sum(k * mean * weight for k, mean, weight in pairs) / number]
        total += weights[-1]
        if total > _LARGE:
            weights, log_scale, total = [each / total for each in weights], log_scale + log(total), 1.0
    return number


def waiting_share(failures_per_repair: Mapping[int, float], spares: int) -> float:
    """The share of its time that a run waits for a node, where nothing breaks while it waits: Erlang's loss formula
    (1917) with one place more than spares, for failures that take several nodes as well.

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
