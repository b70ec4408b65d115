import ast
import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mai.errors import RecipeError
from mai.parallel.layout import Coordinates, Layout, num_micro_batches
from mai.recipe import ParallelConfig, override
from recipes.debug.tiny import tiny

LAYOUTS = [Layout(*degrees) for degrees in itertools.product((1, 2, 4), (1, 2, 3), (1, 2, 3))]
MEGATRON_ORDER = "tp-cp-ep-dp-pp"


def megatron_source() -> str:
    """The file as text: importing megatron.core takes seconds and torch, and a CPU needs mai/engine's adapter first."""
    spec = importlib.util.find_spec("megatron")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(*spec.submodule_search_locations, "core", "parallel_state.py").read_text()


@pytest.fixture(scope="module")
def rank_generator(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Megatron-Core's own arithmetic, cut out of its file."""
    wanted = {"generate_masked_orthogonal_rank_groups", "RankGenerator"}
    nodes = [node for node in ast.parse(megatron_source()).body if getattr(node, "name", None) in wanted]
    file = tmp_path_factory.mktemp("megatron") / "rank_generator.py"
    file.write_text("\n".join(["from typing import List", *(ast.unparse(node) for node in nodes)]))
    spec = importlib.util.spec_from_file_location("rank_generator", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    generator: Callable[..., Any] = module.RankGenerator
    return generator


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_groups_are_those_of_megatron_core_in_its_order(layout: Layout, rank_generator: Callable[..., Any]) -> None:
    theirs = rank_generator(
        tp=layout.tensor, ep=1, dp=layout.data, pp=layout.pipeline, cp=1, order=MEGATRON_ORDER
    )  # fmt: skip
    assert [list(group) for group in layout.tensor_groups] == theirs.get_ranks("tp")
    assert [list(group) for group in layout.data_groups] == theirs.get_ranks("dp")
    assert [list(group) for group in layout.pipeline_groups] == theirs.get_ranks("pp")
    assert [list(group) for group in layout.model_groups] == theirs.get_ranks("tp-pp")


def test_our_order_is_the_default_of_megatron_core() -> None:
    assert f'order: str = "{MEGATRON_ORDER}",' in megatron_source()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_coordinates_and_ranks_are_inverse(layout: Layout) -> None:
    places = [layout.coordinates(rank) for rank in range(layout.world_size)]
    assert len(set(places)) == layout.world_size
    for rank, place in enumerate(places):
        assert layout.rank_at(tensor=place.tensor, data=place.data, pipeline=place.pipeline) == rank


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_rank_is_in_one_group_of_each_sort(layout: Layout) -> None:
    for groups in (layout.tensor_groups, layout.data_groups, layout.pipeline_groups, layout.model_groups):
        assert sorted(rank for group in groups for rank in group) == list(range(layout.world_size))


def test_the_quick_start_layout_in_full() -> None:
    layout = Layout(tensor=2, pipeline=2, data=2)
    assert layout.tensor_groups == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert layout.data_groups == ((0, 2), (1, 3), (4, 6), (5, 7))
    assert layout.pipeline_groups == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert layout.model_groups == ((0, 1, 4, 5), (2, 3, 6, 7))
    assert layout.embedding_groups == layout.pipeline_groups
    assert layout.coordinates(6) == Coordinates(tensor=0, data=1, pipeline=1)


def test_the_embedding_lives_on_the_first_and_last_stage() -> None:
    assert Layout(tensor=1, pipeline=4, data=2).embedding_groups == ((0, 6), (1, 7))
    assert Layout(tensor=2, pipeline=1, data=1).embedding_groups == ((0,), (1,))


def test_data_takes_the_ranks_that_are_left() -> None:
    assert Layout.of(ParallelConfig(tensor=2, pipeline=2), 8) == Layout(tensor=2, pipeline=2, data=2)
    assert Layout.of(ParallelConfig(tensor=2, data=4), 8) == Layout(tensor=2, pipeline=1, data=4)


@pytest.mark.parametrize(("parallel", "ranks"), [(ParallelConfig(tensor=2), 3), (ParallelConfig(data=2), 4)])
def test_ranks_that_do_not_fit_are_refused(parallel: ParallelConfig, ranks: int) -> None:
    with pytest.raises(RecipeError, match=f"{ranks} ranks"):
        Layout.of(parallel, ranks)


def test_a_step_is_cut_into_micro_batches() -> None:
    recipe = override.apply(tiny(), ["parallel.micro_batch_sequences=2", "train.batch_tokens=1024"])
    assert num_micro_batches(recipe, Layout.of(recipe.parallel, 4)) == 1024 // 64 // 2 // 4
