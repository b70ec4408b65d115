"""What a rank needs was imported before it was forked: no second of its own goes into imports."""

import sys
from dataclasses import replace
from typing import Literal

import pytest

from mai.parallel.place import Place
from mai.recipe import ParallelConfig, Recipe
from recipes.debug.tiny import tiny
from tests.parity.trainer import open_trainer
from tests.ranks import on_ranks

A_HANDFUL = 5


def imported_in_a_step(place: Place, recipe: Recipe) -> list[str]:
    """Runs on every rank."""
    before = set(sys.modules)
    trainer = open_trainer(place, recipe, is_synthetic=True)
    trainer.apply(trainer.forward_backward(0), 0)
    trainer.evaluate(recipe.parallel.micro_batch_sequences * place.world_size)
    return sorted(set(sys.modules) - before)


@pytest.mark.parametrize("sharding", ["optimizer", "full"])
def test_a_rank_imports_no_more_than_a_handful_of_modules(sharding: Literal["optimizer", "full"]) -> None:
    parallel = ParallelConfig(data=2, micro_batch_sequences=4, sharding=sharding)
    for imported in on_ranks(2, imported_in_a_step, replace(tiny(), parallel=parallel)):
        assert len(imported) < A_HANDFUL, imported
