"""Any layout gives the one-rank answer: three shapes of model, every pair of axes, 20 steps from the same weights on
the same tokens in fp32; relative difference of every loss and gradient norm at most 1e-5, and the first step's
gradients agree element by element, as a certificate wants it.

`make test` trains some layouts, in which every axis occurs; `make test-full` all of them.
"""

import itertools

import pytest

from mai.certify import tolerance
from mai.parallel.stages import all_virtual_stages
from mai.recipe import ParallelConfig, rules
from tests.parity.matrix import LAYOUTS, LEAST_AGREED_STEPS, SHAPES, TOLERANCE, Cell, Layout, cells, recipe_of
from tests.parity.trainer import name_of, num_ranks

EVERY_COMMIT = [layout for layout in LAYOUTS if layout.every_commit]
OTHERS = [layout for layout in LAYOUTS if not layout.every_commit]


def axes_of(parallel: ParallelConfig, num_layers: int) -> set[str]:
    """Which axes a layout uses."""
    sizes = {len(each.layers) for each in all_virtual_stages(num_layers, parallel)}
    used = {
        "tensor": parallel.tensor > 1,
        "sequence": parallel.sequence,
        "context": parallel.context > 1,
        "pipeline": parallel.pipeline > 1,
        "virtual stages": parallel.schedule.is_interleaved,
        "uneven stages": len(sizes) > 1,
        "data": (parallel.data or 1) > 1,
        "full sharding": parallel.sharding == "full",
        "hybrid sharding": parallel.sharding_ranks is not None,
        "recomputed layers": "layer" in parallel.recompute,
        "recomputed modules": bool(set(parallel.recompute) - {"layer"}),
        "expert": parallel.expert > 1,
        "expert tensor": parallel.expert_tensor > 1,
    }
    return {axis for axis, is_used in used.items() if is_used}


EXCLUSIVE = {frozenset({"recomputed layers", "recomputed modules"})}
"""A layer is all of its modules."""


def test_at_least_24_layouts_each_of_three_shapes() -> None:
    for shape, model in SHAPES.items():
        assert len({layout.parallel(model) for layout in LAYOUTS}) >= 24, shape


def test_every_recipe_of_the_matrix_keeps_the_rules() -> None:
    for shape, layout in itertools.product(SHAPES, LAYOUTS):
        recipe = recipe_of(shape, layout)
        assert rules.violations(recipe, num_ranks(recipe.parallel)) == [], (shape, name_of(recipe.parallel))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_pair_of_axes_occurs(shape: str) -> None:
    model = SHAPES[shape]
    used = [axes_of(layout.parallel(model), model.num_layers) for layout in LAYOUTS]
    assert len(set().union(*used)) == (13 if model.experts else 11)
    pairs = {frozenset(pair) for axes in used for pair in itertools.combinations(axes, 2)}
    wanted = {frozenset(pair) for pair in itertools.combinations(set().union(*used), 2)}
    assert sorted(sorted(pair) for pair in wanted - pairs - EXCLUSIVE) == []


def test_every_axis_occurs_in_what_each_commit_trains() -> None:
    model = SHAPES["experts"]
    used, every = (
        set().union(*(axes_of(layout.parallel(model), model.num_layers) for layout in layouts))
        for layouts in (EVERY_COMMIT, LAYOUTS)
    )
    assert used == every


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> dict[tuple[str, Layout], Cell]:
    """Every cell that this session asks for, trained at once: a start of processes serves many layouts."""
    layouts = LAYOUTS if request.config.getoption("--full") else EVERY_COMMIT
    return {(cell.shape, cell.layout): cell for cell in cells(SHAPES, layouts)}


def check(cell: Cell) -> None:
    assert cell.loss <= TOLERANCE
    assert cell.norm <= TOLERANCE
    assert cell.gradient <= tolerance.GRADIENT
    assert cell.agreed_steps >= LEAST_AGREED_STEPS, "a replay of one rank's routing would hide a router that is wrong"


def name(value: object) -> str:
    return name_of(value.parallel(SHAPES["experts"])) if isinstance(value, Layout) else str(value)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", EVERY_COMMIT, ids=name)
def test_a_layout_gives_the_one_rank_answer(shape: str, layout: Layout, found: dict[tuple[str, Layout], Cell]) -> None:
    check(found[shape, layout])


@pytest.mark.full
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", OTHERS, ids=name)
def test_the_other_layouts_do_too(shape: str, layout: Layout, found: dict[tuple[str, Layout], Cell]) -> None:
    check(found[shape, layout])
