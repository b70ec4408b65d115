"""Every process group waits as long as the recipe says, and no longer, whoever opened it."""

from dataclasses import replace
from typing import Any

import pytest

from mai.parallel.place import Place
from mai.recipe import ParallelConfig, Recipe
from recipes.debug.every_axis import experts_every_axis
from tests.parity.trainer import open_trainer
from tests.ranks import on_ranks

pytestmark = pytest.mark.usefixtures("cpu_engine")

# No whole minutes, which is what Megatron-Core counts in.
SECONDS = 47.5
LAYOUTS = [
    ParallelConfig(tensor=2, sequence=True, pipeline=2, data=2, expert=2, micro_batch_sequences=2),
    ParallelConfig(data=8, expert=2, sharding="full", sharding_ranks=4, micro_batch_sequences=2),
    ParallelConfig(context=2, data=4, sharding_ranks=2, micro_batch_sequences=2),
]


def timeouts(place: Place, recipes: list[Recipe]) -> list[dict[str, float]]:
    """Runs on every rank: seconds by group, of each layout."""
    import torch
    import torch.distributed as dist

    def seconds(group: Any) -> float:
        return float(group._get_backend(torch.device("cpu")).options._timeout.total_seconds())

    found = []
    for recipe in recipes:
        trainer = open_trainer(place, recipe, is_synthetic=True, timeout_seconds=SECONDS)
        found.append({name: seconds(group) for group, name in dist.distributed_c10d._world.pg_names.items()})
        trainer.close()
    return found


def test_every_group_of_a_layout_waits_as_long_as_it_is_told() -> None:
    recipes = [replace(experts_every_axis(), parallel=parallel) for parallel in LAYOUTS]
    for rank in on_ranks(8, timeouts, recipes):
        for found in rank:
            assert len(found) > 4
            assert set(found.values()) == {SECONDS}, found
