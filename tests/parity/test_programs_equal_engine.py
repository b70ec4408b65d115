"""The planner's programs of a step are the calls that the running engine makes, rank by rank, in every layout."""

from collections import defaultdict
from collections.abc import Iterator

import pytest

from mai.parallel.layout import Layout
from mai.plan.communication.groups import Families, families
from mai.plan.communication.of_step import programs
from mai.plan.communication.operation import Operation
from mai.recipe import Recipe
from tests.parity.matrix import LAYOUTS, SHAPES, recipe_of
from tests.parity.recorded import Call, recorded
from tests.parity.trainer import name_of, num_ranks
from tests.ranks import on_ranks

ROUTED = -1
"""In place of how much is sent where a router decides."""

_MOST_RANKS = 8


def recipes(shape: str) -> dict[str, Recipe]:
    found = [recipe_of(shape, layout) for layout in LAYOUTS]
    return {name_of(recipe.parallel): recipe for recipe in found if num_ranks(recipe.parallel) <= _MOST_RANKS}


@pytest.fixture(scope="module", params=SHAPES)
def steps(request: pytest.FixtureRequest) -> dict[str, tuple[Recipe, list[list[Call]]]]:
    """Of every layout of a shape, the calls of each rank; all layouts of one size in one set of processes."""
    by_ranks: dict[int, dict[str, Recipe]] = defaultdict(dict)
    for name, recipe in recipes(request.param).items():
        by_ranks[num_ranks(recipe.parallel)][name] = recipe
    found = {}
    for ranks, some in by_ranks.items():
        answers = on_ranks(ranks, recorded, some)
        found |= {name: (recipe, [answer[name] for answer in answers]) for name, recipe in some.items()}
    return found


def test_every_rank_calls_what_its_program_says(steps: dict[str, tuple[Recipe, list[list[Call]]]]) -> None:
    for name, (recipe, calls_of_ranks) in steps.items():
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


def _unrouted(planned: list[Call], seen: list[Call]) -> Iterator[Call]:
    for ours, theirs in zip(planned, seen, strict=False):
        elements = ROUTED if ours.elements == ROUTED else theirs.elements
        in_order = theirs.kind in ("send", "receive")
        ranks = theirs.ranks if in_order else tuple(sorted(theirs.ranks))
        yield Call(theirs.kind, ranks, elements, theirs.dtype)
