"""The published cases of checkpoint intervals and goodput (docs: reliability at 15,000 GPUs)."""

import pytest

from mai.plan.goodput.intervals import Tier, best_two_tiers, two_tier_goodput, young_interval
from tests.unit.plan.goodput.one_tier import daly_goodput, daly_interval, first_order_budget, tiers

MINUTE, HOUR = 60.0, 3600.0
LLAMA_3 = 203 * MINUTE
"""Mean time to a failure of 15,000 GPUs at Llama 3's rate (arXiv 2407.21783, section 3.3.4)."""


@pytest.mark.parametrize(
    ("mean", "daly", "exact"), [(24 * HOUR, 116.7, 116.7), (6 * HOUR, 56.7, 56.7), (15 * MINUTE, 9.14, 9.2)]
)
def test_intervals_are_those_of_dalys_figures(mean: float, daly: float, exact: float) -> None:
    # Daly 2006, figures 3 to 5: a save of 5 minutes, a restart of 10; 117, 57 and 9.1 minutes.
    assert daly_interval(5 * MINUTE, mean) / MINUTE == pytest.approx(daly, abs=0.05)
    found = best_two_tiers(**tiers(stall_seconds=5 * MINUTE, restart_seconds=10 * MINUTE, mean_seconds=mean))
    assert (found.near_interval_seconds * found.saves_per_far_save) / MINUTE == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize(
    ("interval", "stall", "restart", "expected"),
    [(60, 2, 10, 78.8), (17, 0.5, 10, 88.5), (5.5, 5 / 60, 5, 94.8), (2.5, 1 / 60, 3, 97.3)],
)
def test_goodput_is_that_of_the_monte_carlo(interval: float, stall: float, restart: float, expected: float) -> None:
    facts = {"stall_seconds": stall * MINUTE, "restart_seconds": restart * MINUTE, "mean_seconds": LLAMA_3}
    assert 100 * two_tier_goodput(interval * MINUTE, 1, **tiers(**facts)) == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize(
    ("stall", "interval", "row"),
    [
        (120, 27, (78.5, 82.4, 84.5, 85.3, 86.2)),
        (30, 14, (84.4, 88.7, 90.9, 91.8, 92.7)),
        (5, 5.8, (88.0, 92.5, 94.8, 95.7, 96.7)),
        (1, 2.6, (89.4, 94.0, 96.3, 97.3, 98.2)),
        (0.2, 1.2, (90.1, 94.6, 97.0, 98.0, 98.9)),
    ],
)
def test_the_table_of_15000_gpus(stall: float, interval: float, row: tuple[float, ...]) -> None:
    for restart, expected in zip((20, 10, 5, 3, 1), row, strict=True):
        facts = {"stall_seconds": stall, "restart_seconds": restart * MINUTE, "mean_seconds": LLAMA_3}
        best = best_two_tiers(**tiers(**facts))
        assert (best.near_interval_seconds * best.saves_per_far_save) / MINUTE == pytest.approx(interval, rel=0.05)
        assert 100 * best.goodput == pytest.approx(expected, abs=0.1)


def test_each_minute_of_restart_costs_half_a_percent() -> None:
    five, six = (
        two_tier_goodput(350, 1, **tiers(stall_seconds=5, restart_seconds=minutes * MINUTE, mean_seconds=LLAMA_3))
        for minutes in (5, 6)
    )
    assert 100 * (five - six) == pytest.approx(0.49, abs=0.03)


def test_free_saves_and_restarts_leave_all_of_the_time() -> None:
    free = tiers(stall_seconds=0, restart_seconds=0, mean_seconds=LLAMA_3)
    assert two_tier_goodput(1e-3, 1, **free) == pytest.approx(1)
    assert best_two_tiers(**free).goodput == pytest.approx(1)


def test_a_run_that_cannot_get_on_leaves_nothing_and_no_nan() -> None:
    for stall, restart, most in ((1e9, 0, 0), (5, 1000 * HOUR, 0), (5, 10 * HOUR, 1e-4)):
        facts = tiers(stall_seconds=stall, restart_seconds=restart, mean_seconds=HOUR)
        assert two_tier_goodput(600, 1, **facts) <= most
    nowhere = Tier(stall_seconds=1e9, restart_seconds=0)
    assert two_tier_goodput(600, 3, near=nowhere, far=nowhere, mean_seconds=HOUR, near_share=0.5) == 0


@pytest.mark.parametrize("near_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("mean", [LLAMA_3, 10 * MINUTE])
def test_one_tier_is_dalys_complete_model(near_share: float, mean: float) -> None:
    facts = {"stall_seconds": 30, "restart_seconds": 600, "mean_seconds": mean}
    found = two_tier_goodput(840, 1, **{**tiers(**facts), "near_share": near_share})
    assert found == pytest.approx(daly_goodput(840, **facts), rel=1e-12)


@pytest.mark.parametrize(("share", "expected"), [(0.75, 95.4), (0.9, 96.2)])
def test_two_tiers_leave_what_their_first_order_says(share: float, expected: float) -> None:
    # Memory: 1 s and 3 minutes; storage: 5 s and 8 minutes.
    found = best_two_tiers(near=Tier(1, 3 * MINUTE), far=Tier(5, 8 * MINUTE), mean_seconds=LLAMA_3, near_share=share)
    assert 100 * found.goodput == pytest.approx(expected, abs=0.2)
    assert found.near_interval_seconds / MINUTE == pytest.approx(young_interval(1 / share, LLAMA_3) / MINUTE, rel=0.15)


def test_a_goal_leaves_so_much_time_for_a_restart() -> None:
    budget = first_order_budget(0.94, interval=350, stall_seconds=5, mean_seconds=LLAMA_3)
    facts = tiers(stall_seconds=5, restart_seconds=budget, mean_seconds=LLAMA_3)
    assert two_tier_goodput(350, 1, **facts) == pytest.approx(0.94, abs=0.005)
