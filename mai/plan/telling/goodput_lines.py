"""What failures take from a planned run, as lines for a terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mai.plan.quantities import amount, counted, disk_size, duration, percent
from mai.plan.telling.typesetting import wrapped

# Types alone: a plan without these blocks answers before they would be loaded.
if TYPE_CHECKING:
    from mai.plan.goodput.goodput_values import (
        Days,
        Expected,
        Goodput,
        LostMoney,
        RestartBudget,
        SavesOfRecipe,
        SavesToStorage,
        SavesToTier,
        Spares,
        TwoTiers,
    )
    from mai.plan.goodput.levers import Move
    from mai.plan.goodput.replay import Replayed

_LEAST_POINTS, _LEAST_SHARE = 0.005, 0.0005
"""Less would show as nothing."""
PARTS = {
    "useful": "kept",
    "saves": "waiting for saves",
    "lost_work": "computed again",
    "slowdown": "slow nodes",
    "waiting_for_nodes": "waiting for a node",
    "restart": "restarts",
}


def lines(found: "Goodput") -> Iterator[str]:
    """The answer of `goodput_of`: failures, saves, spares, restart, goodput, and what would buy most."""
    for head, told in (*sentences(found), *_moves(found)):
        yield from wrapped(f"{head:<13}{told}")


def sentences(found: "Goodput") -> Iterator[tuple[str, str]]:
    """What each is of, and what is known of it; the levers are left out."""
    failures, two = found.failures, found.two_tiers
    yield (
        "failures",
        f"one in {duration(3600 * failures.mean_hours)}, {failures.per_day:.1f} a day ({failures.describes})",
    )
    yield "saves", _to_storage(found.checkpoint)
    yield "spares", _spares(found.spares)
    yield "restart", _restart(found.restart)
    yield "goodput", _goodput(found.expected)
    yield "of all time", _parts(found.expected)
    yield "the recipe", _recipe(found.recipe, found.checkpoint.saves, found.days.useful * 86_400)
    if two is not None:
        yield "two tiers", _two_tiers(two)
    if found.replayed is not None:
        yield "replayed", _replayed(found.replayed)
    yield "takes", _takes(found.days, found.money)


def _moves(found: "Goodput") -> Iterator[tuple[str, str]]:
    moves = [lever.move for lever in found.levers if lever.move and _is_worth_it(lever.move)]
    for number, move in enumerate(moves):
        yield "" if number else "what if", _move(move, found.money.currency)


def _is_worth_it(move: "Move") -> bool:
    return move.points >= _LEAST_POINTS or (move.money or 0) > 0


def _to_storage(tier: "SavesToStorage") -> str:
    return f"to storage {_every(tier.saves)}, {disk_size(tier.bytes_per_day)} a day, keep {tier.keep} or more"


def _every(tier: "SavesToTier") -> str:
    steps, took = counted(tier.every_steps, "step"), duration(tier.every_seconds)
    return f"every {steps} ({took}), a stall of {duration(tier.stall_seconds)}"


def _spares(spares: "Spares") -> str:
    enough = ", ".join(f"{each.nodes} are enough {percent(each.confidence)}" for each in spares.enough)
    repair = duration(3600 * spares.repair_hours)
    return f"{counted(spares.nodes, 'node')}; {enough} of the time, where a repair takes {repair}"


def _restart(restart: "RestartBudget") -> str:
    budget, goal = restart.budget_seconds, percent(restart.goal)
    if budget is None:
        return f"{duration(restart.mean_seconds)} on average; none is fast enough for a goodput of {goal}"
    return (
        f"{duration(restart.mean_seconds)} on average; with enough spares {duration(budget)} or less give a goodput "
        f"of {goal}"
    )


def _goodput(expected: "Expected") -> str:
    low, high = expected.nine_of_ten_between
    return (
        f"{percent(expected.closed_form)} in closed form, {percent(expected.simulated)} in "
        f"{expected.runs} simulated runs, nine of ten between {percent(low)} and {percent(high)}"
        + ("" if expected.agree else "; the formulas do not hold here, and the simulation counts")
    )


def _parts(expected: "Expected") -> str:
    shares = {PARTS[part]: share for part, share in parts_of(expected).items() if share >= _LEAST_SHARE}
    parts = ", ".join(f"{name} {percent(share)}" for name, share in shares.items())
    waiting = expected.waiting_share
    return parts + (f"; in {percent(waiting)} of the runs spares run out at least once" if waiting else "")


def _replayed(replayed: "Replayed") -> str:
    measured, predicted = replayed.own_measured, replayed.own_predicted
    return (
        f"{percent(replayed.goodput)} over the {counted(replayed.interruptions, 'interruption')} of "
        f"{replayed.run} as they came; that run kept {percent(measured)}, and the simulation makes "
        f"{percent(predicted)} of it, {100 * abs(predicted - measured):.1f} points off"
    )


def _recipe(recipe: "SavesOfRecipe", best: "SavesToTier", useful_seconds: float) -> str:
    """With a better interval, where there is one and the run is long enough for it."""
    as_it_saves = "at its end alone"
    if recipe.every_steps is not None and recipe.every_seconds is not None:
        as_it_saves = f"every {counted(recipe.every_steps, 'step')} ({duration(recipe.every_seconds)})"
    told = f"{percent(recipe.closed_form)} as it saves, {as_it_saves}"
    is_best = recipe.every_steps == best.every_steps or best.every_seconds > useful_seconds / 2
    return told if is_best else f"{told}; better: checkpoint.every_steps={best.every_steps}"


def _two_tiers(two: "TwoTiers") -> str:
    return (
        f"{percent(two.closed_form)} in closed form, {percent(two.simulated)} simulated, with saves to memory of "
        f"other nodes besides, which mai has not: {_every(two.near)}; {_to_storage(two.far)}"
    )


def _takes(days: "Days", money: "LostMoney") -> str:
    if days.expected is None:
        return "for ever: failures leave less than a hundredth of the time"
    lost = "" if money.lost is None else f", {amount(money.lost, money.currency or '')} more"
    return f"{days.expected:.1f} days in place of {days.useful:.1f}{lost}"


def _move(move: "Move", currency: str | None) -> str:
    money = move.money
    saves = "" if not money else f", {amount(abs(money), currency or '')} {'less' if money > 0 else 'more'}"
    return f"{move.what}: {move.points:.2f} points{saves}"


def parts_of(expected: "Expected") -> dict[str, float]:
    """Shares of all time by the keys of PARTS, with all steps of restarts as one."""
    shares = expected.parts
    steps = [share for name, share in shares.items() if name.startswith("restart_")]
    return {**{name: share for name, share in shares.items() if name in PARTS}, "restart": sum(steps)}
