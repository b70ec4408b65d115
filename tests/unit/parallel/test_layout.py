import itertools
from collections.abc import Callable
from typing import Any

import pytest

from mai.errors import RecipeError
from mai.parallel.layout import Coordinates, Group, Layout, num_micro_batches
from mai.recipe import ParallelConfig, override
from recipes.debug.tiny import tiny
from tests.unit.parallel.upstream import source

MEGATRON_ORDER = "tp-cp-ep-dp-pp"

LAYOUTS = [
    Layout(tensor=tensor, context=context, data=data, pipeline=pipeline)
    for tensor, context, data, pipeline in itertools.product((1, 2, 4), (1, 2), (1, 2, 3), (1, 3))
]
WITH_EXPERTS = [
    Layout(tensor=tensor, context=context, data=data, pipeline=pipeline, expert=expert, expert_tensor=expert_tensor)
    for tensor, context, data, pipeline in itertools.product((1, 2, 4), (1, 2), (1, 2, 3), (1, 2))
    for expert, expert_tensor in ((1, 2), (2, 1), (2, 2), (3, 2), (4, 1))
    if tensor * context * data % (expert * expert_tensor) == 0
]


def lists(groups: tuple[Group, ...]) -> list[list[int]]:
    return [list(group) for group in groups]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_groups_are_those_of_megatron_core_in_its_order(layout: Layout, rank_generator: Callable[..., Any]) -> None:
    theirs = rank_generator(
        tp=layout.tensor, cp=layout.context, ep=1, dp=layout.data, pp=layout.pipeline, order=MEGATRON_ORDER
    )
    assert lists(layout.tensor_groups) == theirs.get_ranks("tp")
    assert lists(layout.context_groups) == theirs.get_ranks("cp")
    assert lists(layout.data_groups) == theirs.get_ranks("dp")
    assert lists(layout.data_with_context_groups) == theirs.get_ranks("dp-cp")
    assert lists(layout.pipeline_groups) == theirs.get_ranks("pp")
    assert lists(layout.model_groups) == theirs.get_ranks("tp-pp")


@pytest.mark.parametrize("layout", WITH_EXPERTS, ids=str)
def test_expert_groups_are_those_of_megatron_core_in_its_order(
    layout: Layout, rank_generator: Callable[..., Any]
) -> None:
    theirs = rank_generator(
        tp=layout.expert_tensor, cp=1, ep=layout.expert, dp=layout.expert_data, pp=layout.pipeline, order=MEGATRON_ORDER
    )
    assert lists(layout.expert_groups) == theirs.get_ranks("ep")
    assert lists(layout.expert_tensor_groups) == theirs.get_ranks("tp")
    assert lists(layout.expert_data_groups) == theirs.get_ranks("dp")
    assert lists(layout.pipeline_groups) == theirs.get_ranks("pp")


def test_our_order_is_the_default_of_megatron_core() -> None:
    assert f'order: str = "{MEGATRON_ORDER}",' in source("parallel_state.py")


@pytest.mark.parametrize("layout", LAYOUTS + WITH_EXPERTS, ids=str)
def test_a_rank_follows_from_its_dense_or_its_expert_coordinates(layout: Layout) -> None:
    for rank in range(layout.world_size):
        at = layout.coordinates(rank)
        assert layout.rank_at(tensor=at.tensor, context=at.context, data=at.data, pipeline=at.pipeline) == rank
        on_stage = at.expert_tensor + layout.expert_tensor * (at.expert + layout.expert * at.expert_data)
        assert on_stage + layout.stage_ranks * at.pipeline == rank


def test_the_quick_start_layout_in_full() -> None:
    layout = Layout(tensor=2, pipeline=2, data=2)
    assert layout.tensor_groups == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert layout.data_groups == layout.data_with_context_groups == ((0, 2), (1, 3), (4, 6), (5, 7))
    assert layout.context_groups == tuple((rank,) for rank in range(8))
    assert layout.pipeline_groups == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert layout.model_groups == ((0, 1, 4, 5), (2, 3, 6, 7))
    assert layout.embedding_groups == layout.pipeline_groups


def test_experts_cut_the_ranks_of_a_stage_anew() -> None:
    layout = Layout(tensor=2, context=2, pipeline=2, data=2, expert=4)
    assert layout.expert_groups == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15))
    assert layout.expert_data_groups[:2] == ((0, 4), (1, 5))
    assert layout.data_with_context_groups[:2] == ((0, 2, 4, 6), (1, 3, 5, 7))
    assert layout.coordinates(14) == Coordinates(
        tensor=0, context=1, data=1, pipeline=1, expert_tensor=0, expert=2, expert_data=1
    )


def test_the_embedding_lives_on_the_first_and_last_stage() -> None:
    assert Layout(tensor=1, pipeline=4, data=2).embedding_groups == ((0, 6), (1, 7))
    assert Layout(tensor=2, pipeline=1, data=1).embedding_groups == ((0,), (1,))


def test_data_takes_the_ranks_that_are_left() -> None:
    assert Layout.of(ParallelConfig(tensor=2, pipeline=2), 8) == Layout(tensor=2, pipeline=2, data=2)
    assert Layout.of(ParallelConfig(tensor=2, data=4), 8) == Layout(tensor=2, pipeline=1, data=4)
    assert Layout.of(ParallelConfig(tensor=2, context=2, expert=4, expert_tensor=2, virtual_stages=3), 16) == Layout(
        tensor=2, context=2, pipeline=1, data=4, expert=4, expert_tensor=2, virtual_stages=3
    )


def test_hybrid_sharding_keeps_copies_of_the_context_and_data_ranks() -> None:
    assert Layout.of(ParallelConfig(tensor=2, context=2, sharding_ranks=4), 16).sharding_copies == 2
    assert Layout.of(ParallelConfig(tensor=2, context=2, sharding_ranks=8), 16).sharding_copies == 1
    assert Layout.of(ParallelConfig(tensor=2, context=2), 16).sharding_copies == 1


@pytest.mark.parametrize(
    ("parallel", "ranks"),
    [
        (ParallelConfig(tensor=2), 3),
        (ParallelConfig(data=2), 4),
        (ParallelConfig(tensor=2, context=2), 6),
        (ParallelConfig(expert=4), 6),
        (ParallelConfig(tensor=2, expert=2, expert_tensor=2), 6),
    ],
)
def test_ranks_that_do_not_fit_are_refused(parallel: ParallelConfig, ranks: int) -> None:
    with pytest.raises(RecipeError, match=f"{ranks} ranks"):
        Layout.of(parallel, ranks)


def test_a_step_is_cut_into_micro_batches() -> None:
    recipe = override.apply(tiny(), ["parallel.micro_batch_sequences=2", "train.batch_tokens=1024"])
    assert num_micro_batches(recipe, Layout.of(recipe.parallel, 4)) == 1024 // 64 // 2 // 4
