"""How often to save, and what failures leave of a run's time, in closed form.

Failures come at random, one in `mean_seconds` on average, whatever the run is doing. Goodput is useful time over all
time: what is computed and kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, exp, expm1, sqrt

_GOLDEN = (sqrt(5) - 1) / 2
_EXACT_ENOUGH = 1e-6
_NEARLY_NOTHING_SECONDS = 1e-3
_LARGEST_EXPONENT = 700.0
"""Above it a float overflows: such a run never ends."""


def young_interval(stall_seconds: float, mean_seconds: float) -> float:
    """Useful seconds between saves (Young, CACM 17, 1974)."""
    return sqrt(2 * stall_seconds * mean_seconds)


@dataclass(frozen=True, slots=True)
class Tier:
    """A place that checkpoints go to."""

    stall_seconds: float
    """That the run waits for a save."""
    restart_seconds: float
    """From a failure to the first new step, with what this tier takes to read."""


def two_tier_goodput(
    interval_seconds: float, saves_per_far_save: int, *, near: Tier, far: Tier, mean_seconds: float, near_share: float
) -> float:
    """What is left to a run that saves to the near tier after so much useful time, and every so many times to the far
    one instead.

    The near tier is enough for `near_share` of the failures; the others go back to the last far save. Between two far
    saves the expected time from the start of piece i is a line in that from the first piece, so it is solved backwards.
    A restart that is hit by a failure starts again. Of one tier it is Daly's model (FGCS 22, 2006, equation 20).
    """
    longest = max(near.stall_seconds, far.stall_seconds) + interval_seconds
    restarts = [tier.restart_seconds / mean_seconds for tier in (near, far)]
    if max(longest / mean_seconds, *restarts) > _LARGEST_EXPONENT:
        return 0.0
    near_wait, far_wait = (mean_seconds * expm1(restart) for restart in restarts)
    constant, slope = 0.0, 0.0
    for piece in reversed(range(saves_per_far_save)):
        stall = far.stall_seconds if piece == saves_per_far_save - 1 else near.stall_seconds
        survives = exp(-(interval_seconds + stall) / mean_seconds)
        fails = 1 - survives
        # The time until the piece is done or a failure comes is mean_seconds * fails.
        spent = mean_seconds * fails + fails * (near_share * near_wait + (1 - near_share) * far_wait)
        again = 1 - fails * near_share
        if again <= 0:
            return 0.0
        constant = (spent + survives * constant) / again
        slope = (fails * (1 - near_share) + survives * slope) / again
    if slope >= 1:
        return 0.0
    return saves_per_far_save * interval_seconds * (1 - slope) / constant


@dataclass(frozen=True, slots=True)
class TwoTiers:
    """How often to save where."""

    near_interval_seconds: float
    saves_per_far_save: int
    goodput: float


def best_two_tiers(*, near: Tier, far: Tier, mean_seconds: float, near_share: float) -> TwoTiers:
    """The intervals that leave most; beginning at first order: sqrt(2 stall mean / share of failures) for each tier.

    A near interval of 0, and the goodput near that, where no save costs anything.
    """
    if near.stall_seconds == far.stall_seconds == 0:
        free = two_tier_goodput(
            _NEARLY_NOTHING_SECONDS, 1, near=near, far=far, mean_seconds=mean_seconds, near_share=near_share
        )
        return TwoTiers(0.0, 1, free)

    def of(interval: float, saves: int) -> float:
        return two_tier_goodput(interval, saves, near=near, far=far, mean_seconds=mean_seconds, near_share=near_share)

    def best_of(saves: int) -> TwoTiers:
        first = young_interval(max(near.stall_seconds, far.stall_seconds / saves), mean_seconds)
        interval = _argmax(lambda interval: of(interval, saves), low=first / 50, high=first * 5)
        return TwoTiers(interval, saves, of(interval, saves))

    guess = sqrt(far.stall_seconds * near_share / max(near.stall_seconds * (1 - near_share), 1e-12))
    # Where hardly anything needs the far tier there is no best number: this many, and the search stays short.
    most = max(1, ceil(4 * min(guess, 50)))
    tried: dict[int, TwoTiers] = {}
    low, high = 1, most
    # Goodput has one maximum in the number of near saves.
    while low < high:
        middle = (low + high) // 2
        for saves in (middle, middle + 1):
            tried.setdefault(saves, best_of(saves))
        if tried[middle].goodput >= tried[middle + 1].goodput:
            high = middle
        else:
            low = middle + 1
    tried.setdefault(low, best_of(low))
    return max(tried.values(), key=lambda one: one.goodput)


def _argmax(value: Callable[[float], float], *, low: float, high: float) -> float:
    """Where a function with one maximum has it: golden section."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    while high - low > _EXACT_ENOUGH * high:
        if at_left >= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = value(right)
    return (low + high) / 2
