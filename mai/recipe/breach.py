"""One thing that is wrong with a recipe, and the words that all its messages share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Breach:
    """A mistake, and the paths of the fields that take part in it."""

    message: str
    paths: tuple[str, ...]


def shown(value: object) -> str:
    """A value as one would type it on the command line, safe to print."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(shown(item) for item in value)
    text = value if isinstance(value, str) else repr(value)
    return text if text.isprintable() else json.dumps(text)


def listed(values: Sequence[object], *, joined_by: str = "or") -> str:
    """`a`, `a or b`, `a, b or c`."""
    *first, last = [shown(value) for value in values]
    return f"{', '.join(first)} {joined_by} {last}" if first else last
