"""What `mai plan --search` finds, as values: the best layouts, why each loses to the one before, the recipe's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from mai.errors import PlanError, RecipeError
from mai.hardware.cluster import Cluster
from mai.parallel.layout import Layout
from mai.plan.published import AMONG_THE_OTHERS, its
from mai.plan.report.schema import SCHEMA
from mai.plan.search.reasons import Difference, differences
from mai.plan.search.search import Planned, Ranking, search
from mai.plan.setting.of_layout import trains, words
from mai.plan.setting.of_recipe import setting_of, usable_gpus, within
from mai.plan.setting.setting import Setting
from mai.plan.software import Software
from mai.recipe import ParallelConfig, Recipe
from mai.recipe.parallel import Recomputed


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedLayout:
    overrides: list[str]
    """Words that make it of the recipe."""
    layout: Layout = field(metadata=its("degrees"))
    micro_batch_sequences: int
    micro_batches: int
    recompute: tuple[Recomputed, ...]
    sharding: str
    gpus: int
    spares: int
    step_seconds: float
    tokens_per_second: float
    fits: bool
    needed_bytes: int
    most_bytes: int
    largest_stage: int
    largest_item: str
    """The item that takes most memory on the ranks of that stage."""
    items_seconds: Mapping[str, float]
    loses: list[Difference]
    """To the next faster one."""


@dataclass(frozen=True, slots=True)
class OwnLayout:
    """The recipe's."""

    planned: RankedLayout = field(metadata=AMONG_THE_OTHERS)
    place: int | None
    """None below the last of the best, or where it does not fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedLayouts:
    schema: Mapping[str, str | int]
    recipe: str
    cluster: str
    gpus: int
    """The budget."""
    usable_memory_gib: float | None
    sold_memory_gb: float
    batch_sequences: int
    compared: int
    best: list[RankedLayout]
    near_miss: RankedLayout | None
    own: OwnLayout | None
    """None where it needs more GPUs than there are, or cannot share out its batch over them."""


def ranked(
    recipe: Recipe,
    cluster: Cluster,
    software: Software,
    *,
    gpus: int | None = None,
    imbalance: float = 1.0,
    number: int = 10,
) -> RankedLayouts:
    """The best layouts for a recipe's model and batch within `gpus`, or all that the cluster has.

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
    return RankedLayouts(
        schema=SCHEMA,
        recipe=recipe.name,
        cluster=cluster.name,
        gpus=num_gpus,
        usable_memory_gib=cluster.gpu.usable_memory_gib,
        sold_memory_gb=cluster.gpu.sold_memory_gb,
        batch_sequences=recipe.batch_sequences,
        compared=found.num_degrees,
        best=[told(one, faster=faster) for one, faster in zip(found.best, [None, *found.best], strict=False)],
        near_miss=None if found.near_miss is None else told(found.near_miss),
        own=None if own is None else OwnLayout(told(own, faster=next(iter(found.best), None)), _place(own, found)),
    )


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


def _told(recipe: Recipe, planned: Planned, *, budget: int, faster: Planned | None = None) -> RankedLayout:
    """With what it loses to a faster one."""
    largest, parallel = planned.memory.largest, planned.setting.parallel
    return RankedLayout(
        overrides=words(recipe, parallel),
        layout=planned.setting.layout,
        micro_batch_sequences=parallel.micro_batch_sequences,
        micro_batches=planned.setting.num_micro_batches,
        recompute=parallel.recompute,
        sharding=parallel.sharding,
        gpus=planned.num_gpus,
        spares=budget - planned.num_gpus,
        step_seconds=planned.time.seconds,
        tokens_per_second=planned.tokens_per_second,
        fits=planned.memory.fits,
        needed_bytes=largest.needed_bytes,
        most_bytes=planned.memory.most_bytes,
        largest_stage=largest.stage,
        largest_item=max(largest.items_bytes, key=lambda item: largest.items_bytes[item]),
        items_seconds=planned.time.items_seconds,
        loses=[] if faster is None else differences(planned, faster),
    )
