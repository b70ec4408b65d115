"""All that `mai plan` tells of failures: how often to save, how many spares, how fast to restart, what that leaves."""

from dataclasses import replace
from functools import partial
from math import ceil

from mai.errors import PlanError
from mai.plan.goodput.course import Course
from mai.plan.goodput.expected import (
    LEAST,
    NEARLY_ALWAYS,
    PlannedRun,
    as_planned,
    best_course,
    closed_form,
    enough_spares,
    mean_restart_seconds,
    nodes_in_repair,
    restart_budget,
    run_money,
)
from mai.plan.goodput.failures import Failures, failure_names
from mai.plan.goodput.goodput_values import (
    Days,
    EnoughSpares,
    Expected,
    FailureRate,
    Goodput,
    LostMoney,
    RestartBudget,
    SavesOfRecipe,
    SavesToStorage,
    SavesToTier,
    Spares,
    TwoTiers,
)
from mai.plan.goodput.levers import levers
from mai.plan.goodput.measured import Measured
from mai.plan.goodput.replay import replayed
from mai.plan.goodput.simulation import Simulated, random_failures, simulate
from mai.plan.quantities import duration

_CONFIDENCES = (0.99, NEARLY_ALWAYS)
_LEAST_SIMULATED = 0.1
"""A run of less goodput is hopeless, and is simulated only for as long as one of this goodput would take."""
_MOST_FAILURES = 2000
"""A simulated run lasts so many failures at most: three months of 45,000 GPUs at Llama 3's rate; more say the same."""
_AGREEMENT = 0.01
"""How far goodput in closed form may be off; if more (a run of few repairs' time, long bursts), simulation counts."""
GOAL = 0.94
"""What is left of the time at Llama 3's rate if all goes as designed."""


def goodput_of(
    failures: Failures,
    run: PlannedRun,
    *,
    own: Measured | None = None,
    goal: float = GOAL,
    runs: int = 100,
    seed: int = 0,
) -> Goodput:
    """All that is known of a planned run under failures; mai/plan/telling/goodput_lines.py shows the same.

    Args:
        own: the run that `failures` was measured on, to be replayed; None where they are a rate.
        goal: goodput that the restart budget is for.
        runs: simulated ones, each as long as this one is expected to take.
    """
    listed = as_planned(failures, run)
    # mai saves to storage alone: no state is near.
    failures = replace(listed, near_share=0.0)
    course = best_course(failures, run)
    _refuse_hopeless(failures, run)
    expected, kept = _expected(failures, course, run, runs=runs, seed=seed)
    return Goodput(
        failures=_rate(listed, run),
        checkpoint=_to_storage(failures, course, run),
        recipe=_of_recipe(failures, course, run),
        spares=_spares(failures, run),
        restart=_restart(failures, run, goal=goal),
        expected=expected,
        days=_days(run, kept),
        money=_lost_money(run, kept),
        replayed=None if own is None else replayed(own, failures, course, seed=seed),
        two_tiers=_two_tiers(listed, run, runs=runs, seed=seed) if listed.near_share else None,
        levers=levers(failures, run),
        sources=failures.sources,
    )


def _refuse_hopeless(failures: Failures, run: PlannedRun) -> None:
    in_repair, nodes = nodes_in_repair(failures, run.gpus), run.gpus / run.gpus_per_node
    if in_repair > nodes:
        raise PlanError(
            f"{failures.name}: at one failure in {duration(failures.mean_seconds(run.gpus))} and "
            f"{duration(failures.repair.seconds)} for a repair {in_repair:,.0f} nodes would be in repair, of "
            f"{nodes:,.0f} that the plan has; measure for longer, or use a list of others: {', '.join(failure_names())}"
        )


def _rate(failures: Failures, run: PlannedRun) -> FailureRate:
    mean = failures.mean_seconds(run.gpus)
    return FailureRate(
        name=failures.name,
        describes=failures.describes,
        mean_hours=mean / 3600,
        per_day=86_400 / mean,
        near_share=failures.near_share,
        node_share=failures.share("node"),
        rack_share=failures.share("rack"),
        weibull_shape=failures.weibull_shape,
    )


