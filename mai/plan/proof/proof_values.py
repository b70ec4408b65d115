"""A proof as JSON values."""

from dataclasses import asdict
from typing import Any

from mai.parallel.layout import Layout
from mai.plan.proof.finding import Call, Finding
from mai.plan.proof.proof import Counts, Proof


def values(proof: Proof, layout: Layout) -> dict[str, Any]:
    """For JSON; `lines` tells them."""
    return {
        "ranks": proof.num_ranks,
        "programs": proof.num_programs,
        "kinds_of_ranks": proof.num_colours,
        "operations": _counts(proof.operations),
        "busiest_rank": {"rank": proof.busiest_rank, "operations": _counts(proof.operations_of_busiest)},
        "holds": proof.holds,
        "findings": [_finding(finding, layout) for finding in proof.findings],
    }


def _counts(counts: Counts) -> list[dict[str, Any]]:
    return [{"kind": kind, "group": group, "count": count} for (kind, group), count in sorted(counts.items())]


def _finding(finding: Finding, layout: Layout) -> dict[str, Any]:
    return {
        "fault": finding.fault,
        "group": finding.family,
        "ranks": list(finding.group),
        "groups": finding.groups,
        "further": finding.further,
        "calls": [_call(call, layout) for call in finding.calls],
    }


def _call(call: Call, layout: Layout) -> dict[str, Any]:
    at = asdict(layout.coordinates(call.rank))
    return {
        "rank": call.rank,
        "coordinates": {axis: place for axis, place in at.items() if axis in layout.degrees},
        "number": call.number,
        "operation": None if call.operation is None else asdict(call.operation),
    }
