"""The simulation agrees with the closed form wherever that applies, and its parts are all of the time."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest

from mai.plan.goodput.course import Course
from mai.plan.goodput.failures import Cause, Failures, Restart, load_failures
from mai.plan.goodput.intervals import Tier, two_tier_goodput
from mai.plan.goodput.simulation import Failure, Simulated, random_failures, simulate, simulated_run

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
LLAMA_3 = load_failures("llama3")
NO_STEPS = Restart(
    detect_seconds=0,
    diagnose_seconds=0,
    replace_seconds=0,
    start_processes_seconds=0,
    communicators_seconds=0,
    load_near_seconds=0,
    load_far_seconds=0,
    first_step_seconds=0,
)


def course(*, near: Tier, far: Tier, interval: float, saves: int = 1, **changes: Any) -> Course:
    """With spares without end, and nothing slow."""
    plain = Course(
        near_interval_seconds=interval,
        saves_per_far_save=saves,
        near_stall_seconds=near.stall_seconds,
        far_stall_seconds=far.stall_seconds,
        restart=replace(NO_STEPS, load_near_seconds=near.restart_seconds, load_far_seconds=far.restart_seconds),
        spare_nodes=10_000,
        repair_seconds=DAY,
    )
    return replace(plain, **changes)


def plain_failures(near_share: float, **changes: Any) -> Failures:
    """Llama 3's rate, of one cause that breaks nothing."""
    causes = {"any": Cause(count=1, breaks="nothing")}
    return replace(LLAMA_3, near_share=near_share, causes=causes, **changes)


def simulated(of: Course, failures: Failures, *, runs: int = 40, days: float = 90) -> Simulated:
    draw = partial(random_failures, failures, 15_000)
    return simulate(of, draw, wall_seconds=days * DAY, runs=runs, seed=0)


@pytest.mark.parametrize(
    ("interval", "stall", "restart", "expected"),
    [(60, 2, 10, 78.8), (17, 0.5, 10, 88.5), (5.5, 5 / 60, 5, 94.8), (2.5, 1 / 60, 3, 97.3)],
)
def test_one_tier_leaves_what_the_closed_form_says(
    interval: float, stall: float, restart: float, expected: float
) -> None:
    tier = Tier(stall * MINUTE, restart * MINUTE)
    found = simulated(course(near=tier, far=tier, interval=interval * MINUTE), plain_failures(0), runs=100)
    mean = LLAMA_3.mean_seconds(15_000)
    closed = two_tier_goodput(interval * MINUTE, 1, near=tier, far=tier, mean_seconds=mean, near_share=0.0)
    assert 100 * found.goodput == pytest.approx(expected, abs=0.3)
    assert 100 * found.goodput == pytest.approx(100 * closed, abs=0.3)


@pytest.mark.parametrize(("interval", "saves", "share"), [(180, 4, 0.75), (180, 4, 0.9), (600, 3, 0.5)])
def test_two_tiers_leave_what_the_closed_form_says(interval: float, saves: int, share: float) -> None:
    near, far = Tier(1, 3 * MINUTE), Tier(30, 8 * MINUTE)
    found = simulated(course(near=near, far=far, interval=interval, saves=saves), plain_failures(share))
    mean = LLAMA_3.mean_seconds(15_000)
    closed = two_tier_goodput(interval, saves, near=near, far=far, mean_seconds=mean, near_share=share)
    assert 100 * found.goodput == pytest.approx(100 * closed, abs=0.3)


def of_llama_3(**changes: Any) -> Course:
    slow = LLAMA_3.slow_nodes
    assert slow is not None
    facts = {
        "restart": LLAMA_3.restart,
        "spare_nodes": 20,
        "slow_node_mean_seconds": slow.gpu_hours_between * HOUR / 15_000,
        "slowdown": slow.slowdown,
        "slow_unnoticed_seconds": slow.noticed_after_hours * HOUR,
    }
    return course(near=Tier(1, 0), far=Tier(5, 0), interval=180, saves=4, **{**facts, **changes})


def test_the_parts_are_all_of_the_time() -> None:
    random = Random(0)
    failures = random_failures(LLAMA_3, 15_000, random)
    outcome = simulated_run(of_llama_3(spare_nodes=3), failures, wall_seconds=90 * DAY, random=random)
    assert sum(outcome.seconds.values()) == pytest.approx(90 * DAY, rel=1e-9)
    assert all(seconds > 0 for seconds in outcome.seconds.values())
    assert {"restart_detect", "restart_replace", "restart_load_near", "restart_load_far"} <= outcome.seconds.keys()
    running = 90 * DAY - outcome.seconds["waiting_for_nodes"]
    assert outcome.failures == pytest.approx(running / LLAMA_3.mean_seconds(15_000), rel=0.2)


def test_the_same_seed_gives_the_same_runs() -> None:
    assert simulated(of_llama_3(), LLAMA_3, runs=2) == simulated(of_llama_3(), LLAMA_3, runs=2)


def listed(of: Course, *failures: Failure, wall_seconds: float) -> dict[str, float]:
    return simulated_run(of, iter(failures), wall_seconds=wall_seconds, random=Random(0)).seconds


