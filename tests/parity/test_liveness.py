"""The fused operations are what a step runs, in every layout, and what they displace is not: read from a profile."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from mai.parallel.layout import Layout
from mai.parallel.place import Place
from mai.parallel.stages import virtual_stages_of
from mai.recipe import GroupedQueryAttention, Recipe
from tests.parity.matrix import LAYOUTS, ONE_RANK, SHAPES, recipe_of
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
    parameters = 6 * layers + 3  # four matrices and two norms a layer; embedding, output and last norm
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
        recipe, calls = recipe_of(shape, layout), [found[number] for found in by_rank]
        name, whole = name_of(recipe.parallel), sum(calls, Counter())
        missing = {"sum_of_squares", "adamw"} - ours(whole).keys()
        assert not missing, f"{name}: {missing} never ran"
        for rank, of_rank in enumerate(calls):
            layers, has_loss = held_by(rank, recipe, ranks)
            missing = expected(recipe, layers, has_loss=has_loss) - ours(of_rank).keys()
            assert not missing, f"{name}: {missing} never ran on rank {rank}"
            assert number_of_heads(ours(of_rank)) == expected_number_of_heads(recipe, layers), f"{name}, rank {rank}"
        assert (CHUNKED in whole) == (recipe.parallel.sharding == "optimizer"), name
        displaced = (DISPLACED | DISPLACED_OF_EXPERTS | DISPLACED_OF_MEGATRON) & whole.keys()
        assert not displaced, f"{name}: {displaced} ran outside of ours"


def held_by(rank: int, recipe: Recipe, ranks: int) -> tuple[list[int], bool]:
    """The layers on the rank's stage, and whether the loss is there."""
    stage = Layout.of(recipe.parallel, ranks).coordinates(rank).pipeline
    virtual_stages = virtual_stages_of(recipe.model.num_layers, recipe.parallel, stage)
    return [layer for each in virtual_stages for layer in each.layers], any(each.has_loss for each in virtual_stages)


def number_of_heads(calls: dict[str, int]) -> int:
    """How often queries and keys were turned; of latent attention one after the other."""
    return calls.get("heads", 0) + calls.get("rope", 0)


def expected_number_of_heads(recipe: Recipe, layers: list[int]) -> int:
    data = recipe.parallel.data or 1
    passes = recipe.batch_sequences // data // recipe.parallel.micro_batch_sequences
    # Once more where whole layers run again; of latent attention queries and keys, which turn back by the same name.
    ways = 1 + ("layer" in recipe.parallel.recompute)
    return len(layers) * passes * (2 * (ways + 1) if recipe.model.latent_attention else ways)


def expected(recipe: Recipe, layers: list[int], *, has_loss: bool) -> set[str]:
    """What a rank of these layers runs, but for the update, of which a rank may have no part."""
    model, parallel = recipe.model, recipe.parallel
    names = {"add_weight_gradient"} if parallel.sharding == "optimizer" else set()
    if layers or has_loss:
        names |= {"rms_norm", "rms_norm_backward"}
    if layers:
        names |= {"rope"} if model.latent_attention else {"heads", "heads_backward"}
        if "norms" not in parallel.recompute:
            names.add("rms_norm_of_sum")
    has_experts = [model.has_experts(layer) for layer in layers]
    if any(has_experts):
        names |= {"weighted_swiglu", "weighted_swiglu_backward", "grouped_product", *OF_EXPERTS}
        if parallel.sharding == "full":
            names.add("grouped_weight_gradient")
    has_shared = model.experts is not None and model.experts.shared_ffn_hidden_size > 0
    if not all(has_experts) or (any(has_experts) and has_shared):
        names |= {"swiglu", "swiglu_backward"}
    if has_loss and parallel.tensor > 1:
        names |= {"cross_entropy_statistics", "cross_entropy_write_gradient"}
    elif has_loss:
        names |= {"cross_entropy_loss_and_gradient", "scale_rows"}
    return names
