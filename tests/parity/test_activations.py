"""What the planner says a layer keeps is what the running engine keeps, counted tensor by tensor."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from mai.parallel.layout import Layout
from mai.parallel.place import Place
from mai.plan.activations import Cut, kept_bytes
from mai.plan.architecture import of_model
from mai.recipe import GroupedQueryAttention, LatentAttention, ModelConfig, ParallelConfig, PrecisionConfig, Recipe
from tests.parity.matrix import ONE_RANK, SHAPES, recipe_of
from tests.ranks import on_ranks

LAYERS = (4, 6)
LATENT_EXPERTS = replace(SHAPES["experts"].experts, latent_size=32)  # type: ignore[type-var]
MODELS: Mapping[str, ModelConfig] = {
    **SHAPES,
    "norms_of_heads": replace(SHAPES["dense"], attention=GroupedQueryAttention(qk_norm=True)),
    "whole_queries": replace(
        SHAPES["latent"], attention=LatentAttention(key_value_rank=32, rotary_head_size=8, value_head_size=16)
    ),
    "latent_experts": replace(SHAPES["experts"], feed_forward=LATENT_EXPERTS),
}
LAYOUTS = {
    "one rank": ParallelConfig(data=1, micro_batch_sequences=4),
    "tensor 2": ParallelConfig(tensor=2, data=1, micro_batch_sequences=4),
    "sequence": ParallelConfig(tensor=2, sequence=True, data=1, micro_batch_sequences=4),
    "context 2": ParallelConfig(context=2, data=1, micro_batch_sequences=4),
}
Kept = dict[tuple[str, str, str, int], int]


def recipe_with(model: ModelConfig, parallel: ParallelConfig, compute: str) -> Recipe:
    """One micro-batch a step."""
    recipe = recipe_of("dense", ONE_RANK)
    return replace(
        recipe,
        model=model,
        parallel=parallel,
        precision=PrecisionConfig(compute=compute),  # type: ignore[arg-type]
        train=replace(recipe.train, batch_tokens=4 * recipe.data.sequence_length),
    )


def kept(place: Place, recipes: Mapping[tuple[str, str, str, int], Recipe]) -> Kept:
    """Runs on every rank: bytes that the forward pass of each recipe saved, weights and tables of positions aside."""
    import torch
    from torch import Tensor

    from mai.objective import pretrain
    from tests.parity.trainer import open_trainer

    def stop(*_: object) -> Tensor:
        raise StopIteration

    found = {}
    for case, recipe in recipes.items():
        trainer = open_trainer(place, recipe, is_synthetic=True)
        modules = [module for part in trainer.engine._modules for module in part.modules()]
        own = [x for module in modules for x in (*module.parameters(recurse=False), *module.buffers(recurse=False))]
        own += [table for module in modules for table in getattr(getattr(module, "positions", None), "_tables", ())]
        known = {x.untyped_storage().data_ptr() for x in own}
        sizes: dict[int, int] = {}

        def note(saved: Tensor, known: set[int] = known, sizes: dict[int, int] = sizes) -> Tensor:
            storage = saved.untyped_storage()
            if storage.data_ptr() not in known:
                sizes[storage.data_ptr()] = storage.nbytes()
            return saved

        batch = pretrain.batch_at(trainer.training, range(recipe.batch_sequences))
        with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved), pytest.raises(StopIteration):
            trainer.engine.forward_backward(batch, stop)
        trainer.close()
        found[case] = sum(sizes.values())
    return found


CASES = [
    (name, where, compute)
    for where, parallel in LAYOUTS.items()
    for name, model in MODELS.items()
    for compute in (("fp32", "bf16") if parallel.model_ranks == 1 else ("bf16",))
    if parallel.tensor == 1 or parallel.sequence or model.experts is None
]


@pytest.fixture(scope="module")
def found() -> Kept:
    """Of the last rank: of context ranks it keeps most, with two masks."""
    kept_by: Kept = {}
    for ranks in (1, 2):
        recipes = {
            (name, where, compute, layers): recipe_with(
                replace(MODELS[name], num_layers=layers), LAYOUTS[where], compute
            )
            for name, where, compute in CASES
            for layers in LAYERS
            if LAYOUTS[where].model_ranks == ranks
        }
        kept_by |= on_ranks(ranks, kept, recipes)[-1]
    return kept_by


@pytest.mark.parametrize(("name", "where", "compute"), CASES)
def test_a_layer_keeps_what_the_planner_says(name: str, where: str, compute: str, found: Kept) -> None:
    model, parallel = MODELS[name], LAYOUTS[where]
    fewer, more = (found[name, where, compute, layers] for layers in LAYERS)
    counted = (more - fewer) / (LAYERS[1] - LAYERS[0])
    recipe = recipe_with(model, parallel, compute)
    layout = Layout.of(parallel, parallel.model_ranks)
    cut = Cut(
        sequences=recipe.batch_sequences,
        length=recipe.data.sequence_length,
        element_bytes=4 if compute == "fp32" else 2,
        context=layout.context,
        tensor=layout.tensor,
        sequence=parallel.sequence,
        expert_tensor=layout.expert_tensor,
    )
    said = kept_bytes(of_model(model), of_model(model).layers[-1], cut)
    assert said == pytest.approx(counted, rel=0.01)
