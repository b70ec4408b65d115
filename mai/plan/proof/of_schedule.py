"""The proof of a schedule in a layout, where the ranks of a stage call alike, and what is published of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from mai.parallel.layout import Group, Layout
from mai.plan.communication.operation import Operation, Program
from mai.plan.communication.rank_families import families
from mai.plan.proof.finding import Call, Fault, Finding
from mai.plan.proof.proof import Counts, Proof, prove
from mai.plan.published import key


def prove_schedule(of_stages: Sequence[Program], layout: Layout) -> Proof:
    """Prove one step of every rank; `of_stages` has the program of each stage's ranks.

    Example:
        prove_schedule(programs(recipe, layout), layout).holds
    """
    return prove(families(layout), lambda rank: of_stages[layout.coordinates(rank).pipeline])


@dataclass(frozen=True, slots=True)
class CountedCalls:
    kind: str
    family: str = field(metadata=key("group"))
    count: int


@dataclass(frozen=True, slots=True)
class BusiestRank:
    rank: int
    operations: list[CountedCalls]


@dataclass(frozen=True, slots=True)
class PlacedCall:
    """A call, with the place of its rank on the axes of the layout."""

    rank: int
    coordinates: Mapping[str, int]
    number: int | None
    operation: Operation | None


@dataclass(frozen=True, slots=True)
class PlacedFinding:
    fault: Fault
    family: str = field(metadata=key("group"))
    ranks: Group
    """All ranks of the group that should call together; none where the rank that calls is in no such group."""
    groups: int
    further: int
    calls: list[PlacedCall]


@dataclass(frozen=True, slots=True)
class ScheduleProof:
    """The block `schedule` of a plan."""

    num_ranks: int = field(metadata=key("ranks"))
    num_programs: int = field(metadata=key("programs"))
    kinds_of_ranks: int
    operations: list[CountedCalls]
    busiest_rank: BusiestRank
    holds: bool
    findings: list[PlacedFinding]


def placed(proof: Proof, layout: Layout) -> ScheduleProof:
    """A proof with its ranks' places in the layout."""
    return ScheduleProof(
        num_ranks=proof.num_ranks,
        num_programs=proof.num_programs,
        kinds_of_ranks=proof.num_colours,
        operations=_counts(proof.operations),
        busiest_rank=BusiestRank(proof.busiest_rank, _counts(proof.operations_of_busiest)),
        holds=proof.holds,
        findings=[_finding(finding, layout) for finding in proof.findings],
    )


def _counts(counts: Counts) -> list[CountedCalls]:
    return [CountedCalls(kind, family, count) for (kind, family), count in sorted(counts.items())]


def _finding(finding: Finding, layout: Layout) -> PlacedFinding:
    return PlacedFinding(
        fault=finding.fault,
        family=finding.family,
        ranks=finding.group,
        groups=finding.groups,
        further=finding.further,
        calls=[_call(call, layout) for call in finding.calls],
    )


def _call(call: Call, layout: Layout) -> PlacedCall:
    at = asdict(layout.coordinates(call.rank))
    coordinates = {axis: place for axis, place in at.items() if axis in layout.degrees}
    return PlacedCall(call.rank, coordinates, call.number, call.operation)
