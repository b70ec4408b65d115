"""The fused operations are what a step runs, in every layout, and what they displace is not: read from a profile."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from mai.parallel.place import Place
from mai.recipe import GroupedQueryAttention, Recipe
from tests.parity.matrix import LAYOUTS, ONE_RANK, SHAPES, Layout, recipe_of
from tests.parity.trainer import name_of, num_ranks
from tests.ranks import on_ranks

DISPLACED = {
    "aten::silu",
    "aten::silu_backward",
    "aten::rms_norm",
    "aten::rsqrt",
    "aten::_fused_adamw_",
    "_VocabParallelCrossEntropy",
}
"""What plain torch and Megatron-Core run for the same; `aten::rsqrt` is in nothing but a norm."""

CHUNKED = "_LinearCrossEntropy"
"""The output layer and cross entropy together: the function of autograd around operators that others call too."""

DISPLACED_OF_EXPERTS = {"aten::sort", "aten::gather", "aten::scatter_add_"}
"""The choice of experts, and how rows are moved and added: of plain torch, and of Megatron-Core with the next two."""
DISPLACED_OF_MEGATRON = {"aten::topk", "aten::masked_select"}


OF_EXPERTS = {
    "routing",
    "routing_backward",
    "expert_rows",
    "permute",
    "permute_backward",
    "unpermute",
    "unpermute_backward",
}


def operators(place: Place, recipes: list[Recipe]) -> list[Counter[str]]:
    """Runs on every rank: for one recipe after the other, how often a step called each operator; what our operators
    call inside, on a CPU, is left out."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from tests.parity.trainer import open_trainer

    found = []
    for recipe in recipes:
        trainer = open_trainer(place, recipe, is_synthetic=True)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            trainer.step(0)
        trainer.close()
        assert isinstance(torch.__version__, str)
        found.append(Counter(event.name for event in profiler.events() if not _is_inside_ours(event)))
    return found


def _is_inside_ours(event: Any) -> bool:
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.startswith("mai::"):
            return True
        parent = parent.cpu_parent
    return False


def ours(calls: Counter[str]) -> dict[str, int]:
    return {name.removeprefix("mai::"): count for name, count in calls.items() if name.startswith("mai::")}


def test_a_step_of_one_rank_calls_each_operation_as_often_as_the_model_has_it() -> None:
    recipe = recipe_of("dense", ONE_RANK)
    (fused, reference), *_ = on_ranks(1, operators, [recipe, replace(recipe, kernels="reference")])
    layers = recipe.model.num_layers
    passes = recipe.batch_sequences // recipe.parallel.micro_batch_sequences
    parameters = 5 * layers + 3 + layers  # four matrices and two norms a layer; embedding, output and last norm
    assert ours(fused) == {
        "rms_norm": (layers + 1) * passes,
        "rms_norm_of_sum": layers * passes,
        "rms_norm_backward": (2 * layers + 1) * passes,
        "swiglu": layers * passes,
        "swiglu_backward": layers * passes,
        "heads": layers * passes,
        "heads_backward": layers * passes,
        "cross_entropy_loss_and_gradient": passes,
        "scale_rows": passes,
        "add_weight_gradient": (4 * layers + 1) * passes,
        "sum_of_squares": parameters,
        "adamw": parameters,
    }
    assert fused[CHUNKED] == passes
    assert not DISPLACED & fused.keys()
    assert CHUNKED not in reference
    assert not ours(reference)
    assert reference.keys() >= DISPLACED


def test_a_layer_of_experts_routes_sorts_and_sums_once_a_pass() -> None:
    recipe = recipe_of("experts", ONE_RANK)
    (fused, reference), *_ = on_ranks(1, operators, [recipe, replace(recipe, kernels="reference")])
    layers = sum(recipe.model.has_experts(layer) for layer in range(recipe.model.num_layers))
    times = layers * recipe.batch_sequences // recipe.parallel.micro_batch_sequences
    assert {name: ours(fused)[name] for name in OF_EXPERTS} == {
        **dict.fromkeys(OF_EXPERTS, times),
        # With a selection bias, the balancing loss counts another choice.
        "routing": 2 * times,
    }
    # Context ranks index positions too: only here it stands for rows.
    displaced = {*DISPLACED_OF_EXPERTS, "aten::index"}
    assert not (displaced | DISPLACED_OF_MEGATRON) & fused.keys()
    assert reference.keys() >= displaced


