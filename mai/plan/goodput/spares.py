"""How long a run waits for a node: what its spares leave."""

from collections.abc import Mapping


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
