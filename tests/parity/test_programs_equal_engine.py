"""The planner's programs of a step are the calls that the running engine makes, rank by rank: in every layout, of every
kind of model, in buckets of any size."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mai.parallel.place import Place
from mai.plan.communication import buckets
from mai.recipe import DenseFeedForward, GroupedQueryAttention, ParallelConfig, Recipe
from tests.corpus import changed
from tests.house.sources import ROOT
from tests.parity.matrix import LAYOUTS, ONE_RANK, SHAPES, Layout, recipe_of
from tests.parity.planned import assert_programs_are, by_ranks
from tests.parity.recorded import Call, recorded
from tests.parity.trainer import name_of
from tests.ranks import on_ranks


def found(recipes: Mapping[str, Recipe], work: Any, *arguments: Any) -> dict[str, tuple[Recipe, list[list[Call]]]]:
    """Each recipe with the calls of all ranks."""
    (ranks,) = by_ranks(recipes)
    answers = on_ranks(ranks, work, recipes, *arguments)
    return {name: (recipe, [answer[name] for answer in answers]) for name, recipe in recipes.items()}


def short(recipe: Recipe) -> Recipe:
    """With few micro-batches: a first, a last and one between, or four to fill a pipeline's stages; never more than in
    the parity matrix."""
    parallel = recipe.parallel
    sequences = parallel.micro_batch_sequences * (parallel.data or 1) * (4 if parallel.pipeline > 1 else 3)
    tokens = min(sequences * recipe.data.sequence_length, recipe.train.batch_tokens)
    return changed(recipe, train={"batch_tokens": tokens})


def in_layouts(shape: str, layouts: Sequence[Layout]) -> dict[str, Recipe]:
    recipes = [short(recipe_of(shape, layout)) for layout in layouts]
    return {f"{shape}: {name_of(recipe.parallel)}": recipe for recipe in recipes}


def variant(shape: str, model: dict[str, Any] | None = None, *, kernels: Any = "auto", **axes: Any) -> Recipe:
    """A shape with other fields of its model, in this layout."""
    recipe = changed(recipe_of(shape, ONE_RANK), model=model or {})
    parallel = ParallelConfig(**{"data": 1, "micro_batch_sequences": 4, **axes})
    return short(replace(recipe, kernels=kernels, parallel=parallel))


def bf16(recipe: Recipe) -> Recipe:
    return changed(recipe, precision={"compute": "bf16"})


def of_experts(shape: str = "experts", **fields: Any) -> dict[str, Any]:
    return {"feed_forward": replace(SHAPES[shape].feed_forward, **fields)}


OWN_LOSS = f"{ROOT}/docs/guides/your_own_part/parts.py:focal_loss"
SEQUENCE = {"tensor": 2, "sequence": True}
INTERLEAVED = {"pipeline": 2, "virtual_stages": 2}
BIASED = {"biases": True, "attention": GroupedQueryAttention(qk_norm=True, sinks=True), "window": 16, "global_every": 2}
BIASED_EXPERTS = {**BIASED, **of_experts(shared_ffn_hidden_size=0)}
LATENT_EXPERTS = of_experts(latent_size=32)
SOME_EXPERTS = of_experts(auxiliary_loss="none", num_dense_layers=0, every=2)
LATENT_DENSE = {"feed_forward": DenseFeedForward()}
TIED = {"tied_embeddings": True}
FURTHER = {"num_layers": 2, "multi_token_depths": 2}

MODELS = {
    "reference": variant("dense", kernels="reference", tensor=2),
    "reference, full": variant("dense", FURTHER, kernels="reference", **SEQUENCE, data=2, sharding="full"),
    "a loss of one's own": changed(variant("dense", tensor=2), objective={"loss": OWN_LOSS}),
    "bf16": bf16(variant("dense", tensor=2, context=2, data=2)),
    "bf16, full": bf16(variant("dense", **SEQUENCE, pipeline=2, data=2, sharding="full")),
    "bf16, experts": bf16(variant("experts", **SEQUENCE, **INTERLEAVED, data=2, expert=2, expert_tensor=2)),
    "bf16, latent": bf16(variant("latent", **SEQUENCE, context=2, data=2, expert=4)),
    "biased": variant("dense", BIASED, tensor=2, data=2),
    "biased, sequence": variant("dense", BIASED, **SEQUENCE, pipeline=2),
    "biased experts": variant("experts", BIASED_EXPERTS, **SEQUENCE, data=2, expert=2),
    "biased experts, full": variant("experts", BIASED_EXPERTS, data=2, sharding="full", recompute=("layer",)),
    "latent experts": variant("experts", LATENT_EXPERTS, **SEQUENCE, data=2, expert=2, expert_tensor=2),
    "latent experts, full": variant("experts", LATENT_EXPERTS, data=2, sharding="full", recompute=("experts",)),
    "some experts": variant("experts", SOME_EXPERTS, context=2, pipeline=2, expert=2),
    "shared expert recomputed": variant("experts", **SEQUENCE, data=2, expert=2, recompute=("shared_experts",)),
    "latent, dense": variant("latent", LATENT_DENSE, tensor=2, data=2),
    "tied": variant("dense", TIED, tensor=2, data=2),
    "tied, pipeline": variant("dense", TIED, tensor=2, pipeline=2, data=2),
    "tied, interleaved": variant("dense", TIED, **INTERLEAVED, data=2, sharding_ranks=1),
    "tied, full": variant("dense", TIED, tensor=2, data=2, sharding="full"),
    "tied, full, pipeline": variant("dense", TIED, **SEQUENCE, pipeline=2, data=2, sharding="full"),
    "further": variant("dense", FURTHER, **SEQUENCE, data=2, recompute=("layer",)),
    "further, no sequence": variant("dense", {**FURTHER, **TIED}, tensor=2, data=2),
    "further, part of its own": variant("dense", FURTHER, **INTERLEAVED, stages="E|t|t|L", data=2),
    "further, part of its own, full": variant("dense", FURTHER, pipeline=2, stages="Ett|L", data=2, sharding="full"),
    "further, full": variant("dense", FURTHER, data=2, pipeline=2, sharding="full", recompute=("layer",)),
    "further, experts": variant(
        "experts", FURTHER, **SEQUENCE, pipeline=2, data=2, expert=2, recompute=("attention_core", "experts")
    ),
    "further, experts, full": variant("experts", FURTHER, **SEQUENCE, data=2, sharding="full", recompute=("layer",)),
}
SIXTEEN = {shape: recipe_of(shape, LAYOUTS[-1]) for shape in ("dense", "experts")}
SETS = {
    f"{what}, {ranks} ranks": recipes
    for what, some in {
        "dense": in_layouts("dense", LAYOUTS[:-1]),
        "experts": in_layouts("experts", LAYOUTS[:-1]),
        # Its attention is all that it has of its own.
        "latent": in_layouts("latent", [layout for layout in LAYOUTS[:-1] if layout.every_commit]),
        "models": MODELS,
        "every axis": SIXTEEN,
    }.items()
    for ranks, recipes in by_ranks(some).items()
}
"""Recipes of one size share a set of processes."""


@pytest.mark.parametrize("some", SETS)
def test_every_rank_calls_what_its_program_says(some: str) -> None:
    for name, (recipe, calls) in found(SETS[some], recorded).items():
        assert_programs_are(name, recipe, calls)


def test_the_layout_of_sixteen_ranks_is_cut_along_every_axis() -> None:
    parallel = SIXTEEN["experts"].parallel
    axes = ("tensor", "context", "pipeline", "virtual_stages", "data", "expert", "expert_tensor")
    assert [getattr(parallel, axis) for axis in axes] == [2] * len(axes)


ONE_EACH = 1
"""Every parameter in a bucket of its own."""
IN_BUCKETS = {
    f"{elements} elements, {ranks} ranks": (elements, recipes)
    for elements, some in {
        ONE_EACH: {
            "biased": variant("dense", BIASED, tensor=2, data=2),
            "biased experts": variant("experts", BIASED_EXPERTS, data=2),
            "latent experts": variant("experts", LATENT_EXPERTS, **SEQUENCE, data=2, recompute=("layer",)),
            "latent": variant("latent", data=2, expert=2),
            "further": variant("experts", FURTHER, data=2, recompute=("experts", "norms")),
            "tied, reference": variant("dense", {**TIED, "biases": True}, kernels="reference", data=2),
        },
        20_000: {
            "interleaved": variant("experts", **SEQUENCE, **INTERLEAVED, data=2, expert=2),
            "copies": variant("latent", data=4, sharding_ranks=2, expert=2),
        },
    }.items()
    for ranks, recipes in by_ranks(some).items()
}


def recorded_in_buckets(place: Place, recipes: dict[str, Recipe], elements: int) -> dict[str, list[Call]]:
    """Runs on every rank: of an engine whose buckets have at least so many elements."""
    from mai.engine import optimizer_sharding

    theirs = optimizer_sharding.data_parallel_config
    optimizer_sharding.data_parallel_config = lambda layout: replace(theirs(layout), bucket_size=elements)
    return recorded(place, recipes)


@pytest.mark.parametrize("some", IN_BUCKETS)
def test_buckets_of_the_first_part_begin_and_end_where_the_engines_do(
    some: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models of these sizes have one bucket a part; large ones have their first part cut at 40 million elements."""
    elements, recipes = IN_BUCKETS[some]
    monkeypatch.setattr(buckets, "LEAST_ELEMENTS", elements)
    monkeypatch.setattr(buckets, "LEAST_ELEMENTS_A_RANK", 0)
    for name, (recipe, calls) in found(recipes, recorded_in_buckets, elements).items():
        assert_programs_are(name, recipe, calls)
