"""The search finds what trying everything finds, within the budget and within memory."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from mai.errors import PlanError
from mai.hardware.cluster import load_cluster
from mai.plan.memory.memory import memory, rank_memory
from mai.plan.search.candidates import degrees, parallel_of, recomputations, shardings
from mai.plan.search.floor import Floor
from mai.plan.search.search import search
from mai.plan.setting.of_layout import trains, with_layout
from mai.plan.setting.of_recipe import setting_of
from mai.plan.setting.setting import Setting
from mai.plan.software import load_software
from mai.plan.time.step_time import step_time
from mai.recipe import MixtureOfExperts, ModelConfig, ParallelConfig, PrecisionConfig, Recipe
from recipes.debug.tiny import tiny

GPUS = 16
DENSE = ModelConfig(
    num_layers=6,
    hidden_size=8192,
    ffn_hidden_size=28_672,
    num_heads=64,
    num_kv_heads=8,
    head_size=128,
    vocab_size=32_000,
)
EXPERTS = replace(
    DENSE,
    hidden_size=4096,
    num_heads=32,
    feed_forward=MixtureOfExperts(num_experts=8, experts_per_token=2, ffn_hidden_size=4096, num_dense_layers=2),
)


def recipe_of(model: ModelConfig, *, sequences: int = 24) -> Recipe:
    base = tiny()
    return replace(
        base,
        model=model,
        precision=PrecisionConfig(compute="bf16"),
        data=replace(base.data, sequence_length=4096),
        train=replace(base.train, batch_tokens=sequences * 4096),
        evaluate=replace(base.evaluate, sequences=sequences),
        parallel=ParallelConfig(data=1),
    )


def setting_with(recipe: Recipe, *, gib: float, gb_per_second: float = 50.0) -> Setting:
    """On H100s with so much memory, and nodes joined by such links."""
    cluster = load_cluster("h100")
    gpu = replace(cluster.gpu, usable_memory_gib=gib)
    scale_out = replace(cluster.scale_out, gb_per_second=gb_per_second)
    return setting_of(recipe, replace(cluster, gpu=gpu, scale_out=scale_out), load_software("mai"))


def every_layout(recipe: Recipe) -> Iterator[ParallelConfig]:
    """What mai trains on at most 16 GPUs, tried one by one."""
    ranks = range(1, GPUS + 1)
    for tensor, context, pipeline, data in product((1, 2, 4, 8), (1, 2, 4), (1, 2, 3, 4, 6, 8), ranks):
        if not GPUS // 2 < tensor * context * pipeline * data <= GPUS:
            continue
        for virtual, expert, expert_tensor, micro in product((1, 2, 4), (1, 2, 4, 8), (1, 2), (1, 2, 4)):
            parts = pipeline * virtual
            if recipe.model.num_layers % parts and (recipe.model.num_layers + 2) % parts:
                continue
            if recipe.model.experts is None and expert * expert_tensor > 1:
                continue
            if tensor * context * data % (expert * expert_tensor) or recipe.batch_sequences % (micro * data):
                continue
            parallel = ParallelConfig(
                tensor=tensor,
                sequence=tensor > 1,
                context=context,
                pipeline=pipeline,
                virtual_stages=virtual,
                stages="balanced" if recipe.model.num_layers % parts else "even",
                expert=expert,
                expert_tensor=expert_tensor,
                data=data,
                micro_batch_sequences=micro,
            )
            if trains(recipe, parallel):
                yield parallel


def in_layout(recipe: Recipe, parallel: ParallelConfig, like: Setting) -> Setting:
    return setting_of(with_layout(recipe, parallel), like.cluster, like.software)


@pytest.mark.parametrize(
    ("model", "sequences", "gib", "gb_per_second"),
    [
        (DENSE, 24, 14.0, 50.0),  # full sharding
        (DENSE, 24, 14.0, 5.0),  # a pipeline, as links between nodes are slow
        (EXPERTS, 8, 6.0, 50.0),  # experts are recomputed
        (EXPERTS, 8, 6.0, 1.0),  # layers are
    ],
)
def test_the_winner_is_that_of_trying_everything(
    model: ModelConfig, sequences: int, gib: float, gb_per_second: float
) -> None:
    recipe = recipe_of(model, sequences=sequences)
    setting = setting_with(recipe, gib=gib, gb_per_second=gb_per_second)
    (winner,) = search(setting, num_gpus=GPUS, number=1).best
    best = float("inf")
    num_compared = 0
    for parallel in every_layout(recipe):
        for sharding, recompute in product(("optimizer", "full"), recomputations(setting)):
            if sharding == "full" and parallel.pipeline > 1:
                continue
            tried = in_layout(recipe, replace(parallel, sharding=sharding, recompute=recompute), setting)
            num_compared += 1
            seconds = step_time(tried).seconds
            if seconds < best and memory(tried).fits:
                best = seconds
    assert num_compared > 200
    assert winner.setting.parallel.sharding_ranks is None  # which was not tried here
    assert winner.time.seconds == best


def test_nothing_beats_its_floor() -> None:
    """Or the search would stop too early."""
    recipe = recipe_of(EXPERTS)
    setting = setting_with(recipe, gib=80.0)
    floor, num_compared = Floor(setting), 0
    for cut in degrees(setting, batch_sequences=recipe.batch_sequences, num_gpus=GPUS)[::7]:
        for sharding, recompute in product(shardings(setting, cut), recomputations(setting)):
            exact = in_layout(recipe, parallel_of(setting, cut, recompute, sharding), setting)
            micro_batches = exact.num_micro_batches
            seconds = floor.seconds(cut, micro_batches, recompute, sharding)
            seconds += floor.transfer_seconds(exact, cut, sharding)
            assert seconds <= step_time(exact).seconds * (1 + 1e-9)
            num_bytes = floor.num_bytes(cut, micro_batches, recompute, sharding)
            assert num_bytes <= rank_memory(exact, 0).needed_bytes * (1 + 1e-9)
            num_compared += 1
    assert num_compared > 500


def test_mai_trains_every_candidate() -> None:
    recipe = recipe_of(EXPERTS)
    setting = setting_with(recipe, gib=80.0)
    candidates = degrees(setting, batch_sequences=recipe.batch_sequences, num_gpus=GPUS)
    for cut in candidates[::5]:
        for sharding in shardings(setting, cut):
            assert trains(recipe, parallel_of(setting, cut, sharding=sharding)), cut
    assert len(candidates) == len(set(candidates))


@pytest.mark.parametrize("num_gpus", [1, 7, 12, 16, 100])
def test_no_layout_takes_more_gpus_than_there_are(num_gpus: int) -> None:
    setting = setting_with(recipe_of(DENSE), gib=200.0)
    found = search(setting, num_gpus=num_gpus)
    assert found.best
    assert all(planned.num_gpus <= num_gpus for planned in found.best)
    assert all(planned.setting.tokens == setting.tokens for planned in found.best)


def test_the_same_search_gives_the_same_ranking() -> None:
    setting = setting_with(recipe_of(EXPERTS), gib=24.0)
    first, again = (search(setting, num_gpus=GPUS) for _ in range(2))
    assert [planned.setting.parallel for planned in first.best] == [planned.setting.parallel for planned in again.best]
    seconds = [planned.time.seconds for planned in first.best]
    assert seconds == sorted(seconds)


def test_what_needs_a_little_more_memory_is_a_near_miss() -> None:
    setting = setting_with(recipe_of(DENSE), gib=80.0)
    (fastest,) = search(setting, num_gpus=GPUS, number=1).best
    needed_gib = fastest.memory.largest.needed_bytes / 2**30
    found = search(setting_with(recipe_of(DENSE), gib=needed_gib - 0.01), num_gpus=GPUS)
    assert found.near_miss is not None
    assert found.near_miss.setting.parallel == fastest.setting.parallel
    assert found.near_miss.time.seconds <= found.best[0].time.seconds


def test_nothing_fits_into_very_little_memory() -> None:
    found = search(setting_with(recipe_of(DENSE), gib=1.0), num_gpus=GPUS)
    assert found.best == ()


def test_a_batch_that_no_layout_shares_out_is_named() -> None:
    setting = setting_with(recipe_of(DENSE), gib=80.0)
    with pytest.raises(PlanError, match="no layout shares out a batch of 24 sequences"):
        search(setting, num_gpus=0)
