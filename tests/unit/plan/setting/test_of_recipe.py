"""A budget of GPUs becomes data ranks: never more than it has, and only as many as share the batch."""

from dataclasses import replace
from pathlib import Path

import pytest

from mai.errors import PlanError, RecipeError
from mai.hardware.cluster import Cluster, load_cluster
from mai.plan.setting.of_recipe import setting_of, within
from mai.plan.software import load_software
from mai.recipe import ParallelConfig, Recipe
from recipes.pretrain.mai1_500b import mai1_500b
from tests.unit.recipe.samples import small

H100 = load_cluster("h100")


def cut(**axes: int) -> Recipe:
    """A step of 12 sequences, whose data ranks are open."""
    recipe = small()
    train, evaluate = replace(recipe.train, batch_tokens=12 * 64), replace(recipe.evaluate, sequences=24)
    return replace(recipe, train=train, evaluate=evaluate, parallel=ParallelConfig(**axes))


@pytest.mark.parametrize(
    ("axes", "gpus", "data"),
    [
        ({}, 1, 1),
        ({}, 3, 3),
        ({}, 8, 6),  # 7 and 8 do not divide 12 sequences
        ({"micro_batch_sequences": 4}, 8, 3),
        ({"tensor": 2}, 8, 4),
        ({"tensor": 2, "pipeline": 2}, 24, 6),
        ({"tensor": 2, "pipeline": 4}, 96, 3),  # 4 copies have 3 micro-batches each, too few for 4 stages
    ],
)
def test_open_data_ranks_fill_the_budget_as_far_as_the_batch_allows(axes: dict[str, int], gpus: int, data: int) -> None:
    assert within(cut(**axes), H100, gpus).parallel.data == data


def test_a_budget_beyond_all_sense_takes_no_longer() -> None:
    assert within(cut(), H100, 10**15).parallel.data == 12


def test_data_ranks_that_the_recipe_names_stay() -> None:
    recipe = mai1_500b()
    assert within(recipe, H100, 15_000) == recipe
    assert within(recipe, H100, None) == recipe


def test_a_layout_that_needs_more_than_the_budget_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"14000 ranks: .*data=36 needs 14976 at least"):
        within(mai1_500b(), H100, 14_000)
    with pytest.raises(RecipeError, match=r"4 ranks: .*pipeline=4 needs 8 at least; lower a degree"):
        within(cut(tensor=2, pipeline=4), H100, 4)


def test_a_batch_that_no_number_of_ranks_shares_is_refused_with_the_reason() -> None:
    with pytest.raises(RecipeError, match="a step has 12 sequences"):
        within(cut(micro_batch_sequences=5), H100, 8)


def ours(tmp_path: Path, words: str) -> Cluster:
    file = tmp_path / "ours.toml"
    links = "[scale_up]\ngpus = 8\ngb_per_second = 450\n[scale_out]\ngb_per_second = 50\n"
    file.write_text(f'gpu = "h100"\ngpus_per_node = 8\n{words}\n{links}')
    return load_cluster(file)


def test_without_a_budget_the_clusters_own_nodes_are_it(tmp_path: Path) -> None:
    cluster = ours(tmp_path, "nodes = 3\nspare_nodes = 1")
    assert within(cut(tensor=2), cluster, None).parallel.data == 6
    with pytest.raises(PlanError, match="h100 does not say how many nodes it has"):
        within(cut(tensor=2), H100, None)


def test_spare_nodes_of_a_budget_hold_no_ranks(tmp_path: Path) -> None:
    cluster = ours(tmp_path, "nodes = 3\nspare_nodes = 1")
    assert within(cut(tensor=2), cluster, 16).parallel.data == 4
    with pytest.raises(PlanError, match="32 GPUs: too many"):
        within(cut(tensor=2), cluster, 32)


def test_a_setting_holds_what_the_recipe_says() -> None:
    setting = setting_of(mai1_500b(), H100, load_software("mai"), imbalance=1.5)
    assert setting.layout.world_size == 14_976
    assert (setting.num_micro_batches, setting.sequence_length, setting.precision) == (52, 8192, "bf16")
    assert setting.tokens == mai1_500b().train.batch_tokens
    assert setting.imbalance == 1.5
