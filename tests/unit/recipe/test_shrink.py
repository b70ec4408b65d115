"""Any recipe that passes the rules has a small twin with the same axes, which passes them too."""

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest

from mai.errors import RecipeError
from mai.recipe import (
    DataConfig,
    DenseFeedForward,
    EvaluateConfig,
    GroupedQueryAttention,
    LatentAttention,
    MixtureOfExperts,
    ModelConfig,
    ObserveConfig,
    OptimizerConfig,
    ParallelConfig,
    Recipe,
    TrainConfig,
    WarmupStableDecay,
    load,
    override,
    rules,
)
from mai.recipe.shrink import DEGREES, apply, degrees, left_out, lost, shrink
from mai.recipe.shrink_layout import MAX_RANKS, MIN_RANKS, small_layout, traits
from mai.recipe.stage_text import layers_of_virtual_stages, written_out
from recipes.debug.tiny import tiny

MLA = LatentAttention(key_value_rank=512, query_rank=1536, rotary_head_size=64, value_head_size=128)
MOE = MixtureOfExperts(
    num_experts=256,
    experts_per_token=8,
    ffn_hidden_size=2048,
    shared_ffn_hidden_size=2048,
    num_dense_layers=3,
    scores="sigmoid",
    bias_update_rate=1e-3,
)


def big(parallel: ParallelConfig, **model: Any) -> Recipe:
    """A model of hundreds of billions of parameters, its batch and evaluation whatever this layout divides."""
    fields: dict[str, Any] = {
        "num_layers": 128,
        "hidden_size": 16_384,
        "ffn_hidden_size": 53_248,
        "num_heads": 128,
        "num_kv_heads": 8,
        "head_size": 128,
        "vocab_size": 131_072,
        **model,
    }
    sequences = 8 * parallel.pipeline * parallel.micro_batch_sequences * (parallel.data or 1)
    return Recipe(
        name="big",
        model=ModelConfig(**fields),
        data=DataConfig(documents=("corpus",), folder="data/big", sequence_length=8192, tokenizer="tokenizer.json"),
        optimizer=OptimizerConfig(
            learning_rate=8e-5, schedule=WarmupStableDecay(warmup_steps=8000, decay_fraction=0.1)
        ),
        train=TrainConfig(steps=1_000_000, batch_tokens=8192 * sequences),
        parallel=parallel,
        evaluate=EvaluateConfig(sequences=sequences),
        observe=ObserveConfig(sinks=("wandb",)),
    )


BIG = {
    "dense 500B": big(ParallelConfig(tensor=8, sequence=True, pipeline=16, virtual_stages=4, data=128)),
    "126 layers, balanced": big(ParallelConfig(tensor=8, pipeline=16, stages="balanced"), num_layers=126),
    "long context": big(ParallelConfig(tensor=8, sequence=True, context=16, pipeline=16, data=8, recompute=("layer",))),
    "written stages": big(ParallelConfig(tensor=8, pipeline=16, stages="Et*6|(t*8|)*14t*6L", data=4), num_layers=124),
    "embedding and loss alone": big(
        ParallelConfig(tensor=4, pipeline=4, virtual_stages=2, stages="E|(t*20|)*6L", data=32), num_layers=120
    ),
    "hybrid, fully sharded": big(ParallelConfig(tensor=8, sharding="full", sharding_ranks=64, data=512)),
    "hybrid, any number of copies": big(ParallelConfig(context=4, pipeline=3, sharding_ranks=32), num_layers=63),
    "experts": big(ParallelConfig(pipeline=16, expert=64, data=64, sharding_ranks=64), feed_forward=MOE, num_layers=64),
    "experts with tensor ranks of their own": big(
        ParallelConfig(tensor=8, sequence=True, pipeline=8, expert=32, expert_tensor=2, data=64, sharding_ranks=32),
        feed_forward=replace(MOE, num_dense_layers=0, shared_ffn_hidden_size=0, scores="softmax", bias_update_rate=0),
    ),
    "latent attention and experts": big(
        ParallelConfig(
            tensor=2, sequence=True, context=2, pipeline=16, virtual_stages=2, stages="balanced", expert=64, data=64
        ),
        num_layers=61,
        num_kv_heads=128,
        attention=MLA,
        feed_forward=MOE,
    ),
}


