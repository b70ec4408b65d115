"""The blocks `map` and `traffic` as lines for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mai.plan.placement.topology import PLACES
from mai.plan.report.quantities import amount, disk_size, percent
from mai.plan.report.terminal import columns, wrapped

_ABOVE_NODE = {"scale_up": "NVLink domains", "leaf": "leaves", "pod": "pods"}
_LEAST_SHARE = 1e-3
"""Of what leaves any level: families below it are counts, norms and flags, and stand together."""


def map_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A row a pipeline stage, and one of the spare nodes; JSON has each run."""
    runs, spares = found["runs"], found["spares"]
    above = {level: words for level, words in _ABOVE_NODE.items() if runs[0][level] is not None}

    def row(head: str, ranks: str, of: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        nodes = _from_to(of[0]["first_node"], of[-1]["last_node"])
        return head, ranks, nodes, *(_from_to(of[0][level], of[-1][level]) for level in above)

    rows = [("where ranks lie", "ranks", "nodes", *above.values())]
    for stage in range(runs[-1]["stage"] + 1):
        of_stage = [run for run in runs if run["stage"] == stage]
        ranks = _from_to(of_stage[0]["first_rank"], of_stage[-1]["last_rank"])
        rows.append(row(f"stage {stage}", ranks, of_stage))
    yield from columns(*rows, *([row("spares", "", spares)] if spares else []))


def traffic_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A column a level, a row a family."""
    levels = found["levels"]
    names = shown_families(found)
    families = [{each["family"]: each["bytes"] for each in level["families"]} for level in levels]
    others = [sum(num_bytes for name, num_bytes in each.items() if name not in names) for each in families]
    busiest = [level["busiest"] for level in levels]
    yield from columns(
        ("sent in a step, out of", *(PLACES[level["level"]] for level in levels)),
        *((name.replace("_", " "), *(_size(each[name]) for each in families)) for name in names),
        *([("others", *map(_size, others))] if any(others) else []),
        ("all", *(_size(level["bytes"]) for level in levels)),
        ("of all that is sent", *(percent(level["share"]) for level in levels)),
        ("the busiest", *(_size(each["bytes"]) for each in busiest)),
        ("over the whole step", *(amount(each["gb_per_second"], "GB/s") for each in busiest)),
        (
            "of its links",
            *("" if each["capacity_share"] is None else percent(each["capacity_share"]) for each in busiest),
        ),
    )
    for note in notes(found):
        yield from wrapped(note, indent="  ")


def shown_families(found: Mapping[str, Any]) -> list[str]:
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
        yield f"not told: {', '.join(PLACES[level] for level in found['unstated'])}; the cluster states none"


def _of_links(share: float | None) -> str:
    """Nothing, where it sends over two networks."""
    return "" if share is None else percent(share)


def _size(num_bytes: int) -> str:
    return disk_size(num_bytes) if num_bytes else "0"


def _from_to(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
