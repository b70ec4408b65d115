from math import factorial

import pytest

from mai.plan.goodput.poisson import poisson_quantile
from mai.plan.goodput.spares import waiting_share

# 1,875 nodes of 15,000 GPUs, 2.61 failures of 1,000 nodes a day: Llama 3's 289 that a node is to blame for.
NODES, RATE = 1875, 2.61e-3


@pytest.mark.parametrize(("repair_hours", "most", "nearly_all"), [(4, 3, 5), (24, 11, 13), (72, 24, 28), (168, 49, 54)])
def test_spares_are_those_of_the_table(repair_hours: float, most: int, nearly_all: int) -> None:
    in_repair = NODES * RATE * repair_hours / 24
    assert poisson_quantile(in_repair, 0.99) == most
    assert poisson_quantile(in_repair, 0.999) == nearly_all


def test_a_quantile_is_one_of_many_nodes_as_well() -> None:
    assert poisson_quantile(0, 0.99) == 0
    assert poisson_quantile(2000, 0.5) == 2000


@pytest.mark.parametrize(("mean", "spares"), [(0.5, 0), (6.0, 3), (6.0, 12)])
def test_a_run_waits_as_a_caller_finds_all_lines_busy(mean: float, spares: int) -> None:
    terms = [mean**number / factorial(number) for number in range(spares + 2)]
    assert waiting_share({1: mean}, spares) == pytest.approx(terms[-1] / sum(terms))


def test_nodes_that_break_together_need_more_spares_than_one_by_one() -> None:
    assert waiting_share({2: 3.0}, 10) > 1.9 * waiting_share({1: 6.0}, 10)
    assert waiting_share({}, 0) == waiting_share({1: 0.0}, 0) == 0