TOO_MUCH_FOR_16_RANKS = {
    "experts that more tensor ranks share than share the rest",
    "experts spread over copies of the model",
    "experts' weights or states shared out",
}
"""What a layout with many other axes may lose; its certificate says so."""


def axes_in_use(parallel: ParallelConfig) -> set[str]:
    """Which degrees are above 1; data left open may be any."""
    values = {name: getattr(parallel, name) for name in DEGREES if name not in ("data", "sharding_ranks")}
    return {name for name, value in values.items() if value > 1}


def num_ranks(recipe: Recipe) -> int:
    assert recipe.parallel.data is not None
    return recipe.parallel.model_ranks * recipe.parallel.data


every_big_one = pytest.mark.parametrize("recipe", BIG.values(), ids=BIG.keys())


@every_big_one
def test_a_big_recipe_shrinks_to_8_to_16_ranks_with_the_same_axes(recipe: Recipe) -> None:
    rules.check(recipe)
    small = shrink(recipe)
    assert rules.violations(small, world_size=num_ranks(small)) == []
    assert MIN_RANKS <= num_ranks(small) <= MAX_RANKS
    assert axes_in_use(small.parallel) == axes_in_use(recipe.parallel)
    assert max(getattr(small.parallel, name) for name in axes_in_use(recipe.parallel)) <= 4


@every_big_one
def test_the_kinds_stay(recipe: Recipe) -> None:
    small = shrink(recipe)
    for path in ("model.attention.kind", "model.feed_forward.kind", "optimizer.schedule.kind"):
        section, field, kind = path.split(".")
        assert getattr(getattr(getattr(small, section), field), kind) == getattr(
            getattr(getattr(recipe, section), field), kind
        )
    for field in ("sequence", "sharding", "recompute"):
        assert getattr(small.parallel, field) == getattr(recipe.parallel, field)
    assert (small.precision, small.objective) == (recipe.precision, recipe.objective)
    if (experts := recipe.model.experts) is not None:
        few = small.model.experts
        assert few is not None
        assert few.num_experts >= 2 * small.parallel.expert
        assert (few.scores, few.auxiliary_loss, few.bias_update_rate) == (
            experts.scores,
            experts.auxiliary_loss,
            experts.bias_update_rate,
        )
        kinds = {small.model.has_experts(layer) for layer in range(small.model.num_layers)}
        assert kinds == ({False, True} if experts.num_dense_layers else {True})


@every_big_one
def test_uneven_stages_stay_uneven_and_even_ones_even(recipe: Recipe) -> None:
    small = shrink(recipe)
    assert _is_even(small) == _is_even(recipe)
    assert small.parallel.pipeline == 1 or small.model.num_layers >= small.parallel.pipeline


@pytest.mark.parametrize(("pipeline", "stages", "num_layers"), [(1, "even", 2), (2, "even", 4), (4, "even", 4)])
def test_even_stages_have_two_layers_or_one(pipeline: int, stages: str, num_layers: int) -> None:
    assert shrink(big(ParallelConfig(pipeline=pipeline, stages=stages))).model.num_layers == num_layers


@pytest.mark.parametrize(("pipeline", "num_layers"), [(2, 3), (4, 6)])
def test_balanced_stages_have_as_few_layers_as_leave_them_uneven(pipeline: int, num_layers: int) -> None:
    small = shrink(big(ParallelConfig(pipeline=pipeline, stages="balanced")))
    assert small.model.num_layers == num_layers
    assert not _is_even(small)


@every_big_one
def test_hybrid_sharding_stays_hybrid(recipe: Recipe) -> None:
    parallel, small = recipe.parallel, shrink(recipe).parallel
    assert small.data is not None
    is_hybrid = (
        parallel.sharding_ranks is not None and parallel.sharding_ranks != (parallel.data or 0) * parallel.context
    )
    assert (small.sharding_ranks is not None) == is_hybrid
    if small.sharding_ranks is not None:
        assert 1 < small.sharding_ranks < small.context * small.data


@pytest.mark.parametrize("recipe_name", load.names())
def test_what_mai_ships_shrinks(recipe_name: str) -> None:
    small = shrink(load.find(recipe_name)())
    assert rules.violations(small, world_size=num_ranks(small)) == []


