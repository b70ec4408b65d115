"""The bytes of the recipes that ship are what the arithmetic of their sizes gives."""

from functools import cache

import pytest

from mai.hardware.cluster import load_cluster
from mai.plan.communication.of_step import programs
from mai.plan.placement.map_and_traffic import LevelTraffic, Traffic, map_and_traffic
from mai.plan.placement.rank_map import RankMap
from mai.plan.setting.of_recipe import setting_of, within
from mai.plan.software import load_software
from mai.recipe import Recipe, load

STEP_SECONDS = 10.0


@cache
def told(name: str, cluster_name: str = "h100", gpus: int = 15_000) -> tuple[Recipe, RankMap, Traffic]:
    cluster = load_cluster(cluster_name)
    recipe = within(load.find(name)(), cluster, gpus)
    setting = setting_of(recipe, cluster, load_software("mai"))
    of_stages = programs(recipe, setting.layout)
    return recipe, *map_and_traffic(of_stages, setting, step_seconds=STEP_SECONDS, gpus_booked=gpus)


def level(name: str, of: Traffic) -> LevelTraffic:
    (found,) = [each for each in of.levels if each.level.name == name]
    return found


def family_bytes(name: str, of: Traffic) -> dict[str, int]:
    return {each.family: each.num_bytes for each in level(name, of).families}


def test_hidden_states_cross_each_border_between_parts_of_the_model_forward_and_backward() -> None:
    recipe, _, found = told("mai1_500b")
    parallel = recipe.parallel
    borders = parallel.pipeline * parallel.virtual_stages - 1
    hidden_states = recipe.train.batch_tokens * recipe.model.hidden_size * 2
    # And how many tokens there were, four bytes from stage to stage of every pipeline.
    counts = (parallel.pipeline - 1) * parallel.data * parallel.context * parallel.tensor * 4
    for name in ("gpu", "node", "leaf"):  # a stage has more ranks than a leaf
        assert family_bytes(name, found)["pipeline"] == 2 * borders * hidden_states + counts


def test_tokens_go_to_their_experts_and_back_forward_and_backward() -> None:
    recipe, _, found = told("mai1_500b_moe")
    experts = recipe.model.experts
    picks = recipe.train.batch_tokens * experts.experts_per_token
    weights = 2 * picks * 4
    elsewhere = (recipe.parallel.expert - 1) / recipe.parallel.expert
    expected = recipe.model.num_layers * (4 * picks * recipe.model.hidden_size * 2 + weights) * elsewhere
    assert family_bytes("gpu", found)["expert"] == pytest.approx(expected)
    assert family_bytes("node", found)["expert"] == 0, "eight ranks in a row are a node"
    assert found.even_router


def test_the_busiest_node_stands_beside_its_links() -> None:
    _, ranks, found = told("mai1_500b")
    node, leaf = level("node", found), level("leaf", found)
    assert node.busiest.num_bytes * ranks.nodes > node.num_bytes, "more than the mean"
    assert node.busiest.gb_per_second == node.busiest.num_bytes / STEP_SECONDS / 1e9
    assert node.busiest.capacity_gb_per_second == 8 * 50
    assert leaf.busiest.capacity_gb_per_second == 32 * 8 * 50
    assert leaf.busiest.capacity_share == leaf.busiest.gb_per_second / 12_800
    assert found.unstated == ["pod"]
    assert not found.even_router, "no experts"


def test_one_rank_sends_nothing() -> None:
    cluster = load_cluster("h100")
    recipe = within(load.find("tiny")(), cluster, 1)
    setting = setting_of(recipe, cluster, load_software("mai"))
    assert setting.layout.world_size == 1
    _, traffic = map_and_traffic(programs(recipe, setting.layout), setting, step_seconds=1.0, gpus_booked=1)
    for found in traffic.levels:
        assert (found.num_bytes, found.share, found.busiest.part) == (0, 0.0, None)
