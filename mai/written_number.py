"""Numbers as people write them: 15000, 15_000, 15k, 2e9, 1.5M."""

import re
from fractions import Fraction

_NUMBER = re.compile(r"([+-]?\d[\d_]*(?:\.\d+)?(?:e\+?\d{1,3})?)([kKMGBT]?)")
_THOUSANDS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}


def whole_number(text: str) -> int:
    """The number, exactly; ValueError where it is none, or has a fraction."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    number = Fraction(match[1].replace("_", "")) * _THOUSANDS[match[2]]
    if number.denominator != 1:
        raise ValueError(text)
    return int(number)
