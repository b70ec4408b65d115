"""The proof of a schedule in a layout, where the ranks of a stage call alike."""

from collections.abc import Sequence

from mai.parallel.layout import Layout
from mai.plan.communication.operation import Program
from mai.plan.communication.rank_families import families
from mai.plan.proof.proof import Proof, prove


def prove_schedule(of_stages: Sequence[Program], layout: Layout) -> Proof:
    """Of one step of every rank; `of_stages` has the program of each stage's ranks.

    Example:
        prove_schedule(programs(recipe, layout), layout).holds
    """
    return prove(families(layout), lambda rank: of_stages[layout.coordinates(rank).pipeline])
