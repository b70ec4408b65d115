"""What failures take from a run, as pictures: the parts of the time that is lost, and goodput against each lever."""

from collections.abc import Iterator

from mai.plan.goodput.goodput_values import Goodput
from mai.plan.goodput.levers import Lever
from mai.plan.quantities import amount, percent
from mai.plan.telling.drawing import Scale, bars, curve, dot, line, ring, svg, words
from mai.plan.telling.goodput_lines import PARTS, parts_of

_WIDTH, _HEIGHT = 460, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 28, 176
_ACROSS = {
    "restart": "seconds of a restart",
    "stall": "seconds that a save to storage stalls",
    "spares": "spare nodes",
    "size": "GPUs, with enough spares",
}
_LEAST_LOST = 1e-3
"""The least share of lost time that a picture's scale covers: a picture of nothing would have no scale."""


def lost_picture(found: Goodput) -> str:
    """A bar for each part of the lost time, the longest first."""
    parts = {PARTS[part]: share for part, share in parts_of(found.expected).items() if part != "useful" and share}
    return bars(parts, told=percent, style="time", title="What failures take of all time")


def lever_picture(lever: Lever) -> str:
    """Goodput from 100% downward, so that what is lost shows in its size; a ring where the plan stands."""
    points = lever.points
    lost = [1 - point.goodput for point in points]
    down = Scale(max(_LEAST_LOST, *lost) * 1.05, _TOP, _BOTTOM)
    across = Scale(max(point.at for point in points) * 1.05 or 1.0, _LEFT, _WIDTH - _RIGHT)
    places = [(across.at(point.at), down.at(1 - point.goodput)) for point in points]

    def shapes() -> Iterator[str]:
        for tick in down.ticks():
            yield line(across.start, down.at(tick), across.end, down.at(tick), style="grid")
            yield words(across.start - 8, down.at(tick) + 4, f"{100 * (1 - tick):g}%", anchor="end")
        for tick in across.ticks():
            yield words(across.at(tick), _BOTTOM + 18, f"{tick:,g}", anchor="middle")
        yield words(across.end, _HEIGHT - 8, _ACROSS[lever.name], anchor="end")
        yield words(8, 12, "goodput")
        yield curve(places, style="line0")
        for point, (x, y) in zip(points, places, strict=True):
            told = f"{percent(point.goodput)} at {amount(point.at, lever.unit)}"
            yield dot(x, y, style="line0", title=told)
            if point.at == lever.at:
                yield ring(x, y, style="plan", title=f"this plan: {told}")

    return svg(_WIDTH, _HEIGHT, shapes(), title=f"Goodput against {_ACROSS[lever.name]}")


MOVE_HEADS = "what would help", "goodput", "points", "the run costs less by"


def moves(found: Goodput) -> Iterator[tuple[str, str, str, str]]:
    """One move of each lever, the one that buys most first; below 0 it costs more."""
    currency = found.money.currency or ""
    for lever in found.levers:
        if move := lever.move:
            points = f"{move.points:.2f}"
            yield move.what, percent(move.goodput), points, amount(move.money, currency)
