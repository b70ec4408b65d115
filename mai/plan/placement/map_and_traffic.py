"""The blocks `map` and `traffic` of a plan: where ranks lie, and what of a step leaves each part, as JSON values."""

from collections.abc import Mapping, Sequence
from typing import Any

from mai.plan.communication.operation import Program, operations
from mai.plan.placement.rank_map import rank_map
from mai.plan.placement.topology import Level, levels, outward_gb_per_second
from mai.plan.placement.traffic import Leaving, leaving
from mai.plan.setting.setting import Setting

_GPU = Level("gpu", 1)
"""What leaves it is all that is sent."""


def answers(of_stages: Sequence[Program], setting: Setting, *, step_seconds: float, gpus_booked: int) -> dict[str, Any]:
    """Both blocks, of what mai itself sends: `of_stages` has the program of each stage's ranks in this setting."""
    layout, cluster = setting.layout, setting.cluster
    there = (_GPU, *levels(cluster))
    found = leaving(of_stages, layout, there)
    sent = sum(_sums(found[0]).values())
    return {
        "map": rank_map(layout, cluster, gpus_booked=gpus_booked),
        "traffic": {
            "even_router": any(each.depends_on_routing for program in of_stages for each in operations(program)),
            "unstated": [name for name in ("leaf", "pod") if getattr(cluster, name) is None],
            "levels": [
                {
                    "level": level.name,
                    "gpus": level.gpus,
                    **_of_level(_sums(left), sent),
                    "busiest": _busiest(left, outward_gb_per_second(cluster, level), step_seconds),
                }
                for level, left in zip(there, found, strict=True)
            ],
        },
    }


def _sums(left: Leaving) -> dict[str, int]:
    """By family, of all parts."""
    return {name: round(sum(parts)) for name, parts in left.items()}


def _of_level(sums: Mapping[str, int], sent: int) -> dict[str, Any]:
    leaves = sum(sums.values())
    return {
        "bytes": leaves,
        "share": leaves / sent if sent else 0.0,
        "families": [{"family": name, "bytes": num_bytes} for name, num_bytes in sums.items()],
    }


def _busiest(left: Leaving, capacity: float | None, step_seconds: float) -> dict[str, Any]:
    """The part that sends most; the first of several, which rounding must not tell apart."""
    of_parts = [round(sum(families)) for families in zip(*left.values(), strict=True)]
    most = max(of_parts, default=0)
    rate = most / step_seconds / 1e9
    return {
        "part": of_parts.index(most) if most else None,
        "bytes": most,
        "gb_per_second": rate,
        "capacity_gb_per_second": capacity,
        "capacity_share": None if capacity is None else rate / capacity,
    }