def test_a_rank_multiplies_all_of_its_experts_at_once() -> None:
    recipe = recipe_of("experts", ONE_RANK)
    (fused, reference), *_ = on_ranks(1, operators, [recipe, replace(recipe, kernels="reference")])
    experts, model = recipe.model.experts, recipe.model
    assert experts is not None
    layers = sum(model.has_experts(layer) for layer in range(model.num_layers))
    passes = recipe.batch_sequences // recipe.parallel.micro_batch_sequences
    # Two matrices, forward and for the gradient of what came in.
    assert ours(fused)["grouped_product"] == 4 * layers * passes
    # One by one, each expert has four products, and two for the gradients of its matrices, which are displaced too.
    assert reference["aten::mm"] - fused["aten::mm"] >= 6 * experts.num_experts * layers * passes


def test_norms_of_heads_are_in_the_operation_that_turns_them() -> None:
    recipe = recipe_of("dense", ONE_RANK)
    recipe = replace(recipe, model=replace(recipe.model, attention=GroupedQueryAttention(qk_norm=True)))
    ((calls,),) = on_ranks(1, operators, [recipe])
    layers = recipe.model.num_layers
    passes = recipe.batch_sequences // recipe.parallel.micro_batch_sequences
    found = ours(calls)
    assert (found["heads"], found["heads_normed_backward"]) == (layers * passes, layers * passes)
    # The last norm, the one before each attention, and backward that after it too.
    assert (found["rms_norm"], found["rms_norm_backward"]) == ((layers + 1) * passes, (2 * layers + 1) * passes)
    assert not found.keys() & {"rope", "heads_backward"}
    assert not DISPLACED & calls.keys()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ranks", sorted({num_ranks(layout.parallel(SHAPES["dense"])) for layout in LAYOUTS}))
def test_they_are_alive_in_every_layout(shape: str, ranks: int, request: pytest.FixtureRequest) -> None:
    layouts = [layout for layout in LAYOUTS if num_ranks(layout.parallel(SHAPES[shape])) == ranks]
    if not request.config.getoption("--full"):
        layouts = [layout for layout in layouts if layout.every_commit and ranks <= 4]
    if not layouts:
        pytest.skip("make test-full profiles these layouts")
    by_rank = on_ranks(ranks, operators, [recipe_of(shape, layout) for layout in layouts])
    for number, layout in enumerate(layouts):
        calls = sum((found[number] for found in by_rank), Counter())
        name = name_of(layout.parallel(SHAPES[shape]))
        missing = expected(shape, layout) - ours(calls).keys()
        assert not missing, f"{name}: {missing} never ran"
        assert (CHUNKED in calls) == (layout.parallel(SHAPES[shape]).sharding == "optimizer"), name
        displaced = (DISPLACED | DISPLACED_OF_EXPERTS | DISPLACED_OF_MEGATRON) & calls.keys()
        assert not displaced, f"{name}: {displaced} ran outside of ours"


def expected(shape: str, layout: Layout) -> set[str]:
    """All of them, less what a layout has no place for."""
    model = SHAPES[shape]
    parallel = layout.parallel(model)
    names = {"rms_norm", "rms_norm_backward", "sum_of_squares", "adamw"}
    names |= {"rope"} if model.latent_attention else {"heads", "heads_backward"}
    has_experts = [model.has_experts(layer) for layer in range(model.num_layers)]
    if any(has_experts):
        names |= {"weighted_swiglu", "weighted_swiglu_backward", "grouped_product", *OF_EXPERTS}
        if parallel.sharding == "full":
            names.add("grouped_weight_gradient")
    if not all(has_experts) or (model.experts is not None and model.experts.shared_ffn_hidden_size):
        names |= {"swiglu", "swiglu_backward"}
    if parallel.tensor > 1:
        names |= {"cross_entropy_statistics", "cross_entropy_write_gradient"}
    else:
        names |= {"cross_entropy_loss_and_gradient", "scale_rows"}
    if "norms" not in parallel.recompute:
        names.add("rms_norm_of_sum")
    if parallel.sharding == "optimizer":
        names.add("add_weight_gradient")
    return names
