"""Sizes that a scheduler may give are those that mai trains on, each with its own time and memory."""

from dataclasses import replace

import pytest

from mai.errors import RecipeError
from mai.hardware.cluster import load_cluster
from mai.plan.memory.memory import memory
from mai.plan.scheduler.world_sizes import WorldSize, world_sizes
from mai.plan.setting.of_recipe import setting_of, within
from mai.plan.software import load_software
from mai.plan.time.step_time import step_time
from mai.recipe import Recipe, load, override, rules

H100, MAI = load_cluster("h100"), load_software("mai")


def sizes(recipe: Recipe, most_gpus: int) -> list[WorldSize]:
    filled = within(recipe, H100, most_gpus)
    return world_sizes(filled, setting_of(filled, H100, MAI), most_gpus=most_gpus)


@pytest.mark.parametrize(("name", "most"), [("llama3_8b", 128), ("gpt_oss_120b", 512), ("experts_every_axis", 64)])
def test_sizes_are_all_that_break_no_rule(name: str, most: int) -> None:
    recipe = within(load.find(name)(), H100, most)
    parallel = recipe.parallel
    expected = []
    for data in range(1, most // parallel.model_ranks + 1):
        # As many sequences to evaluate as any schedule shares out: evaluation must not decide.
        sequences = data * parallel.micro_batch_sequences * parallel.pipeline
        try:
            override.apply(recipe, [f"parallel.data={data}", f"evaluate.sequences={sequences}"])
        except RecipeError:
            continue
        expected.append(data * parallel.model_ranks)
    assert [size.gpus for size in sizes(recipe, most)] == expected


def test_words_of_a_size_make_a_recipe_that_starts_on_it() -> None:
    recipe = load.find("mai1_500b")()
    found = sizes(recipe, 15_000)
    for size in found:
        resized = override.apply(recipe, size.overrides)
        rules.check(resized, size.gpus)
        assert resized.train.batch_tokens == recipe.train.batch_tokens
        assert size.micro_batches * size.data == recipe.batch_sequences
    assert [size.gpus for size in found] == sorted({size.gpus for size in found})
    assert found[-1].gpus == 14_976
    assert found[-1].overrides == []


def test_experts_leave_out_sizes_that_they_do_not_divide() -> None:
    recipe = load.find("gpt_oss_120b")()
    parallel = recipe.parallel
    for size in sizes(recipe, 512):
        ranks = parallel.tensor * parallel.context * size.data
        assert ranks % (parallel.expert * parallel.expert_tensor) == 0
    assert min(size.data for size in sizes(recipe, 512)) > 1


def test_time_and_memory_are_those_of_a_plan_of_that_size() -> None:
    recipe = load.find("llama3_8b")()
    for size in sizes(recipe, 128):
        sized = override.apply(recipe, size.overrides)
        setting = setting_of(sized, H100, MAI)
        assert size.step_seconds == step_time(setting).seconds
        assert size.needed_bytes == memory(setting).largest.needed_bytes
        assert size.tokens_per_second * size.step_seconds == pytest.approx(recipe.train.batch_tokens)


def test_a_size_whose_optimizer_is_too_large_is_marked() -> None:
    # 70B parameters on 8 GPUs of 80 GB: 105 GB of fp32 weights and moments each; on more GPUs they are shared out.
    recipe = override.apply(load.find("llama3_70b")(), ["parallel.data=none", "parallel.recompute=layer"])
    recipe = replace(recipe, parallel=replace(recipe.parallel, pipeline=1, tensor=8, virtual_stages=1, stages="even"))
    found = sizes(recipe, 1024)
    assert found[0].fits is False
    needed = [size.needed_bytes for size in found]
    assert needed == sorted(needed, reverse=True)
