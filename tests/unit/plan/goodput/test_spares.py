from math import factorial, inf, sqrt
from random import Random

import pytest

from mai.plan.goodput.spares import enough, waiting_share

# 1,875 nodes of 15,000 GPUs, 2.61 failures of 1,000 nodes a day: Llama 3's 289 that a node is to blame for.
NODES, RATE = 1875, 2.61e-3
_LONG_AGO = 30.0
"""In repairs: of a node that broke before, one in 10^13 is still there."""


@pytest.mark.parametrize(("repair_hours", "most", "nearly_all"), [(4, 3, 5), (24, 11, 13), (72, 24, 28), (168, 49, 54)])
def test_spares_are_those_of_the_table(repair_hours: float, most: int, nearly_all: int) -> None:
    in_repair = NODES * RATE * repair_hours / 24
    assert enough({1: in_repair}, confidence=0.99) == most
    assert enough({1: in_repair}, confidence=0.999) == nearly_all


def test_a_quantile_is_one_of_many_nodes_as_well() -> None:
    assert enough({1: 0.0}, confidence=0.99) == 0
    assert enough({1: 2000.0}, confidence=0.5) == 2000


@pytest.mark.parametrize("failures_per_repair", [{1: 5.0, 2: 0.5}, {1: 5.0, 32: 0.6}, {1: 0.0, 8: 2.0}])
def test_so_many_are_enough_where_racks_take_all_their_nodes_with_them(failures_per_repair: dict[int, float]) -> None:
    """Beside ten thousand looks at nodes in repair, thirty repairs apart or more: each failure as it comes."""
    random, looks = Random(0), 10_000
    counts = []
    for _ in range(looks):
        in_repair = 0
        for nodes, rate in failures_per_repair.items():
            now = random.expovariate(1.0) / rate if rate else inf
            while now < _LONG_AGO:
                in_repair += sum(random.expovariate(1.0) > now for _ in range(nodes))
                now += random.expovariate(1.0) / rate
        counts.append(in_repair)
    for confidence in (0.5, 0.9, 0.99):
        number = enough(failures_per_repair, confidence=confidence)
        not_exceeded = sum(count <= number for count in counts) / looks
        exceeded_by_one_less = sum(count <= number - 1 for count in counts) / looks
        off = 4 * sqrt(confidence * (1 - confidence) / looks)
        assert not_exceeded > confidence - off
        assert exceeded_by_one_less < confidence + off


@pytest.mark.parametrize(("mean", "spares"), [(0.5, 0), (6.0, 3), (6.0, 12)])
def test_a_run_waits_as_a_caller_finds_all_lines_busy(mean: float, spares: int) -> None:
    terms = [mean**number / factorial(number) for number in range(spares + 2)]
    assert waiting_share({1: mean}, spares) == pytest.approx(terms[-1] / sum(terms))


def test_nodes_that_break_together_need_more_spares_than_one_by_one() -> None:
    assert waiting_share({2: 3.0}, 10) > 1.9 * waiting_share({1: 6.0}, 10)
    assert waiting_share({}, 0) == waiting_share({1: 0.0}, 0) == 0
