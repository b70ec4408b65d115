"""The blocks `map` and `traffic` as lines for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from mai.plan.placement.topology import PLACES
from mai.plan.quantities import amount, disk_size, from_to, percent
from mai.plan.telling.typesetting import columns, wrapped

_HEADS = {"scale_up": "NVLink domains", "leaf": "leaves", "pod": "pods"}
_LEAST_SHARE = 1e-3
"""Of what leaves any level: families below it are counts, norms and flags, and stand together."""


def map_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A row a pipeline stage, and one of the spare nodes."""

    def row(head: str, ranks: str, where: Mapping[str, Any]) -> tuple[str, ...]:
        parts = (from_to(part["first"], part["last"]) for part in where["parts"])
        return head, ranks, from_to(where["first_node"], where["last_node"]), *parts

    yield from columns(
        ("where ranks lie", "ranks", "nodes", *(_HEADS[level["level"]] for level in found["levels"])),
        *(row(f"stage {one['stage']}", from_to(one["first_rank"], one["last_rank"]), one) for one in found["stages"]),
        *([] if found["spares"] is None else [row("spares", "", found["spares"])]),
    )


def traffic_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A column a level, a row a family."""
    yield from columns(*traffic_rows(found))
    for note in notes(found):
        yield from wrapped(note, indent="  ")


def traffic_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """With their heads."""
    levels, names = found["levels"], _shown_families(found)
    families = [{each["family"]: each["bytes"] for each in level["families"]} for level in levels]
    others = [sum(num_bytes for name, num_bytes in each.items() if name not in names) for each in families]
    busiest = [level["busiest"] for level in levels]
    yield "sent in a step, out of", *(PLACES[level["level"]] for level in levels)
    yield from ((name.replace("_", " "), *(_size(each[name]) for each in families)) for name in names)
    if any(others):
        yield "others", *map(_size, others)
    yield "all", *(_size(level["bytes"]) for level in levels)
    yield "of all that is sent", *(percent(level["share"]) for level in levels)
    yield "the busiest", *(_size(each["bytes"]) for each in busiest)
    yield "over the whole step", *(amount(each["gb_per_second"], "GB/s") for each in busiest)
    yield "of its links", *(_of_links(each["capacity_share"]) for each in busiest)


def _shown_families(found: Mapping[str, Any]) -> list[str]:
    """Those that are more than a trace at some level, the largest first."""
    sent = {each["family"]: each["bytes"] for each in found["levels"][0]["families"]}
    seen = {
        each["family"]
        for level in found["levels"]
        for each in level["families"]
        if each["bytes"] > _LEAST_SHARE * level["bytes"]
    }
    return sorted(seen, key=lambda name: -sent[name])


def notes(found: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers take for granted."""
    yield "links: one way, less what switches hold back, if the bytes were spread evenly over the step"
    if found["even_router"]:
        yield "experts: a router that spreads tokens evenly, which no router does"
    if found["unstated"]:
        yield f"not told: the cluster states no {', no '.join(found['unstated'])}"


def _of_links(share: float | None) -> str:
    """Nothing, where it sends over two networks."""
    return "" if share is None else percent(share)


def _size(num_bytes: int) -> str:
    return disk_size(num_bytes) if num_bytes else "0"
