"""The guard keeps finite updates, skips the others, and gives up when they do not stop."""

import pytest

from mai.errors import DivergedError
from mai.resilience.guard import Guard, Verdict


def verdicts(finite: str) -> list[Verdict]:
    """One verdict a letter: `f` for a finite step, `x` for one that is not."""
    guard = Guard()
    return [guard.judge(step=step, is_finite=letter == "f") for step, letter in enumerate(finite, start=1)]


def test_finite_steps_are_kept_and_the_others_skipped() -> None:
    keep, skip = Verdict.KEEP, Verdict.SKIP
    assert verdicts("fxfxxf") == [keep, skip, keep, skip, skip, keep]


def test_the_third_skip_in_a_row_ends_the_run() -> None:
    with pytest.raises(
        DivergedError, match=r"3 steps in a row, up to step 6.*lower optimizer\.learning_rate"
    ) as caught:
        verdicts("fxfxxx")
    assert caught.value.code == 86


def test_a_finite_step_begins_the_count_anew() -> None:
    assert verdicts("xxfxxfxx").count(Verdict.SKIP) == 6
