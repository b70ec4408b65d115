"""Looks at a step's loss and gradients before the optimizer does.

Pure: a verdict follows from numbers that are the same on every rank, so all ranks agree without asking each other.
"""

import enum

from mai.errors import DivergedError

_SKIPS_BEFORE_GIVING_UP = 3


class Verdict(enum.Enum):
    """What the loop does with a step's gradients."""

    KEEP = "keep"
    SKIP = "skip"


class Guard:
    """Skips updates that are not finite, and gives up when they do not stop."""

    def __init__(self) -> None:
        self._skips_in_a_row = 0

    def judge(self, *, step: int, is_finite: bool) -> Verdict:
        """Raises DivergedError at the third step in a row whose loss or gradient norm is not finite."""
        if is_finite:
            self._skips_in_a_row = 0
            return Verdict.KEEP
        self._skips_in_a_row += 1
        if self._skips_in_a_row < _SKIPS_BEFORE_GIVING_UP:
            return Verdict.SKIP
        raise DivergedError(
            f"loss or gradient norm was not finite in {self._skips_in_a_row} steps in a row, up to step {step}; none "
            "of these updates was applied. Start a new --run folder with a lower "
            "optimizer.learning_rate, a longer optimizer.schedule.warmup_steps or a lower optimizer.clip_norm"
        )
