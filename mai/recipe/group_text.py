"""The words of `optimizer.groups`: which parameters, and what is other with them.

embedding.*:rate=0.1:decay=0     the embedding learns at a tenth of the rate and does not decay
decoder.layers.0.*:frozen        the first layer stays as it is
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters by name, and what is other with them."""

    text: str
    """As the recipe writes it."""
    pattern: str
    """Stands for global names, as `mai/model/shapes.py` lists them; * is any letters."""
    rate: float = 1.0
    """Factor on the learning rate."""
    decay: float | None = None
    """In place of `optimizer.weight_decay`, whatever the shape; None leaves it to the shape."""
    is_frozen: bool = False


def groups_of(texts: Sequence[str]) -> list[Group]:
    """In order; ValueError says what hinders it."""
    return [_group(text) for text in texts]


def _group(text: str) -> Group:
    pattern, *words = text.split(":")
    if not pattern:
        raise ValueError(f"{text}: names no parameters; write it as PATTERN:rate=0.1:decay=0 or PATTERN:frozen")
    if not words:
        raise ValueError(f"{text}: says nothing of {pattern}; add :rate=0.1, :decay=0 or :frozen")
    if "frozen" in words:
        if len(words) > 1:
            raise ValueError(f"{text}: what is frozen has no rate and no decay; leave all but :frozen out")
        return Group(text=text, pattern=pattern, is_frozen=True)
    numbers = dict(_number(word, text) for word in words)
    if len(numbers) < len(words):
        raise ValueError(f"{text}: says a thing twice")
    if numbers.get("rate") == 0:
        raise ValueError(f"{text}: with rate=0 nothing moves; write {pattern}:frozen")
    return Group(text=text, pattern=pattern, rate=numbers.get("rate", 1.0), decay=numbers.get("decay"))


def _number(word: str, text: str) -> tuple[str, float]:
    name, equals, digits = word.partition("=")
    if name not in ("rate", "decay") or not equals:
        raise ValueError(f"{text}: {word or 'nothing'} is none of rate=NUMBER, decay=NUMBER and frozen")
    try:
        number = float(digits)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"{text}: {name}={digits} must be a number from 0 on")
    return name, number
