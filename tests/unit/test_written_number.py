"""Numbers as people write them."""

import pytest

from mai.written_number import whole_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("15000", 15_000),
        ("15_000", 15_000),
        ("15k", 15_000),
        ("15K", 15_000),
        ("2e9", 2_000_000_000),
        ("1.5M", 1_500_000),
        ("2.5e3", 2_500),
        ("4B", 4_000_000_000),
        ("15T", 15 * 10**12),
        ("9007199254740993", 9_007_199_254_740_993),
        ("-3", -3),
        (" 8 ", 8),
    ],
)
def test_what_people_write_is_the_number_to_the_last_digit(text: str, number: int) -> None:
    assert whole_number(text) == number


NONE = ["", "k", "1.5", "2e-3", "1.5k5", "1,000", "15 k", "0x10", "1e9999", "inf", "nan", "2.0001k"]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        whole_number(text)
