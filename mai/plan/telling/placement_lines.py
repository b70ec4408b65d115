"""The blocks `map` and `traffic` as lines for a terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mai.plan.placement.topology import PLACES
from mai.plan.quantities import amount, disk_size, from_to, percent
from mai.plan.telling.typesetting import columns, wrapped

# Types alone: a plan without these blocks answers before they would be loaded.
if TYPE_CHECKING:
    from mai.plan.placement.map_and_traffic import Traffic
    from mai.plan.placement.rank_map import Nodes, RankMap

_HEADS = {"scale_up": "NVLink domains", "leaf": "leaves", "pod": "pods"}
_LEAST_SHARE = 1e-3
"""A family with more of the bytes that leave some level has a row; the others (counts, norms, flags) stand together."""


def map_lines(found: "RankMap") -> Iterator[str]:
    """A row a pipeline stage, and one of the spare nodes."""

    def row(head: str, ranks: str, where: "Nodes") -> tuple[str, ...]:
        parts = (from_to(part.first, part.last) for part in where.parts)
        return head, ranks, from_to(where.first_node, where.last_node), *parts

    yield from columns(
        ("where ranks lie", "ranks", "nodes", *(_HEADS[level.level] for level in found.levels)),
        *(row(f"stage {one.stage}", from_to(one.first_rank, one.last_rank), one.nodes) for one in found.stages),
        *([] if found.spares is None else [row("spares", "", found.spares)]),
    )


def traffic_lines(found: "Traffic") -> Iterator[str]:
    """A column a level, a row a family."""
    yield from columns(*traffic_rows(found))
    for note in notes(found):
        yield from wrapped(note, indent="  ")


def traffic_rows(found: "Traffic") -> Iterator[tuple[str, ...]]:
    """With their heads."""
    levels, names = found.levels, _shown_families(found)
    families = [{each.family: each.num_bytes for each in level.families} for level in levels]
    others = [sum(num_bytes for name, num_bytes in each.items() if name not in names) for each in families]
    busiest = [level.busiest for level in levels]
    yield "sent in a step, out of", *(PLACES[level.level.name] for level in levels)
    yield from ((name.replace("_", " "), *(_size(each[name]) for each in families)) for name in names)
    if any(others):
        yield "others", *map(_size, others)
    yield "all", *(_size(level.num_bytes) for level in levels)
    yield "of all that is sent", *(percent(level.share) for level in levels)
    yield "the busiest", *(_size(each.num_bytes) for each in busiest)
    yield "over the whole step", *(amount(each.gb_per_second, "GB/s") for each in busiest)
    yield "of its links", *(_of_links(each.capacity_share) for each in busiest)


def _shown_families(found: "Traffic") -> list[str]:
    """Those that are more than a trace at some level, the largest first."""
    sent = {each.family: each.num_bytes for each in found.levels[0].families}
    seen = {
        each.family
        for level in found.levels
        for each in level.families
        if each.num_bytes > _LEAST_SHARE * level.num_bytes
    }
    return sorted(seen, key=lambda name: -sent[name])


def notes(found: "Traffic") -> Iterator[str]:
    """What the numbers take for granted."""
    yield "links: one way, less what switches hold back, if the bytes were spread evenly over the step"
    if found.even_router:
        yield "experts: a router that spreads tokens evenly, which no router does"
    if found.unstated:
        yield f"not told: the cluster states no {', no '.join(found.unstated)}"


def _of_links(share: float | None) -> str:
    """Nothing, where it sends over two networks."""
    return "" if share is None else percent(share)


def _size(num_bytes: int) -> str:
    return disk_size(num_bytes) if num_bytes else "0"
