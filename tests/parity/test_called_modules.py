"""What Megatron waits for: where a module is called, it first waits for its weights, which it gathers meanwhile
(distributed/distributed_data_parallel.py, overlap_param_gather). A weight that is read past its module may be old."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mai.errors import RecipeError
from mai.parallel.place import Place
from mai.recipe import GroupedQueryAttention, Recipe
from tests.parity.matrix import ONE_RANK, SHAPES, recipe_of
from tests.ranks import on_ranks

MODELS = {
    **SHAPES,
    "norms_of_heads": replace(SHAPES["dense"], attention=GroupedQueryAttention(qk_norm=True)),
    "tied": replace(SHAPES["dense"], tied_embeddings=True),
    "multi_token": replace(SHAPES["dense"], multi_token_depths=1),
}
KERNELS = ("auto", "reference")

BARE_ATTENTION = """
def layer(model, number, standard):
    from megatron.core.transformer.attention import SelfAttention
    standard.submodules.self_attention.module = SelfAttention
    return standard
"""


def uncalled(place: Place, recipes: dict[tuple[str, str], Recipe]) -> dict[tuple[str, str], list[str]]:
    """Runs on one rank: the modules with weights of their own that no forward pass of a step called."""
    from tests.parity.trainer import open_trainer

    found = {}
    for case, recipe in recipes.items():
        trainer = open_trainer(place, recipe, is_synthetic=True)
        with_weights = {
            name: module
            for part in trainer.engine._virtual_stages
            for name, module in part.named_modules()
            if any(True for _ in module.parameters(recurse=False))
        }
        called = set()
        for name, module in with_weights.items():
            module.register_forward_pre_hook(lambda *_, name=name, called=called: called.add(name))
        trainer.step(0)
        trainer.close()
        assert called
        found[case] = sorted(with_weights.keys() - called)
    return found


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], list[str]]:
    recipes = {
        (name, kernels): replace(recipe_of("dense", ONE_RANK), model=model, kernels=kernels)
        for name, model in MODELS.items()
        for kernels in KERNELS
    }
    return on_ranks(1, uncalled, recipes)[0]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", MODELS)
def test_every_module_with_weights_is_called(name: str, kernels: str, found: dict[tuple[str, str], list[str]]) -> None:
    assert found[name, kernels] == []


def train_one_step(place: Place, recipe: Recipe) -> str | None:
    """Runs on one rank: what a recipe's own layer is told."""
    from tests.parity.trainer import open_trainer

    trainer = open_trainer(place, recipe, is_synthetic=True)
    try:
        trainer.step(0)
    except RecipeError as error:
        return str(error)
    finally:
        trainer.close()
    return None


def test_an_attention_that_turns_nothing_is_refused(tmp_path: Path) -> None:
    part = tmp_path / "part.py"
    part.write_text(BARE_ATTENTION)
    recipe = recipe_of("dense", ONE_RANK)
    told = on_ranks(1, train_one_step, replace(recipe, model=replace(recipe.model, layer=f"{part}:layer")))[0]
    assert told is not None
    assert re.search(r"model\.layer: .* turn them with core_attention\.rotate", told)
