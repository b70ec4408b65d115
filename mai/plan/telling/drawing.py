"""Pictures as SVG text, inside a page: shapes take their colours from the page's style sheet."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10


def svg(width: float, height: float, shapes: Iterable[str], *, title: str) -> str:
    """A picture that is as wide as its page allows; `title` is what is read out in its place."""
    box = f'viewBox="0 0 {width:g} {height:g}"'
    inner = "\n".join(shapes)
    return f'<svg {box} role="img" aria-label="{escape(title)}" style="max-width:{width:g}px">\n{inner}\n</svg>'


def rectangle(x: float, y: float, width: float, height: float, *, style: str, title: str = "") -> str:
    told = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect class="{style}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}">{told}</rect>'


def line(x1: float, y1: float, x2: float, y2: float, *, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}"/>'


def curve(points: Iterable[tuple[float, float]], *, style: str) -> str:
    corners = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
    return f'<polyline class="{style}" points="{corners}"/>'


def dot(x: float, y: float, *, style: str, title: str) -> str:
    return f'<circle class="{style}" cx="{x:.2f}" cy="{y:.2f}" r="3.5"><title>{escape(title)}</title></circle>'


def ring(x: float, y: float, *, style: str, title: str) -> str:
    """Around a dot that stands out."""
    return f'<circle class="{style}" cx="{x:.2f}" cy="{y:.2f}" r="7"><title>{escape(title)}</title></circle>'


def words(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{escape(text)}</text>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Style and name of each, as a list above a picture."""
    items = "".join(f'<li><i class="{style}"></i>{escape(name)}</li>' for style, name in entries)
    return f'<ul class="legend">{items}</ul>'


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers from 0 to `most` as places from `start` to `end`."""

    most: float
    start: float
    end: float

    def at(self, number: float) -> float:
        return self.start + (self.end - self.start) * number / self.most

    def ticks(self) -> list[float]:
        """About five round numbers from 0 on."""
        rough = self.most / 5
        size = 10 ** floor(log10(rough))
        step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= rough)
        return [step * number for number in range(int(self.most / step + 1e-9) + 1)]


_BAR, _GAP, _TOP = 16, 6, 16
_BARS_WIDTH, _NAMES_WIDTH, _TOLD_WIDTH = 960, 140, 160


def bars(sizes: Mapping[str, float], *, told: Callable[[float], str], style: str, title: str) -> str:
    """A bar for each name, the longest first, with its size in words behind it."""
    ordered = sorted(((size, name) for name, size in sizes.items()), reverse=True)
    scale = Scale(ordered[0][0], _NAMES_WIDTH, _BARS_WIDTH - _TOLD_WIDTH)

    def shapes() -> Iterator[str]:
        for number, (size, name) in enumerate(ordered):
            y = _TOP + number * (_BAR + _GAP)
            yield words(_NAMES_WIDTH - 8, y + _BAR - 4, name, anchor="end")
            yield rectangle(scale.start, y, scale.at(size) - scale.start, _BAR, style=style)
            yield words(scale.at(size) + 6, y + _BAR - 4, told(size))

    return svg(_BARS_WIDTH, _TOP + len(ordered) * (_BAR + _GAP), shapes(), title=title)
