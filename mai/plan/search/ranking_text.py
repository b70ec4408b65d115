"""What `mai plan --search` tells: the best layouts, why each loses to the one before, and where the recipe stands."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from mai.errors import PlanError, RecipeError
from mai.hardware.cluster import Cluster
from mai.plan.of_layout import trains, words
from mai.plan.of_recipe import setting_of, usable_gpus, within
from mai.plan.report.quantities import counted, gib, seconds
from mai.plan.report.schema import SCHEMA
from mai.plan.report.terminal import columns, wrapped
from mai.plan.search.reasons import differences, largest
from mai.plan.search.search import Planned, Ranking, search
from mai.plan.setting import Setting
from mai.plan.software import Software
from mai.plan.time.step_time import WORDS
from mai.recipe import ParallelConfig, Recipe
from mai.recipe.breach import shown


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


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A table of the best, then in words why each loses to the one before it."""
    best, own = found["best"], found["own"]
    yield (
        f"{found['recipe']} on {found['cluster']}: the best layouts on at most {counted(found['gpus'], 'GPU')}, for "
        f"{counted(found['batch_sequences'], 'sequence')} a step; {found['compared']:,} compared"
    )
    yield ""
    if best or own:
        yield from _table(best, own)
        for number, planned in enumerate(best[1:], start=2):
            yield from wrapped(f"{number} behind {number - 1}: {_loss(planned)}")
        yield ""
    for sentence in _about_the_others(found):
        yield from wrapped(sentence)
    if best:
        yield "the best one, as words behind the recipe's name:"
        yield f"    {' '.join(best[0]['overrides']) or '(the recipe itself)'}"


def _table(best: Sequence[Mapping[str, Any]], own: Mapping[str, Any] | None) -> Iterator[str]:
    """A row a layout; a column that says nothing of any of them is left out."""
    places = [str(number) for number in range(1, len(best) + 1)]
    planned, places = (best, places) if own is None else ([*best, own], [*places, "yours"])
    told = {head: [cell(one) for one in planned] for head, cell in _COLUMNS.items()}
    shown_columns = {head: cells for head, cells in told.items() if any(cells)}
    yield from columns(("", *shown_columns), *zip(places, *shown_columns.values(), strict=True))


def _degree(axis: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda planned: str(degree) if (degree := planned["layout"].get(axis, 1)) > 1 else ""


def _sharding(planned: Mapping[str, Any]) -> str:
    copies = planned["layout"].get("sharding_copies", 1)
    return ", ".join(["full"] * (planned["sharding"] == "full") + [f"{copies} copies"] * (copies > 1))


_COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "tensor": _degree("tensor"),
    "context": _degree("context"),
    "pipeline": _degree("pipeline"),
    "virtual": _degree("virtual_stages"),
    "data": _degree("data"),
    "expert": _degree("expert"),
    "expert tensor": _degree("expert_tensor"),
    "micro-batch": lambda planned: str(sequences) if (sequences := planned["micro_batch_sequences"]) > 1 else "",
    "sharding": _sharding,
    "recomputed": lambda planned: ", ".join(planned["recompute"]).replace("_", " "),
    "step": lambda planned: seconds(planned["step_seconds"]),
    "tokens/s": lambda planned: f"{planned['tokens_per_second']:,.0f}",
    "GPUs": lambda planned: f"{planned['gpus']:,}",
    "GiB": lambda planned: gib(planned["needed_bytes"]),
}
"""Of the table, by their heads."""


def _layout(planned: Mapping[str, Any]) -> str:
    """`tensor 8 x pipeline 16 x data 117, 2 sequences at a time, layer recomputed`."""
    axes = {axis: degree for axis, degree in planned["layout"].items() if degree > 1}
    text = " x ".join(f"{axis.replace('_', ' ')} {degree}" for axis, degree in axes.items()) or "one GPU"
    if planned["micro_batch_sequences"] > 1:
        text += f", {planned['micro_batch_sequences']} sequences at a time"
    if planned["sharding"] == "full":
        text += ", full sharding"
    if planned["recompute"]:
        text += f", {shown(tuple(planned['recompute'])).replace('_', ' ')} recomputed"
    return text


def _loss(planned: Mapping[str, Any]) -> str:
    """`+0.41 s: tensor +0.52 s (each matrix on 8 ranks instead of 4), bubble -0.12 s (...)`."""
    loses = planned["loses"]
    whole = sum(one["seconds"] for one in loses)
    told = [
        f"{WORDS[one['item']]} {one['seconds']:+.3f} s" + (f" ({one['cause']})" if one["cause"] else "")
        for one in largest(loses)
    ]
    return f"{whole:+.3f} s: {'; '.join(told)}" if told else "as fast"


def _about_the_others(found: Mapping[str, Any]) -> Iterator[str]:
    best, own, near_miss = found["best"], found["own"], found["near_miss"]
    if found["usable_memory_gib"] is None:
        most = f"{found['sold_memory_gb']:g} GiB that its GPU has"
        yield f"how much of the {most} a process gets is unknown: what needs almost all of it may not fit"
    if not best:
        yield f"no layout fits; the nearest is {_layout(near_miss)}, which {_lack(near_miss)}; bring more GPUs"
    elif near_miss is not None:
        faster = best[0]["step_seconds"] / near_miss["step_seconds"] - 1
        yield f"does not quite fit: {_layout(near_miss)}, which {_lack(near_miss)}; would be {faster:.1%} faster"
    if own is None:
        yield f"the recipe's own layout does not share out its batch over {counted(found['gpus'], 'GPU')}"
    elif not own["fits"]:
        yield f"the recipe's own layout does not fit: {_lack(own)}"
    elif best:
        place = f"place {own['place']}" if own["place"] else f"below place {len(best)}"
        yield f"the recipe's own layout, {place}, behind 1: {_loss(own)}"


def _lack(planned: Mapping[str, Any]) -> str:
    return (
        f"needs {gib(planned['needed_bytes'])} of {gib(planned['most_bytes'])} GiB on stage "
        f"{planned['largest_stage']}, most of it {planned['largest_item'].replace('_', ' ')}"
    )