# A save of 10 seconds to either tier after each 100; a near restart takes 20 seconds, a far one 50.
SIMPLE = course(near=Tier(10, 20), far=Tier(10, 50), interval=100, saves=3)


def test_a_near_failure_loses_the_work_since_any_save_and_a_far_one_since_a_far_save() -> None:
    # The fifth save ends at 550 seconds, the third, a far one, at 330.
    near = listed(SIMPLE, Failure(600, is_near=True), wall_seconds=620)
    assert (near["lost_work"], near["restart_load_near"], near["useful"]) == pytest.approx((50, 20, 500))
    far = listed(SIMPLE, Failure(600), wall_seconds=650)
    assert (far["lost_work"], far["restart_load_far"], far["useful"]) == pytest.approx((250, 50, 300))


def test_a_failure_during_a_save_loses_the_whole_piece() -> None:
    assert listed(SIMPLE, Failure(105, is_near=True), wall_seconds=125)["lost_work"] == pytest.approx(100)


def test_a_restart_that_is_hit_starts_again_from_the_farther_copy() -> None:
    seconds = listed(SIMPLE, Failure(600, is_near=True), Failure(15), wall_seconds=665)
    assert (seconds["restart_load_near"], seconds["restart_load_far"]) == pytest.approx((15, 50))
    assert seconds["useful"] == pytest.approx(300)


def test_corruption_goes_back_to_a_far_save_before_its_beginning() -> None:
    # Far saves end at 330, 660 and 990 seconds; the numbers are wrong since 800.
    seconds = listed(SIMPLE, Failure(1000, unnoticed_seconds=200), wall_seconds=1050)
    assert seconds["useful"] == pytest.approx(600)
    # The far save of 660 is undone at 700, by corruption since 600; one since 680 cannot go back to it any more.
    undone = (Failure(700, unnoticed_seconds=100), Failure(300, unnoticed_seconds=320))
    assert listed(SIMPLE, *undone, wall_seconds=1050)["useful"] == pytest.approx(300)
    assert listed(SIMPLE, Failure(1000, unnoticed_seconds=5000), wall_seconds=1050)["useful"] == pytest.approx(0)


def test_without_a_spare_the_run_waits_for_the_repair() -> None:
    broken = Failure(600, broken_nodes=1)
    spared = simulated_run(replace(SIMPLE, spare_nodes=1), iter([broken]), wall_seconds=10 * DAY, random=Random(0))
    assert (spared.waits, spared.seconds["waiting_for_nodes"]) == (0, 0)
    alone = simulated_run(replace(SIMPLE, spare_nodes=0), iter([broken]), wall_seconds=10 * DAY, random=Random(0))
    assert alone.waits == 1
    assert alone.seconds["waiting_for_nodes"] == pytest.approx(Random(0).expovariate(1 / DAY))


def test_a_rack_takes_all_of_its_spares_at_once() -> None:
    rack = Failure(600, broken_nodes=2)
    assert listed(replace(SIMPLE, spare_nodes=2), rack, wall_seconds=DAY)["waiting_for_nodes"] == 0
    assert listed(replace(SIMPLE, spare_nodes=1), rack, wall_seconds=DAY)["waiting_for_nodes"] > 0


def test_a_slow_node_costs_its_share_of_the_time_until_it_is_replaced() -> None:
    slow = replace(
        SIMPLE, slow_node_mean_seconds=10 * DAY, slowdown=1.25, slow_unnoticed_seconds=DAY, repair_seconds=HOUR
    )
    found = simulate(slow, lambda _: iter(()), wall_seconds=1000 * DAY, runs=20, seed=0)
    # Slow for one day out of eleven: 1/4 more for each useful second, of which a piece of 135 seconds has 100.
    assert found.shares["slowdown"] == pytest.approx(25 / 135 / 11, rel=0.05)
    assert found.shares["lost_work"] == pytest.approx(0, abs=1e-9)


def test_bursts_leave_more_than_the_same_number_of_failures_one_by_one() -> None:
    # Those of a burst find little to lose.
    of = course(near=Tier(5, 300), far=Tier(5, 300), interval=30 * MINUTE)
    even, bursts = (simulated(of, plain_failures(0, weibull_shape=shape), runs=10) for shape in (1.0, 0.5))
    assert bursts.failures == pytest.approx(even.failures, rel=0.05)
    assert bursts.goodput > even.goodput


def test_a_run_that_nothing_happens_to_loses_its_saves_only() -> None:
    found = simulate(SIMPLE, lambda _: iter(()), wall_seconds=DAY, runs=1, seed=0)
    assert found.goodput == pytest.approx(100 / 110, abs=1e-3)
    free = course(near=Tier(0, 0), far=Tier(0, 0), interval=100)
    assert simulate(free, lambda _: iter(()), wall_seconds=DAY, runs=1, seed=0).goodput == pytest.approx(1)


def test_a_run_that_never_gets_on_leaves_nothing_and_no_nan() -> None:
    def always(_: Random) -> Iterator[Failure]:
        return iter(lambda: Failure(30), None)

    found = simulate(SIMPLE, always, wall_seconds=DAY, runs=1, seed=0)
    assert found.goodput == 0
    assert sum(found.shares.values()) == pytest.approx(1)
