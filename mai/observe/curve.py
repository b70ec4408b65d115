"""Curves for a terminal, as plain strings: a plot of braille dots with axes, and a one-line sparkline."""

import math
from collections.abc import Sequence
from itertools import pairwise

_BRAILLE_BLANK = 0x2800
# Bits of one braille character: four rows of two dots.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_LOWEST_BLOCK = 0x2581
# The longest label of four digits is -1.234e+10.
_LABEL_WIDTH = 10
_CORNER, _HORIZONTAL, _VERTICAL, _TICK = "\u2514", "\u2500", "\u2502", "\u2524"


def curve(xs: Sequence[float], ys: Sequence[float], *, width: int, height: int) -> list[str]:
    """A plot of `height` lines, none longer than `width`; empty if no point is finite.

    Each column of dots shows the mean of its points; columns without points lie on a straight line between others.
    """
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
    if not points:
        return []
    columns = _column_means(points, 2 * (width - _LABEL_WIDTH - 2))
    low, high = _bounds(columns)
    plot_rows = height - 2
    labels = {0: f"{high:.4g}", plot_rows // 2: f"{high - (high - low) * (plot_rows // 2 + 0.5) / plot_rows:.4g}"}
    labels[plot_rows - 1] = f"{low:.4g}"
    margin = max(len(label) for label in labels.values()) + 1
    canvas = _draw([round((high - y) / (high - low) * (4 * plot_rows - 1)) for y in columns], plot_rows)
    lines = [
        f"{labels.get(row, ''):>{margin - 1}} {_TICK if row in labels else _VERTICAL}{text}"
        for row, text in enumerate(canvas)
    ]
    axis = " " * margin + _CORNER + _HORIZONTAL * len(canvas[0])
    return [*lines, axis, " " * (margin + 1) + _x_labels(points, len(canvas[0]))]


def sparkline(values: Sequence[float], *, width: int) -> str:
    """At most `width` blocks, the lowest value the lowest block; not finite values are left out."""
    finite = [(float(x), y) for x, y in enumerate(values) if math.isfinite(y)]
    if len(finite) < 2:
        return ""
    means = _column_means(finite, min(width, len(finite)))
    low, high = _bounds(means)
    return "".join(chr(_LOWEST_BLOCK + round((mean - low) / (high - low) * 7)) for mean in means)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest, apart even if all are equal."""
    low, high = min(values), max(values)
    room = 0.0 if high > low else abs(high) * 0.1 or 1.0
    return low - room, high + room


def _column_means(points: Sequence[tuple[float, float]], num_columns: int) -> list[float]:
    """Mean height of the points in each column; straight lines over the gaps."""
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    sums, counts = [0.0] * num_columns, [0] * num_columns
    for x, y in points:
        column = round((x - first) / (last - first) * (num_columns - 1)) if last > first else 0
        sums[column] += y
        counts[column] += 1
    filled = [column for column in range(num_columns) if counts[column]]
    means = [sums[column] / counts[column] if counts[column] else 0.0 for column in range(num_columns)]
    for left, right in pairwise(filled):
        for column in range(left + 1, right):
            share = (column - left) / (right - left)
            means[column] = means[left] * (1 - share) + means[right] * share
    return means[: filled[-1] + 1]


def _draw(rows: Sequence[int], plot_rows: int) -> list[str]:
    """One dot row for each dot column, joined by vertical strokes, as lines of braille."""
    cells = [[_BRAILLE_BLANK] * ((len(rows) + 1) // 2) for _ in range(plot_rows)]
    previous = rows[0]
    for column, row in enumerate(rows):
        start = row if previous == row else previous + (1 if row > previous else -1)
        for dot in range(min(start, row), max(start, row) + 1):
            cells[dot // 4][column // 2] |= _DOTS[dot % 4][column % 2]
        previous = row
    return ["".join(map(chr, line)) for line in cells]


def _x_labels(points: Sequence[tuple[float, float]], width: int) -> str:
    first, last = f"{points[0][0]:g}", f"{points[-1][0]:g}"
    return first + last.rjust(width - len(first))
