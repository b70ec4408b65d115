"""A proof as lines for a terminal."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mai.plan.quantities import counted
from mai.plan.telling.typesetting import columns, wrapped

# Types alone: a plan without these blocks answers before they would be loaded.
if TYPE_CHECKING:
    from mai.plan.proof.of_schedule import CountedCalls, PlacedCall, PlacedFinding, ScheduleProof

_FAULTS = {
    "kind": "calls of different kinds meet",
    "size": "calls of different sizes meet",
    "dtype": "calls of different types meet",
    "root": "broadcasts from different ranks meet",
    "name": "calls for different tensors meet",
    "order": "the same calls come in another order",
    "missing": "a call is missing",
    "extra": "nobody answers a call",
    "peer": "a call goes to the wrong rank",
    "group": "a call goes to the wrong group",
    "deadlock": "ranks wait for each other in a circle",
}

_MOST_CALLS = 12
"""How many calls of a circle are shown at most; JSON has all."""


def lines(found: "ScheduleProof") -> Iterator[str]:
    """How much was looked at, then the verdict."""
    busiest = found.busiest_rank
    of_busiest = {(one.kind, one.family): one.count for one in busiest.operations}
    yield (
        f"schedule     {counted(found.num_ranks, 'rank')}, {counted(found.num_programs, 'program')}, "
        f"{counted(found.kinds_of_ranks, 'kind')} of ranks"
    )
    yield from columns(
        ("calls of a step", "all ranks", f"rank {busiest.rank}"),
        *(
            (_named(one.kind, one.family), f"{one.count:,}", f"{of_busiest.get((one.kind, one.family), 0):,}")
            for one in found.operations
        ),
        ("all", f"{_total(found.operations):,}", f"{_total(busiest.operations):,}"),
    )
    if found.holds:
        yield from wrapped(
            "proved: every rank reaches the end of its step, and calls that meet are of one kind, size, type and tensor"
        )
        return
    yield f"NOT proved: {counted(len(found.findings), 'fault')}"
    for finding in found.findings:
        yield from _told(finding)


def _total(counts: "Sequence[CountedCalls]") -> int:
    return sum(one.count for one in counts)


def _named(kind: str, family: str) -> str:
    return f"{kind.replace('_', '-')}, {family.replace('_', ' ')}"


def _told(finding: "PlacedFinding") -> Iterator[str]:
    """The fault, and a line for each rank that has to do with it."""
    calls, fault = finding.calls, _FAULTS[finding.fault]
    if finding.fault == "deadlock":
        yield f"  {fault}:"
        yield from _circle(calls)
        return
    yield from wrapped(f"{fault}: {_where(finding)}", indent="  ")
    # Who lacks the call shows what comes instead.
    lacking = {"missing": calls[:1], "extra": calls[1:]}.get(finding.fault, [])
    for call in calls:
        instead = "goes on with " if call in lacking and call.operation else ""
        yield from wrapped(f"{_who(call)}: {instead}{_does(call)}", indent="    ")
    if finding.further:
        yield f"    {counted(finding.further, 'further difference')} of this rank, of the same cause or behind it"


def _circle(calls: "Sequence[PlacedCall]") -> Iterator[str]:
    for call, after in zip(calls[:_MOST_CALLS], [*calls[1:], calls[0]], strict=False):
        yield from wrapped(f"{_who(call)} waits for rank {after.rank} in {_does(call)}", indent="    ")
    if len(calls) > _MOST_CALLS:
        yield f"    and so on, {len(calls)} ranks in all"


def _where(finding: "PlacedFinding") -> str:
    family, ranks = finding.family.replace("_", " "), finding.ranks
    if not ranks:
        return f"the rank is in no {family} group"
    some = ", ".join(map(str, ranks)) if len(ranks) <= 8 else f"{ranks[0]}, {ranks[1]} ... {ranks[-1]}"
    alike = finding.groups - 1
    others = f", and alike in {counted(alike, 'other group')}" if alike else ""
    return f"{family} group of ranks {some}{others}"


def _who(call: "PlacedCall") -> str:
    at = ", ".join(f"{axis.replace('_', ' ')} {place}" for axis, place in call.coordinates.items())
    return f"rank {call.rank}" + (f" ({at})" if at else "")


def _does(call: "PlacedCall") -> str:
    operation = call.operation
    if operation is None:
        return "nothing more there in this step"
    peer = "" if operation.peer is None else f", place {operation.peer}"
    size = f"{operation.elements:,} x {operation.dtype}"
    what = f": {operation.what}" if operation.what else ""
    return f"call {call.number:,}, {_named(operation.kind, operation.group)}{peer}, {size}{what}"
