"""Rules of how the layers are cut into stages and virtual stages."""

from collections.abc import Iterator
from difflib import get_close_matches

from mai.recipe.breach import Breach, listed
from mai.recipe.recipe import Recipe
from mai.recipe.rules.breach_wording import breach, divisors, multiples_near, one_of
from mai.recipe.stage_text import BALANCED, EVEN, LONGEST, as_text, layers_of_virtual_stages, written_out


def virtual_stages_need_a_pipeline(recipe: Recipe) -> Iterator[Breach]:
    """Megatron-Core refuses it as well (megatron/core/parallel_state.py, virtual_pipeline_model_parallel_size)."""
    if recipe.parallel.schedule.is_interleaved and recipe.parallel.pipeline == 1:
        rule = (
            "virtual stages of several stages are interleaved, and there is one stage; "
            "use parallel.pipeline=2 or more, or parallel.virtual_stages=1"
        )
        yield breach(recipe, rule, "parallel.virtual_stages", "parallel.pipeline")


def one_stage_needs_no_cut(recipe: Recipe) -> Iterator[Breach]:
    if recipe.parallel.stages != EVEN and recipe.parallel.pipeline == 1:
        rule = "one stage holds all; use parallel.stages=even, or parallel.pipeline=2 or more"
        yield breach(recipe, rule, "parallel.stages", "parallel.pipeline")


def even_stages_hold_the_same_number_of_layers(recipe: Recipe) -> Iterator[Breach]:
    layers, parallel = recipe.model.num_layers, recipe.parallel
    if not _is_cut(recipe) or parallel.stages != EVEN or layers % recipe.parallel.num_virtual_stages == 0:
        return
    near = listed(multiples_near(layers, recipe.parallel.num_virtual_stages))
    ways_out = [*_degrees_that_divide(recipe), f"model.num_layers={near}", *_balanced(recipe)]
    what = "virtual stage" if parallel.schedule.is_interleaved else "stage"
    rule = f"every {what} must hold the same number of layers; use {', or '.join(ways_out)}"
    yield breach(recipe, rule, "model.num_layers", *_who_cuts(recipe))


def balanced_stages_hold_something(recipe: Recipe) -> Iterator[Breach]:
    layers, num_virtual_stages = recipe.model.num_layers, recipe.parallel.num_virtual_stages
    if _is_cut(recipe) and recipe.parallel.stages == BALANCED and layers + 2 < num_virtual_stages:
        most = (layers + 2) // recipe.parallel.virtual_stages
        fewer = f", or parallel.pipeline={most} or less" if most > 1 else ""
        rule = (
            f"{layers} layers, the embedding and the loss do not fill {num_virtual_stages} virtual stages; "
            f"use model.num_layers={num_virtual_stages - 2} or more{fewer}"
        )
        yield breach(recipe, rule, "model.num_layers", *_who_cuts(recipe))


def written_stages_make_the_model(recipe: Recipe) -> Iterator[Breach]:
    stages, layers = recipe.parallel.stages, recipe.model.num_layers
    if not _is_cut(recipe) or stages in (EVEN, BALANCED):
        return
    way_out = "".join(f"; use {way}" for way in _balanced(recipe))
    try:
        text = written_out(stages)
    except ValueError as error:
        near = "".join(get_close_matches(stages, (EVEN, BALANCED), n=1))
        meant = f"must be even, balanced, or written out; did you mean {near}?"
        yield breach(recipe, meant if near else f"{error}{way_out}", "parallel.stages")
        return
    virtual_stages = text.split("|")
    if len(virtual_stages) != recipe.parallel.num_virtual_stages:
        rule = f"has {len(virtual_stages)} virtual stages, and the layout {recipe.parallel.num_virtual_stages}{way_out}"
        yield breach(recipe, rule, *_who_cuts(recipe))
    if text.count("t") != layers:
        rule = f"has {text.count('t')} layers (t), and the model {layers}{way_out}"
        yield breach(recipe, rule, "parallel.stages", "model.num_layers")
    if not (text.count("E") == text.count("L") == 1 and text.startswith("E") and text.endswith("L")):
        rule = f"E must come once, first of all, and L once, last of all{way_out}"
        yield breach(recipe, rule, "parallel.stages")
    if not all(virtual_stages):
        place = virtual_stages.index("") + 1
        yield breach(recipe, f"virtual stage {place} of {len(virtual_stages)} is empty{way_out}", "parallel.stages")


def _is_cut(recipe: Recipe) -> bool:
    """Whether there are several stages; `one_stage_needs_no_cut` looks at the others."""
    return recipe.parallel.pipeline > 1


def _who_cuts(recipe: Recipe) -> tuple[str, ...]:
    virtual = ("parallel.virtual_stages",) if recipe.parallel.schedule.is_interleaved else ()
    return ("parallel.pipeline", *virtual, "parallel.stages")


def _degrees_that_divide(recipe: Recipe) -> Iterator[str]:
    """`parallel.pipeline one of 2, 3, 5`, and the same for virtual stages, where there are such."""
    layers, stages, virtual = recipe.model.num_layers, recipe.parallel.pipeline, recipe.parallel.virtual_stages
    is_interleaved = recipe.parallel.schedule.is_interleaved
    least = 2 if is_interleaved else 1
    pipelines = [number for number in divisors(layers // virtual) if number >= least and layers % virtual == 0]
    if pipelines:
        yield f"parallel.pipeline {one_of(pipelines, near=stages)}"
    if is_interleaved and layers % stages == 0:
        yield f"parallel.virtual_stages {one_of(divisors(layers // stages), near=virtual)}"


def _balanced(recipe: Recipe) -> Iterator[str]:
    """`parallel.stages=balanced (Ett|ttL)` where that is a way to cut the model."""
    layers, num_virtual_stages = recipe.model.num_layers, recipe.parallel.num_virtual_stages
    if num_virtual_stages <= min(layers + 2, LONGEST):
        text = as_text(layers_of_virtual_stages(BALANCED, num_layers=layers, num_virtual_stages=num_virtual_stages))
        yield f"parallel.stages=balanced ({text})"
