"""Where ranks lie, as a picture: a bar for each leaf, rack or pod, cut where a pipeline stage ends."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from mai.plan.placement.rank_map import RankMap
from mai.plan.quantities import from_to
from mai.plan.telling.drawing import Scale, legend, rectangle, svg, words

_WIDTH, _LEFT, _TOP, _BAR, _GAP = 960, 100, 4, 16, 6
_IN_A_ROW, _MOST_BARS = 6, 240
_NUM_COLOURS = 4
"""Stages take them in turn: only those beside each other must differ."""
_LEAST_WIDTH = 16
"""That a stage's number has room in."""
_NAMES = {"leaf": "leaf", "scale_up": "rack", "pod": "pod"}


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stage, or all spare nodes; in nodes from the first, as a stage may begin inside of one."""

    start: float
    stop: float
    stage: int | None
    told: str


def rank_picture(found: RankMap) -> str:
    """Draw the block `map` of a plan: a bar for each of the smallest parts above a node that are few enough to see."""
    pieces = list(_pieces(found))
    nodes = ceil(pieces[-1].stop)
    name, size = next(
        ((_NAMES[level.level], level.nodes) for level in found.levels if nodes <= _MOST_BARS * level.nodes),
        ("all nodes", nodes),
    )
    num_bars = -(-nodes // size)
    in_a_row = min(_IN_A_ROW, num_bars)
    column = (_WIDTH - _LEFT) / in_a_row
    scale = Scale(size, 0, column - _GAP)

    def shapes() -> Iterator[str]:
        for bar in range(num_bars):
            row, place = divmod(bar, in_a_row)
            x, y = _LEFT + place * column, _TOP + row * (_BAR + _GAP)
            if place == 0:
                last = min(bar + in_a_row, num_bars) - 1
                numbers = "" if num_bars == 1 else f" {from_to(bar, last)}"
                yield words(_LEFT - 8, y + _BAR - 4, f"{name}{numbers}", anchor="end")
            for piece in pieces:
                start, stop = max(piece.start, bar * size), min(piece.stop, (bar + 1) * size)
                if start < stop:
                    yield from _drawn(piece, x + scale.at(start - bar * size), scale.at(stop - start), y)

    names = [("stage0", "a pipeline stage, by its number"), ("bubble", "spare nodes")]
    height = _TOP + -(-num_bars // in_a_row) * (_BAR + _GAP)
    picture = svg(_WIDTH, height, shapes(), title="Pipeline stages on nodes")
    return legend(names if found.spares else names[:1]) + picture


def _pieces(found: RankMap) -> Iterator[_Piece]:
    for one in found.stages:
        ranks, nodes = from_to(one.first_rank, one.last_rank), from_to(one.nodes.first_node, one.nodes.last_node)
        start, stop = one.first_rank / found.gpus_per_node, (one.last_rank + 1) / found.gpus_per_node
        yield _Piece(start, stop, one.stage, f"stage {one.stage}: ranks {ranks}, nodes {nodes}")
    if (spares := found.spares) is not None:
        first, last = spares.first_node, spares.last_node
        yield _Piece(first, last + 1, None, f"spare: nodes {from_to(first, last)}")


def _drawn(piece: _Piece, x: float, width: float, y: float) -> Iterator[str]:
    style = "bubble" if piece.stage is None else f"stage{piece.stage % _NUM_COLOURS}"
    yield rectangle(x, y, width, _BAR, style=style, title=piece.told)
    if piece.stage is not None and width >= _LEAST_WIDTH:
        yield words(x + width / 2, y + _BAR - 4, str(piece.stage), anchor="middle")
