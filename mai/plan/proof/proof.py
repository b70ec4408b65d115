"""The proof that the calls of all ranks match: with programs in hand, before anything is launched.

Claim. Every rank runs its program. A call ends when all ranks of its group have made theirs, a send when the other has
made its receive; calls of one `Together` are posted at once. Then every rank reaches its end, and calls that meet are
of one kind, size, type and tensor.

One run is enough. A rank that waits waits for named ranks, and chooses among none of them; what another rank does can
end its wait and never begin it anew. So two moves that are possible at once can be made in either order and lead to
the same state (they commute), and by induction all runs end in one and the same state: if one completes, all do.

One rank of each colour is enough. Colour the ranks so that ranks of one colour run one program and see the same colours
in their groups (`symmetry.py`), and let all ranks whose calls have met move on at the same moment, again and again.
Before each moment ranks of one colour stand at the same place of their program, by induction: a call has met when
every rank of the group has come to it; how far they have come is a matter of their colours; and which colours there
are is the same for all ranks of the caller's. So all of the colour move on, or none does. How many ranks of each colour
a group has plays no part. A send meets the receive of one place of the group. In such families ranks of one colour
stand at one place; so the colours in a group tell which is where, senders of one colour see one colour at that place,
and the same pair of lanes meets for all of them.
That is the run of one rank of each colour, and it ends where the run of all ranks ends.

Calls meet by their place in a sequence: the n-th of each rank on the group. So whether they match is told before the
run, by comparing sequences (`matching.py`); the run tells whether a wait is in vain. Where calls do not match, no
deadlock is looked for: most would follow from the mismatch.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mai.plan.communication.operation import Operation, Program
from mai.plan.communication.rank_families import Families
from mai.plan.proof.execution import deadlock
from mai.plan.proof.finding import Finding
from mai.plan.proof.matching import mismatches
from mai.plan.proof.programs import Programs
from mai.plan.proof.symmetry import colours

Counts = Mapping[tuple[str, str], int]
"""Operations by kind and family."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was looked at, and what stands against it."""

    num_ranks: int
    num_programs: int
    num_colours: int
    """Kinds of ranks that go through the step alike."""
    operations: Counts
    """Those of all ranks together."""
    busiest_rank: int
    """The first of those with the most operations."""
    operations_of_busiest: Counts
    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        return not self.findings


def prove(families: Families, program_of: Callable[[int], Program]) -> Proof:
    """Prove the step of all ranks of the family `world`; a rank whose program is the same object as another's costs
    nothing more."""
    (world,) = families["world"].groups
    programs = Programs.of(len(world), program_of)
    coloured = colours(families, programs)
    findings = mismatches(families, programs)
    if not findings:
        stuck = deadlock(families, programs, coloured)
        findings = () if stuck is None else (stuck,)
    counts = [_counted(found) for found in programs.operations]
    in_all: Counter[tuple[str, str]] = Counter()
    for number, ranks in programs.num_ranks_with.items():
        in_all.update({key: count * ranks for key, count in counts[number].items()})
    busiest = max(range(len(counts)), key=lambda number: counts[number].total())
    return Proof(
        num_ranks=len(world),
        num_programs=len(counts),
        num_colours=max(coloured) + 1,
        operations=in_all,
        busiest_rank=programs.number_of.index(busiest),
        operations_of_busiest=counts[busiest],
        findings=findings,
    )


def _counted(operations: Iterable[Operation]) -> Counter[tuple[str, str]]:
    return Counter((one.kind, one.group) for one in operations)