def _to_storage(failures: Failures, course: Course, run: PlannedRun) -> SavesToStorage:
    seconds = course.near_interval_seconds * course.saves_per_far_save
    unnoticed = max(cause.noticed_after_hours for cause in failures.causes.values()) * 3600
    return SavesToStorage(
        _every(seconds, course.far_stall_seconds, run),
        bytes_per_day=86_400 / seconds * run.checkpoint_bytes,
        keep=min(int(unnoticed // seconds) + 2, ceil(run.useful_seconds / seconds)),
    )


def _every(seconds: float, stall_seconds: float, run: PlannedRun) -> SavesToTier:
    return SavesToTier(seconds, round(seconds / run.step_seconds), stall_seconds)


def _of_recipe(failures: Failures, course: Course, run: PlannedRun) -> SavesOfRecipe:
    every = run.save_interval_seconds
    as_it_is = replace(course, near_interval_seconds=run.useful_seconds if every is None else every)
    steps = None if every is None else round(every / run.step_seconds)
    return SavesOfRecipe(every, steps, closed_form(failures, as_it_is, run.gpus))


def _spares(failures: Failures, run: PlannedRun) -> Spares:
    return Spares(
        nodes=run.spare_nodes,
        in_repair=nodes_in_repair(failures, run.gpus),
        repair_hours=failures.repair.hours,
        enough=[EnoughSpares(each, enough_spares(failures, run, confidence=each)) for each in _CONFIDENCES],
    )


def _two_tiers(failures: Failures, run: PlannedRun, *, runs: int, seed: int) -> TwoTiers:
    course = best_course(failures, run)
    closed = closed_form(failures, course, run.gpus)
    return TwoTiers(
        near=_every(course.near_interval_seconds, course.near_stall_seconds, run),
        far=_to_storage(failures, course, run),
        restart_seconds=mean_restart_seconds(failures),
        closed_form=closed,
        simulated=_simulated(failures, course, run, closed, runs=runs, seed=seed).goodput,
    )


def _restart(failures: Failures, run: PlannedRun, *, goal: float) -> RestartBudget:
    return RestartBudget(
        mean_seconds=mean_restart_seconds(failures),
        steps_seconds=failures.restart.steps(is_near=False, replaces=True),
        goal=goal,
        budget_seconds=restart_budget(failures, run, goal=goal),
    )


def _simulated(
    failures: Failures, course: Course, run: PlannedRun, closed: float, *, runs: int, seed: int
) -> Simulated:
    """Each for as long as the run takes by its closed form."""
    wall = run.useful_seconds / max(closed, _LEAST_SIMULATED)
    wall = min(wall, _MOST_FAILURES * failures.mean_seconds(run.gpus))
    return simulate(course, partial(random_failures, failures, run.gpus), wall_seconds=wall, runs=runs, seed=seed)


def _expected(failures: Failures, course: Course, run: PlannedRun, *, runs: int, seed: int) -> tuple[Expected, float]:
    """In closed form and simulated, and which of both counts."""
    closed = closed_form(failures, course, run.gpus)
    found = _simulated(failures, course, run, closed, runs=runs, seed=seed)
    agree = abs(closed - found.goodput) <= _AGREEMENT
    expected = Expected(
        closed_form=closed,
        simulated=found.goodput,
        agree=agree,
        nine_of_ten_between=found.goodput_range,
        runs=runs,
        waiting_share=found.waiting_share,
        parts=found.shares,
    )
    return expected, closed if agree else found.goodput


def _days(run: PlannedRun, kept: float) -> Days:
    useful = run.useful_seconds / 86_400
    return Days(useful, run.useful_seconds / kept / 86_400 if kept >= LEAST else None)


def _lost_money(run: PlannedRun, kept: float) -> LostMoney:
    all_of_it, without = run_money(run, kept), run_money(run, 1.0)
    return LostMoney(run.currency, None if all_of_it is None or without is None else all_of_it - without)
