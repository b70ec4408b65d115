"""Published formulas of runs that save to one place, written down plainly; and that place for our own functions."""

from math import exp, expm1, sqrt
from typing import Any

from mai.plan.goodput.intervals import Tier


def tiers(*, stall_seconds: float, restart_seconds: float, mean_seconds: float) -> dict[str, Any]:
    """Near and far are the same, and every failure needs the far one: what our functions of two tiers take."""
    tier = Tier(stall_seconds, restart_seconds)
    return {"near": tier, "far": tier, "mean_seconds": mean_seconds, "near_share": 0.0}


def daly_goodput(interval: float, *, stall_seconds: float, restart_seconds: float, mean_seconds: float) -> float:
    """Daly, FGCS 22, 2006, equation 20: failures hit saves and restarts too."""
    wall = mean_seconds * exp(restart_seconds / mean_seconds) * expm1((interval + stall_seconds) / mean_seconds)
    return interval / wall


def daly_interval(stall_seconds: float, mean_seconds: float) -> float:
    """The same, equation 37: of higher order than Young's, for a stall below twice the mean."""
    half = stall_seconds / (2 * mean_seconds)
    return sqrt(2 * stall_seconds * mean_seconds) * (1 + sqrt(half) / 3 + half / 9) - stall_seconds


def first_order_budget(goal: float, *, interval: float, stall_seconds: float, mean_seconds: float) -> float:
    """Seconds that a restart may take to leave this much."""
    return (1 - goal) * mean_seconds - interval / 2 - stall_seconds * mean_seconds / interval
