"""Lines of a terminal: sentences that are wrapped, and tables."""

from collections.abc import Iterator, Sequence
from textwrap import wrap

_COLUMNS = 120
"""How many characters a wrapped line has at most."""


def wrapped(text: str, *, indent: str = "") -> Iterator[str]:
    """A sentence as lines of a terminal, the first and the others this far in."""
    further = indent + "  "
    yield from wrap(
        text, _COLUMNS, initial_indent=indent, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )


def columns(*rows: Sequence[str]) -> Iterator[str]:
    """A table: the first column on the left, numbers on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()
