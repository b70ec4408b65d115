"""What a search tells: why each layout loses, where the recipe stands, and words that make the best one."""

import json
from dataclasses import replace
from functools import cache

import pytest

from mai.errors import PlanError
from mai.hardware.cluster import load_cluster
from mai.plan.published import published
from mai.plan.report.ranking import RankedLayouts, ranked
from mai.plan.search.reasons import cause, differences
from mai.plan.search.search import Planned
from mai.plan.setting.of_recipe import setting_of
from mai.plan.software import load_software
from mai.plan.telling.ranking_lines import lines
from mai.recipe import ParallelConfig, load, override, rules

MAI = load_software("mai")


def planned(**parallel: object) -> Planned:
    """mai1_500b on H100s in another layout, with as many sequences a step as any of them shares out."""
    recipe = load.find("mai1_500b")()
    recipe = replace(recipe, train=replace(recipe.train, batch_tokens=2048 * 8192))
    layout = ParallelConfig(**{"tensor": 8, "sequence": True, "pipeline": 16, "data": 64, **parallel})  # type: ignore[arg-type]
    return Planned.of(setting_of(replace(recipe, parallel=layout), load_cluster("h100"), MAI))


@cache
def ranking(name: str, gpus: int) -> RankedLayouts:
    """Of a recipe on H100s; to read only."""
    return ranked(load.find(name)(), load_cluster("h100"), MAI, gpus=gpus)


AXES = {
    "tensor": ({"tensor": 4, "data": 128}, "tensor", "each matrix on 8 ranks instead of 4"),
    "context": ({"context": 2, "data": 32}, "context", "each sequence on 1 rank instead of 2"),
    "virtual_stages": ({"virtual_stages": 2}, "bubble", "1 virtual stage a stage instead of 2"),
    "recompute": ({"recompute": ("layer",)}, "recompute", "nothing recomputed instead of layer"),
    "micro_batch": ({"micro_batch_sequences": 2}, "products", "1 sequence at a time instead of 2"),
    "sharding_ranks": ({"sharding_ranks": 8}, "gradients", "states kept 1 time instead of 8"),
}


@pytest.mark.parametrize("axis", AXES)
def test_a_difference_names_the_axis_that_makes_it(axis: str) -> None:
    changed, item, words = AXES[axis]
    found = {one.item: one for one in differences(planned(), planned(**changed))}
    assert words in found[item].cause


def test_differences_add_up_to_that_of_the_steps() -> None:
    one, other = planned(), planned(tensor=4, data=128, recompute=("layer",))
    found = differences(one, other)
    assert sum(each.seconds for each in found) == pytest.approx(one.time.seconds - other.time.seconds)
    assert [abs(each.seconds) for each in found] == sorted((abs(each.seconds) for each in found), reverse=True)


def test_equal_layouts_differ_in_nothing() -> None:
    assert differences(planned(), planned()) == []
    assert cause("tensor", planned().setting, planned().setting) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gpus"), [("mai1_500b", 15_000), ("mai1_500b_moe", 15_000), ("mai1_500b", 8_192)])
def test_the_words_of_every_layout_are_ones_that_mai_takes(name: str, gpus: int) -> None:
    recipe = load.find(name)()
    found = ranking(name, gpus)
    assert len(found.best) == 10
    for told in found.best:
        changed = override.apply(recipe, told.overrides)
        assert changed.parallel.data is not None
        used = changed.parallel.model_ranks * changed.parallel.data
        rules.check(changed, used)
        assert used == told.gpus == gpus - told.spares <= gpus
        assert told.needed_bytes <= told.most_bytes
    json.dumps(published(found))


def test_lines_say_why_each_loses_and_how_to_type_the_best() -> None:
    words = ("context=1", "pipeline=16", "virtual_stages=2", "stages=even", "data=117")
    recipe = override.apply(load.find("mai1_500b")(), [f"parallel.{word}" for word in words])
    found = ranked(recipe, load_cluster("h100"), MAI, gpus=15_000, number=3)
    told = list(lines(found))
    assert sum(line.startswith(("2 behind 1: +", "3 behind 2: +")) for line in told) == 2
    assert told[-1].strip() == " ".join(found.best[0].overrides)
    assert all(seconds.seconds for one in found.best[1:] for seconds in one.loses)


def test_a_recipe_that_is_the_best_already_takes_the_first_place() -> None:
    recipe, best = load.find("mai1_500b")(), ranking("mai1_500b", 15_000).best[0]
    found = ranked(override.apply(recipe, best.overrides), load_cluster("h100"), MAI, gpus=15_000, number=2)
    assert found.own.place == 1
    assert found.best[0].overrides == []
    assert found.own.planned.step_seconds == found.best[0].step_seconds == best.step_seconds


def test_a_recipe_that_needs_more_gpus_than_there_are_is_searched_for_all_the_same() -> None:
    found = ranking("mai1_500b", 8_192)
    assert found.own is None
    assert any(line.startswith("the recipe's own layout does not share out its batch") for line in lines(found))


def test_nothing_fits_is_said_in_words() -> None:
    found = ranking("mai1_500b", 64)
    assert found.best == []
    assert any(line.startswith("no layout fits") for line in lines(found))


def test_a_gpu_whose_usable_memory_is_unknown_holds_no_more_than_it_has_and_that_is_said() -> None:
    found = ranked(load.find("llama3_8b")(), load_cluster("maia100"), MAI, gpus=64, number=2)
    assert all(told.needed_bytes <= 64 * 2**30 for told in found.best)
    assert any(line.startswith("how much of the 64 GiB that its GPU has a process gets") for line in lines(found))
    known = ranking("mai1_500b", 64)
    assert not any("a process gets is unknown" in line for line in lines(known))


def test_a_budget_must_be_stated() -> None:
    with pytest.raises(PlanError, match="add --gpus"):
        ranked(load.find("mai1_500b")(), load_cluster("h100"), MAI)


def test_the_table_shows_what_a_layout_is_made_of_and_leaves_out_what_says_nothing() -> None:
    found = ranking("llama3_8b", 16)
    table = [line.split() for line in list(lines(found))[2:14]]
    assert table[0][:2] == ["tensor", "context"]
    assert "expert" not in table[0]
    assert len(table) == 1 + len(found.best) + 1
    for row, planned in zip(table[1:], found.best, strict=False):
        assert f"{planned.tokens_per_second:,.0f}" in row
        assert ("full" in row) == (planned.sharding == "full")
        degrees = [str(degree) for degree in planned.layout.degrees.values() if degree > 1]
        assert set(degrees) <= set(row)
