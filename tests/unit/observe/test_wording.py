"""Numbers, times and memory as people read them."""

import pytest

from mai.observe.wording import duration, memory


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [
        (0, "0 KiB"),
        (900 * 2**10, "900 KiB"),
        (3 * 2**20, "3.00 MiB"),
        (1023.9 * 2**20, "1.00 GiB"),
        (80 * 2**30, "80.0 GiB"),
        (12.5 * 2**40, "12.5 TiB"),
    ],
)
def test_memory_takes_the_unit_of_its_size(num_bytes: float, words: str) -> None:
    assert memory(num_bytes) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (59, "59 s"), (60, "1 min 00 s"), (3_725, "1 h 02 min"), (86_400, "1 d 0 h"), (200_000, "2 d 7 h")],
)
def test_a_duration_has_the_two_units_that_matter(seconds: float, words: str) -> None:
    assert duration(seconds) == words
