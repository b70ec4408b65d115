"""What failures take from a planned run, as lines for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from mai.plan.report.quantities import amount, counted, disk_size, duration, percent, wrapped

_LEAST_POINTS = 0.005
"""Less would show as nothing."""
_WORDS = {
    "useful": "kept",
    "saves": "waiting for saves",
    "lost_work": "computed again",
    "slowdown": "slow nodes",
    "waiting_for_nodes": "waiting for a node",
    "restart": "restarts",
}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The answer of `goodput_of`: failures, saves, spares, restart, goodput, and what would buy most."""
    yield from _failures(found["failures"])
    yield from _checkpoint(found["checkpoint"])
    yield from _spares(found["spares"])
    yield from _restart(found["restart"])
    yield from _goodput(found)
    yield from _levers(found["levers"], found["money"]["currency"])


def _failures(failures: Mapping[str, Any]) -> Iterator[str]:
    yield from wrapped(
        f"Failures: one in {duration(3600 * failures['mean_hours'])}, {failures['per_day']:.1f} a day "
        f"({failures['describes']})"
    )


def _checkpoint(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    near, far = checkpoint["near"], checkpoint["far"]
    each = [
        f"to {where} every {counted(tier['every_steps'], 'step')} ({duration(tier['every_seconds'])}), a stall of "
        f"{duration(tier['stall_seconds'])}"
        for where, tier in (("memory of other nodes", near), ("storage", far))
    ]
    # With one tier every save is a far one.
    kept = each[1:] if near["every_steps"] == far["every_steps"] else each
    yield from wrapped(f"Saves: {'; '.join(kept)}, {disk_size(far['bytes_per_day'])} a day, keep {far['keep']} or more")


def _spares(spares: Mapping[str, Any]) -> Iterator[str]:
    enough = ", ".join(f"{each['nodes']} are enough {percent(each['confidence'])}" for each in spares["enough"])
    yield from wrapped(
        f"Spares: {counted(spares['nodes'], 'node')}; {enough} of the time, where a repair takes "
        f"{duration(3600 * spares['repair_hours'])}"
    )


def _restart(restart: Mapping[str, Any]) -> Iterator[str]:
    budget, goal = restart["budget_seconds"], percent(restart["goal"])
    may = (
        f"for {goal} it may take {duration(budget)}" if budget is not None else f"no restart is fast enough for {goal}"
    )
    yield from wrapped(
        f"Restart: {duration(restart['mean_seconds'])} on average, {duration(restart['far_seconds'])} from storage; "
        f"with enough spares {may}"
    )


def _goodput(found: Mapping[str, Any]) -> Iterator[str]:
    goodput, days, money = found["goodput"], found["days"], found["money"]
    low, high = goodput["nine_of_ten_between"]
    yield from wrapped(
        f"Goodput: {percent(goodput['closed_form'])} in closed form, {percent(goodput['simulated'])} in "
        f"{goodput['runs']} simulated runs, nine of ten between {percent(low)} and {percent(high)}"
    )
    parts = _parts(goodput["parts"])
    yield from wrapped("Of all time: " + ", ".join(f"{_WORDS[part]} {percent(share)}" for part, share in parts.items()))
    if goodput["waiting_share"]:
        yield from wrapped(f"Spares run out in {percent(goodput['waiting_share'])} of the runs")
    if days["expected"] is None:
        yield "The run never ends"
        return
    lost = "" if money["lost"] is None else f", {amount(money['lost'], money['currency'])} more"
    yield f"Takes {days['expected']:.1f} days in place of {days['useful']:.1f}{lost}"


def _parts(shares: Mapping[str, float]) -> dict[str, float]:
    """With all steps of restarts as one."""
    steps = [share for name, share in shares.items() if name.startswith("restart_")]
    return {**{name: share for name, share in shares.items() if name in _WORDS}, "restart": sum(steps)}


def _levers(levers: list[Mapping[str, Any]], currency: str | None) -> Iterator[str]:
    for lever in levers:
        move = lever["move"]
        if move and move["points"] >= _LEAST_POINTS:
            saves = "" if not move["money"] else f", {amount(move['money'], currency or '')}"
            yield f"  {lever['name']}: {move['what']} buys {move['points']:.2f} points{saves}"
