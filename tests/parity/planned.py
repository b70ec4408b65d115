"""What the planner says each rank calls, as it is recorded of the running engine (recorded.py)."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from mai.parallel.layout import Layout
from mai.plan.communication.of_step import programs
from mai.plan.communication.operation import Operation
from mai.plan.communication.rank_families import Families, families
from mai.recipe import Recipe
from tests.parity.recorded import Call
from tests.parity.trainer import num_ranks

ROUTED = -1
"""In place of how much is sent where a router decides."""


def by_ranks(recipes: Mapping[str, Recipe]) -> dict[int, dict[str, Recipe]]:
    """All recipes of one size, which share their processes."""
    found: dict[int, dict[str, Recipe]] = defaultdict(dict)
    for name, recipe in recipes.items():
        found[num_ranks(recipe.parallel)][name] = recipe
    return found


def assert_programs_are(name: str, recipe: Recipe, calls_of_ranks: Sequence[Sequence[Call]]) -> None:
    """Call by call, on every rank; groups of one rank are left out."""
    layout = Layout.of(recipe.parallel, len(calls_of_ranks))
    of_stages, groups = programs(recipe, layout), families(layout)
    for rank, calls in enumerate(calls_of_ranks):
        program = of_stages[layout.coordinates(rank).pipeline]
        planned = [_call(groups, rank, operation) for together in program for operation in together]
        seen = [call for call in calls if len(call.ranks) > 1]
        pairs = zip(planned, _unrouted(planned, seen), strict=False)
        differs = next((number for number, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
        assert differs is None, f"{name}, rank {rank}, call {differs}: {planned[differs]}, not {seen[differs]}"
        assert len(planned) == len(seen), f"{name}, rank {rank}"


def _call(groups: Families, rank: int, operation: Operation) -> Call:
    ranks = groups[operation.group].group_of(rank)
    if operation.kind in ("send", "receive"):
        assert operation.peer is not None
        ends = (rank, ranks[operation.peer])
        ranks = ends if operation.kind == "send" else ends[::-1]
    elements = ROUTED if operation.depends_on_routing else operation.elements
    return Call(operation.kind, tuple(ranks), elements, operation.dtype)


def _unrouted(planned: Sequence[Call], seen: Sequence[Call]) -> Iterator[Call]:
    for ours, theirs in zip(planned, seen, strict=False):
        elements = ROUTED if ours.elements == ROUTED else theirs.elements
        in_order = theirs.kind in ("send", "receive")
        ranks = theirs.ranks if in_order else tuple(sorted(theirs.ranks))
        yield Call(theirs.kind, ranks, elements, theirs.dtype)