def test_a_small_layout_keeps_its_degrees() -> None:
    parallel = ParallelConfig(tensor=4, sequence=True, pipeline=2, data=2)
    small = shrink(big(parallel))
    assert {name: getattr(small.parallel, name) for name in DEGREES} == {
        name: getattr(parallel, name) for name in DEGREES
    }


def test_a_small_layout_that_leaves_data_open_keeps_its_degrees_too() -> None:
    assert small_layout(ParallelConfig(tensor=4), num_layers=8).tensor == 4
    assert small_layout(ParallelConfig(tensor=2, pipeline=4), num_layers=8).pipeline == 4


def test_copies_of_experts_stay_copies() -> None:
    parallel = ParallelConfig(tensor=4, sequence=True, pipeline=4, data=8, expert=2, expert_tensor=4)
    assert "copies of every expert" in traits(parallel)
    assert lost(big(parallel, feed_forward=MOE)) == []


def test_hybrid_sharding_stays_hybrid_where_data_is_open() -> None:
    small = shrink(big(ParallelConfig(context=2, sharding_ranks=8))).parallel
    assert (small.context, small.data, small.sharding_ranks) == (2, 4, 4)


def test_any_number_of_experts_shrinks_to_whole_ranks() -> None:
    experts = replace(MOE, num_experts=7, experts_per_token=2)
    recipe = big(ParallelConfig(expert=7, data=35), feed_forward=experts)
    rules.check(recipe)
    small = shrink(recipe)
    assert rules.violations(small, world_size=num_ranks(small)) == []


@pytest.mark.parametrize("stages", ["Et|ttt|t|t*5|tt|t|tt|L", "Et|tt|L", "E|t|t*8|L"])
def test_written_stages_of_any_pattern_stay_uneven(stages: str) -> None:
    pipeline = stages.count("|") + 1
    layers = len(written_out(stages).replace("|", "")) - 2
    recipe = big(ParallelConfig(tensor=4, pipeline=pipeline, stages=stages, data=8), num_layers=layers)
    rules.check(recipe)
    assert not _is_even(shrink(recipe))


def test_a_recipe_that_leaves_data_open_is_filled_up_with_copies() -> None:
    assert shrink(big(ParallelConfig())).parallel.data == 8
    assert shrink(big(ParallelConfig(tensor=2, pipeline=2))).parallel.data == 2


def test_what_is_shrunk_once_stays_as_it_is() -> None:
    for recipe in BIG.values():
        once = shrink(recipe)
        assert replace(shrink(once), name=once.name) == once


def test_a_shrunk_recipe_runs_anywhere_and_watches_nothing() -> None:
    small = shrink(big(ParallelConfig(tensor=8, data=64)))
    assert small.data == replace(small.data, documents=("python:stdlib",), folder="data/shrunk", tokenizer=None)
    assert small.observe.sinks == ()
    assert small.train.batch_tokens >= 2048
    assert small.train.steps == 20


def test_another_vocabulary_has_a_folder_of_its_own() -> None:
    """The tensor degree 3 divides no 512, and a folder holds the tokens of one tokenizer."""
    recipe = big(
        ParallelConfig(tensor=3, data=3), num_heads=96, num_kv_heads=6, ffn_hidden_size=53_250, vocab_size=131_073
    )
    rules.check(recipe)
    assert shrink(recipe).data.folder == "data/shrunk-513"


def test_overrides_of_the_layout_are_shrunk_and_those_of_the_training_are_not() -> None:
    overrides = ["parallel.pipeline=8", "model.num_layers=64", "train.steps=50", "data.folder=data/own"]
    small = apply(big(ParallelConfig(tensor=8)), overrides)
    assert (small.parallel.tensor, small.parallel.pipeline, small.model.num_layers) == (2, 2, 4)
    assert (small.train.steps, small.data.folder) == (50, "data/own")


def test_an_override_that_the_small_recipe_cannot_have_is_named() -> None:
    with pytest.raises(RecipeError, match=r"train\.batch_tokens=100"):
        apply(big(ParallelConfig(tensor=8)), ["train.batch_tokens=100"])


