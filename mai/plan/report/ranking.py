"""What `mai plan --search` finds, as values: the best layouts, why each loses to the one before, the recipe's own."""

from dataclasses import asdict, replace
from functools import partial
from typing import Any

from mai.errors import PlanError, RecipeError
from mai.hardware.cluster import Cluster
from mai.plan.report.schema import SCHEMA
from mai.plan.search.reasons import differences
from mai.plan.search.search import Planned, Ranking, search
from mai.plan.setting.of_layout import trains, words
from mai.plan.setting.of_recipe import setting_of, usable_gpus, within
from mai.plan.setting.setting import Setting
from mai.plan.software import Software
from mai.recipe import ParallelConfig, Recipe


def ranked(
    recipe: Recipe,
    cluster: Cluster,
    software: Software,
    *,
    gpus: int | None = None,
    imbalance: float = 1.0,
    number: int = 10,
) -> dict[str, Any]:
    """The best layouts for a recipe's model and batch, as JSON values; within `gpus`, or all that the cluster has.

    Raises PlanError where nobody states a budget, or no layout shares out the batch.
    """
    num_gpus = usable_gpus(cluster, gpus)
    if num_gpus is None:
        raise PlanError(f"{cluster.name} does not say how many nodes it has: add --gpus")
    model_alone = setting_of(replace(recipe, parallel=ParallelConfig(data=1)), cluster, software, imbalance=imbalance)
    accepts = partial(trains, recipe)
    found = search(model_alone, num_gpus=num_gpus, number=number, accepts=accepts)
    told = partial(_told, recipe, budget=num_gpus)
    own = _own(recipe, cluster, gpus, model_alone)
    best = [told(one, faster=faster) for one, faster in zip(found.best, [None, *found.best], strict=False)]
    return {
        "schema": dict(SCHEMA),
        "recipe": recipe.name,
        "cluster": cluster.name,
        "gpus": num_gpus,
        "usable_memory_gib": cluster.gpu.usable_memory_gib,
        "sold_memory_gb": cluster.gpu.sold_memory_gb,
        "batch_sequences": recipe.batch_sequences,
        "compared": found.num_degrees,
        "best": best,
        "near_miss": found.near_miss and told(found.near_miss),
        "own": own and {**told(own, faster=next(iter(found.best), None)), "place": _place(own, found)},
    }


def _own(recipe: Recipe, cluster: Cluster, gpus: int | None, like: Setting) -> Planned | None:
    """The recipe's layout; None where it needs more GPUs than there are, or cannot share out its batch over them."""
    try:
        filled = within(recipe, cluster, gpus)
    except RecipeError:
        return None
    return Planned.of(setting_of(filled, cluster, like.software, imbalance=like.imbalance))


def _place(own: Planned, found: Ranking) -> int | None:
    """None below the last of the best, or where it does not fit."""
    faster = sum(one.time.seconds < own.time.seconds for one in found.best)
    return faster + 1 if own.memory.fits and faster < len(found.best) else None


def _told(recipe: Recipe, planned: Planned, *, budget: int, faster: Planned | None = None) -> dict[str, Any]:
    """With what it loses to a faster one."""
    largest_rank = planned.memory.largest
    return {
        "overrides": words(recipe, planned.setting.parallel),
        "layout": planned.setting.layout.degrees,
        "micro_batch_sequences": planned.setting.parallel.micro_batch_sequences,
        "micro_batches": planned.setting.num_micro_batches,
        "recompute": list(planned.setting.parallel.recompute),
        "sharding": planned.setting.parallel.sharding,
        "gpus": planned.num_gpus,
        "spares": budget - planned.num_gpus,
        "step_seconds": planned.time.seconds,
        "tokens_per_second": planned.tokens_per_second,
        "fits": planned.memory.fits,
        "needed_bytes": largest_rank.needed,
        "most_bytes": planned.memory.most,
        "largest_stage": largest_rank.stage,
        "largest_item": max(largest_rank.items, key=lambda item: largest_rank.items[item]),
        "items_seconds": dict(planned.time.items),
        "loses": [] if faster is None else [asdict(one) for one in differences(planned, faster)],
    }
