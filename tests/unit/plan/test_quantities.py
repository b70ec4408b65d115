import pytest

from mai.plan.quantities import (
    amount,
    counted,
    disk_size,
    duration,
    from_to,
    gib,
    is_nothing,
    percent,
    seconds,
)
from mai.plan.telling.typesetting import wrapped


def test_ranks_in_a_row_are_told_from_the_first_to_the_last() -> None:
    assert (from_to(1872, 1874), from_to(58, 58)) == ("1872-1874", "58")


def test_one_is_no_plural() -> None:
    assert (counted(1, "GPU"), counted(15_000, "GPU")) == ("1 GPU", "15,000 GPUs")


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (None, "unknown"),
        (0.0, "0 h"),
        (0.00123, "0.00123 h"),
        (5.816, "5.82 h"),
        (673_661.0, "673,661 h"),
        (999_900_000.0, "1.00 billion h"),
        (15.34e12, "15.3 trillion h"),
        (1.2e16, "12,000 trillion h"),
    ],
)
def test_amounts_have_three_digits_and_a_word(number: float | None, told: str) -> None:
    assert amount(number, "h") == told


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0.0321, "32.100 ms"),
        (59.0, "59.000 s"),
        (90.0, "1.50 minutes"),
        (86_400 * 16.02, "16.0 days"),
        (86_400 * 99.96, "100 days"),
    ],
)
def test_durations_are_in_the_largest_unit_that_is_full(number: float, told: str) -> None:
    assert duration(number) == told


def test_times_beside_each_other_have_one_unit() -> None:
    assert seconds(0.0123, like=9.1) == "0.012 s"
    assert seconds(0.0123) == "12.300 ms"


@pytest.mark.parametrize("like", [9.1, 0.05])
def test_nothing_is_what_would_be_shown_as_zeros(like: float) -> None:
    for number in (0.0, 4e-7, 6e-7, 4e-4, 6e-4):
        shows_zeros = seconds(number, like=like).startswith("0.000 ")
        assert is_nothing(number, like=like) == shows_zeros


def test_a_long_sentence_becomes_lines() -> None:
    first, *others = wrapped("word " * 60, indent="  ")
    assert first.startswith("  word")
    assert all(line.startswith("    word") for line in others)
    assert max(map(len, [first, *others])) <= 120


def test_memory_is_told_in_gib_and_disks_in_powers_of_ten() -> None:
    assert gib(3 * 2**29) == "1.50"
    assert gib(None) == percent(None) == "unknown"
    assert disk_size(5.94e12) == "5.94 TB"
    assert disk_size(81_920) == "81,920 bytes"
