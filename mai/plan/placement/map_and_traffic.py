"""The blocks `map` and `traffic` of a plan: where ranks lie, and what of a step leaves each part of the cluster."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mai.plan.communication.operation import Program, operations
from mai.plan.placement.rank_map import RankMap, rank_map
from mai.plan.placement.topology import Level, levels, outward_gb_per_second
from mai.plan.placement.traffic import Leaving, leaving
from mai.plan.published import AMONG_THE_OTHERS, key
from mai.plan.setting.setting import Setting

_GPU = Level("gpu", 1)
"""What leaves it is all that is sent."""


@dataclass(frozen=True, slots=True)
class FamilyBytes:
    family: str
    num_bytes: int = field(metadata=key("bytes"))


@dataclass(frozen=True, kw_only=True, slots=True)
class BusiestPart:
    """The part of a level that sends most out of itself."""

    part: int | None
    """The first of several; None where nothing leaves any."""
    num_bytes: int = field(metadata=key("bytes"))
    gb_per_second: float
    """Over the whole step."""
    capacity_gb_per_second: float | None
    capacity_share: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelTraffic:
    level: Level = field(metadata=AMONG_THE_OTHERS)
    num_bytes: int = field(metadata=key("bytes"))
    share: float
    """The share of all sent bytes that leaves a part of this level."""
    families: list[FamilyBytes]
    busiest: BusiestPart


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """The block `traffic` of a plan."""

    even_router: bool
    """Whether it counts what a router sends that spreads tokens evenly."""
    unstated: list[str]
    """Levels that the cluster says nothing of."""
    levels: list[LevelTraffic]


def map_and_traffic(
    of_stages: Sequence[Program], setting: Setting, *, step_seconds: float, gpus_booked: int
) -> tuple[RankMap, Traffic]:
    """Both blocks, of what mai itself sends: `of_stages` has the program of each stage's ranks in this setting."""
    layout, cluster = setting.layout, setting.cluster
    there = (_GPU, *levels(cluster))
    found = leaving(of_stages, layout, there)
    sent = sum(_sums(found[0]).values())
    traffic = Traffic(
        even_router=any(each.depends_on_routing for program in of_stages for each in operations(program)),
        unstated=[name for name in ("leaf", "pod") if getattr(cluster, name) is None],
        levels=[
            _of_level(level, left, sent, _busiest(left, outward_gb_per_second(cluster, level), step_seconds))
            for level, left in zip(there, found, strict=True)
        ],
    )
    return rank_map(layout, cluster, gpus_booked=gpus_booked), traffic


def _sums(left: Leaving) -> Mapping[str, int]:
    """By family, of all parts."""
    return {name: round(sum(parts)) for name, parts in left.items()}


def _of_level(level: Level, left: Leaving, sent: int, busiest: BusiestPart) -> LevelTraffic:
    sums = _sums(left)
    leaves = sum(sums.values())
    return LevelTraffic(
        level=level,
        num_bytes=leaves,
        share=leaves / sent if sent else 0.0,
        families=[FamilyBytes(name, num_bytes) for name, num_bytes in sums.items()],
        busiest=busiest,
    )


def _busiest(left: Leaving, capacity: float | None, step_seconds: float) -> BusiestPart:
    """The part that sends most; the first of several, which rounding must not tell apart."""
    of_parts = [round(sum(families)) for families in zip(*left.values(), strict=True)]
    most = max(of_parts, default=0)
    rate = most / step_seconds / 1e9
    return BusiestPart(
        part=of_parts.index(most) if most else None,
        num_bytes=most,
        gb_per_second=rate,
        capacity_gb_per_second=capacity,
        capacity_share=None if capacity is None else rate / capacity,
    )