def test_groups_of_the_real_model_are_left_out_and_told() -> None:
    recipe = override.apply(tiny(), ["optimizer.groups=embedding.*:frozen"])
    assert apply(recipe, []).optimizer.groups == ()
    (told,) = left_out(recipe, [])
    assert told.startswith("optimizer.groups=embedding.*:frozen: they name parameters of the real model")
    of_the_small_one = ["optimizer.groups=decoder.layers.0.*:frozen"]
    assert apply(recipe, of_the_small_one).optimizer.groups == ("decoder.layers.0.*:frozen",)
    assert left_out(recipe, of_the_small_one) == []
    assert left_out(tiny(), []) == []


def test_every_degree_of_a_layout_is_told_of() -> None:
    told = {"tensor", "context", "pipeline", "virtual_stages", "expert", "expert_tensor", "data", "sharding_ranks"}
    assert degrees(big(ParallelConfig())).keys() == told


def test_degrees_says_what_became_of_each() -> None:
    found = degrees(big(ParallelConfig(tensor=8, pipeline=16, virtual_stages=4)))
    assert (found["tensor"], found["pipeline"], found["virtual_stages"], found["context"], found["data"]) == (
        (8, 2),
        (16, 2),
        (4, 2),
        (1, 1),
        (None, 2),
    )


def test_every_lawful_layout_of_a_large_family_shrinks_to_a_lawful_one() -> None:
    """Axes drawn at random; what breaks the rules itself is left out."""
    drawn = random.Random(0)
    lawful = 0
    for _ in range(4000):
        recipe = _drawn(drawn)
        if rules.violations(recipe):
            continue
        lawful += 1
        small = shrink(recipe)
        assert rules.violations(small, world_size=num_ranks(small)) == [], recipe.parallel
        assert num_ranks(small) <= MAX_RANKS, recipe.parallel
        expected_least = min(MIN_RANKS, recipe.parallel.model_ranks * (recipe.parallel.data or MIN_RANKS))
        assert num_ranks(small) >= expected_least, recipe.parallel
        assert axes_in_use(small.parallel) == axes_in_use(recipe.parallel), recipe.parallel
        assert set(lost(recipe)) <= TOO_MUCH_FOR_16_RANKS, recipe.parallel
    assert lawful > 300, "too few of the drawn recipes pass the rules to prove anything"


def _drawn(drawn: random.Random) -> Recipe:
    tensor, context, pipeline = (drawn.choice((1, 1, 2, 3, 4, 8, 16)) for _ in range(3))
    virtual_stages = drawn.choice((1, 1, 2, 3)) if pipeline > 1 else 1
    num_layers = pipeline * virtual_stages * drawn.choice((1, 2, 5)) + drawn.choice((0, 0, 1))
    feed_forward = drawn.choice((DenseFeedForward(), MOE, replace(MOE, num_experts=48, num_dense_layers=0)))
    attention = drawn.choice((GroupedQueryAttention(), replace(MLA, query_rank=drawn.choice((None, 1536)))))
    has_experts = isinstance(feed_forward, MixtureOfExperts)
    data = drawn.choice((None, 1, 2, 3, 4, 8, 12, 64, 384))
    parallel = ParallelConfig(
        tensor=tensor,
        sequence=tensor > 1,
        context=context,
        pipeline=pipeline,
        virtual_stages=virtual_stages,
        stages=drawn.choice(("even", "balanced")) if pipeline > 1 else "even",
        expert=drawn.choice((1, 2, 3, 8, 16)) if has_experts else 1,
        expert_tensor=drawn.choice((1, 1, 2, 4)) if has_experts else 1,
        data=data,
        sharding=drawn.choice(("optimizer", "full")),
        sharding_ranks=drawn.choice((None, None, 1, 2, 4, 8, 32)),
        micro_batch_sequences=drawn.choice((1, 2, 8)),
    )
    return big(
        parallel,
        num_layers=num_layers,
        num_heads=192,
        num_kv_heads=192 if isinstance(attention, LatentAttention) else drawn.choice((48, 192)),
        ffn_hidden_size=49_152,
        vocab_size=3 * 2**15,
        attention=attention,
        feed_forward=feed_forward,
    )


def _is_even(recipe: Recipe) -> bool:
    parallel = recipe.parallel
    layers = layers_of_virtual_stages(
        parallel.stages,
        num_layers=recipe.model.num_layers,
        num_virtual_stages=parallel.pipeline * parallel.virtual_stages,
    )
    return all(one == other for one, other in itertools.pairwise(layers))
