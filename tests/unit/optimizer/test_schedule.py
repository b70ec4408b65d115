"""The learning rate of every step, against numbers worked out by hand."""

import math

import pytest

from mai.optimizer.schedule import learning_rate_at
from mai.recipe import Cosine, OptimizerConfig, WarmupStableDecay

PEAK = 1.0


def rates(schedule: Cosine | WarmupStableDecay, *, steps: int) -> list[float]:
    optimizer = OptimizerConfig(learning_rate=PEAK, schedule=schedule)
    return [learning_rate_at(step, optimizer=optimizer, steps=steps) for step in range(steps)]


def test_the_warm_up_rises_by_equal_parts_and_its_last_step_has_the_peak() -> None:
    for schedule in (Cosine(warmup_steps=4), WarmupStableDecay(warmup_steps=4)):
        assert rates(schedule, steps=20)[:4] == [0.25, 0.5, 0.75, 1.0]


def test_without_a_warm_up_the_first_step_has_the_peak() -> None:
    assert rates(Cosine(), steps=10)[0] == PEAK
    assert rates(WarmupStableDecay(), steps=10)[0] == PEAK


def test_half_a_cosine_goes_from_the_peak_to_the_final_fraction() -> None:
    # Steps 2 to 6 are 0, 1/4, 1/2, 3/4 and 1 of half a period, between 1 and 0.1.
    fractions = [(1 + math.cos(math.pi * quarter / 4)) / 2 for quarter in range(5)]
    expected = [0.1 + 0.9 * fraction for fraction in fractions]
    assert rates(Cosine(warmup_steps=2, final_fraction=0.1), steps=7) == pytest.approx([0.5, 1.0, *expected])
    assert expected[2] == pytest.approx(0.55)


def test_a_plateau_holds_the_peak_until_the_decay_which_is_a_line() -> None:
    schedule = WarmupStableDecay(warmup_steps=2, decay_fraction=0.4, final_fraction=0.0)
    # 10 steps: 2 of warm-up, a plateau, and the last 0.4 of them falls to 0, which a step behind the last would have.
    expected = [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert rates(schedule, steps=10) == pytest.approx(expected)


def test_a_decay_ends_at_its_final_fraction() -> None:
    schedule = WarmupStableDecay(decay_fraction=0.4, final_fraction=0.2)
    assert rates(schedule, steps=10)[-5:] == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.4])


def test_no_step_is_for_nothing_and_a_decay_of_the_whole_run_begins_at_the_peak() -> None:
    assert rates(WarmupStableDecay(decay_fraction=1.0), steps=5) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_a_share_too_small_for_a_step_decays_all_the_same() -> None:
    assert rates(WarmupStableDecay(decay_fraction=0.05), steps=10) == pytest.approx([1.0] * 9 + [0.5])


def test_no_decay_stays_at_the_peak() -> None:
    assert rates(WarmupStableDecay(decay_fraction=0.0), steps=6) == [PEAK] * 6


@pytest.mark.parametrize("steps", [1, 2])
def test_the_shortest_runs_have_rates_between_0_and_the_peak(steps: int) -> None:
    for schedule in (Cosine(), WarmupStableDecay(final_fraction=0.1)):
        assert all(0 < rate <= PEAK for rate in rates(schedule, steps=steps))


def test_the_rate_scales_with_the_peak_and_knows_no_history() -> None:
    optimizer = OptimizerConfig(learning_rate=3e-4, schedule=Cosine(warmup_steps=2))
    assert learning_rate_at(1, optimizer=optimizer, steps=10) == 3e-4
    assert learning_rate_at(0, optimizer=optimizer, steps=10) == 1.5e-4
