"""What `mai plan` tells of a recipe on a cluster, as JSON values; text.py and page.py show the same values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from mai.hardware.cluster import Cluster
from mai.model.flops import FLOP_CONVENTION, flops_per_token
from mai.plan.cost import cost, disk, gpu_watts
from mai.plan.memory.layout_mends import mends
from mai.plan.memory.memory import Memory, memory
from mai.plan.model.model_flops import whole_square_flops_per_token
from mai.plan.report.schema import SCHEMA
from mai.plan.scheduler.scheduler_answers import answers
from mai.plan.setting.of_layout import trains, words
from mai.plan.setting.of_recipe import most_data
from mai.plan.setting.setting import Setting
from mai.plan.time.step_time import StepTime, step_time
from mai.plan.time.trust import band, kind
from mai.recipe import Recipe, fingerprint

_MILLION = 1_000_000


def report(recipe: Recipe, setting: Setting, *, gpus: int | None = None) -> dict[str, Any]:
    """All numbers of a plan; None is unknown. `recipe` and `setting` are of the same layout, `gpus` is its budget: all
    that the cluster has where it is not stated."""
    in_use, booked = setting.layout.world_size, _booked(setting, gpus)
    time, needed = step_time(setting), memory(setting)
    return {
        "schema": dict(SCHEMA),
        "recipe": recipe.name,
        "fingerprint": fingerprint(recipe),
        "software": {"name": setting.software.name, "describes": setting.software.describes},
        "cluster": _of_cluster(setting.cluster),
        "gpus": {
            "booked": booked,
            "in_use": in_use,
            "spares": booked - in_use,
            "most_data": most_data(recipe, setting.cluster, gpus),
        },
        "layout": setting.layout.degrees,
        "sharding": setting.parallel.sharding,
        "recompute": list(setting.parallel.recompute),
        "micro_batches": setting.num_micro_batches,
        "micro_batch_sequences": setting.parallel.micro_batch_sequences,
        "sequence_length": setting.sequence_length,
        "precision": setting.precision,
        "imbalance": None if recipe.model.experts is None else setting.cut.imbalance,
        "memory": _of_memory(needed),
        "mends": [] if needed.fits else _of_mends(recipe, setting),
        "step": _of_step(setting, time),
        "speed": _of_speed(recipe, setting, time.seconds),
        "phase": _of_phase(recipe, setting, time.seconds, booked),
        "disk": asdict(disk(recipe)),
        "scheduler": answers(recipe, setting, step_seconds=time.seconds, gpus=gpus, gpus_booked=booked),
    }


_ADDED = ("steps", "tokens", "seconds", "days", "gpu_hours", "money", "energy_kilowatt_hours", "carbon_kilograms")


def of_whole_run(phases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last phase's plan, and as its `run` all phases together: what is unknown of one is unknown of all."""
    run: dict[str, Any] = {"phases": [phase["recipe"] for phase in phases]}
    for key in _ADDED:
        each = [phase["phase"][key] for phase in phases]
        run[key] = None if None in each else sum(each)
    return {**phases[-1], "run": run}


def _booked(setting: Setting, gpus: int | None) -> int:
    """GPUs that somebody pays for: the budget, or the whole of a cluster that says how large it is."""
    cluster = setting.cluster
    if gpus is not None:
        return gpus
    return setting.layout.world_size if cluster.nodes is None else cluster.nodes * cluster.gpus_per_node


def _of_cluster(cluster: Cluster) -> dict[str, Any]:
    price = cluster.price
    return {
        "name": cluster.name,
        "gpu": cluster.gpu.name,
        "gpu_watts": gpu_watts(cluster),
        "gpu_watts_source": cluster.gpu.sources.get("eight_gpu_node_watts"),
        "price": None if price is None else asdict(price),
        "site": asdict(cluster.site),
        "sources": dict(cluster.sources),
    }


def _of_memory(found: Memory) -> dict[str, Any]:
    """Of one rank of every stage, in bytes."""
    return {
        "usable_bytes": found.usable,
        "most_bytes": found.most,
        "fits": found.fits,
        "largest_stage": found.largest.stage,
        "stages": [
            {
                "stage": rank.stage,
                "items_bytes": dict(rank.items),
                "allocated_bytes": rank.allocated,
                "outside_bytes": rank.outside,
                "needed_bytes": rank.needed,
                "host_during_save_bytes": rank.host_during_save,
            }
            for rank in found.stages
        ],
    }


def _of_mends(recipe: Recipe, setting: Setting) -> list[dict[str, Any]]:
    """Changes of the layout as words that a person can add to the command, and what they give and cost."""
    return [
        {
            "overrides": words(recipe, mend.setting.parallel),
            "freed_bytes": mend.freed_bytes,
            "fits": mend.fits,
            "slowdown": mend.slowdown,
        }
        for mend in mends(setting, accepts=partial(trains, recipe))
    ]


def _of_step(setting: Setting, time: StepTime) -> dict[str, Any]:
    trust = band(setting)
    return {
        "seconds": time.seconds,
        "items_seconds": dict(time.items),
        "stages": [asdict(stage) for stage in time.stages],
        "slowest_stage": time.slowest_stage,
        "kind": kind(setting),
        "measured": trust and {**asdict(trust), "between_seconds": trust.seconds(time.seconds)},
    }


def _of_speed(recipe: Recipe, setting: Setting, step_seconds: float) -> dict[str, Any]:
    """Tokens, and model FLOPs over the GPUs' peak in the precision of the matrix products."""
    length = recipe.data.sequence_length
    per_gpu = setting.tokens / step_seconds / setting.layout.world_size
    peak = {
        "bf16": setting.cluster.gpu.bf16_tflops,
        "fp8": setting.cluster.gpu.fp8_tflops,
        "fp4": setting.cluster.gpu.fp4_tflops,
    }.get(setting.precision)
    causal = per_gpu * flops_per_token(recipe.model, length) / 1e12
    full = per_gpu * whole_square_flops_per_token(setting.architecture, length) / 1e12
    return {
        "tokens_per_second": setting.tokens / step_seconds,
        "tokens_per_second_per_gpu": per_gpu,
        "model_tflops_per_gpu": causal,
        "peak_tflops": peak,
        "utilisation": peak and causal / peak,
        "utilisation_of_full_attention": peak and full / peak,
        "convention": FLOP_CONVENTION,
    }


def _of_phase(recipe: Recipe, setting: Setting, step_seconds: float, booked: int) -> dict[str, Any]:
    """Of all steps of the recipe, which are one phase of a run, and of a million tokens."""
    steps, tokens = recipe.train.steps, recipe.train.steps * setting.tokens
    seconds = steps * step_seconds

    def costs(seconds: float) -> Mapping[str, float | None]:
        in_use = setting.layout.world_size
        return asdict(cost(setting.cluster, seconds=seconds, gpus_in_use=in_use, gpus_booked=booked))

    return {
        "continues": recipe.checkpoint.start_from,
        "steps": steps,
        "tokens": tokens,
        "seconds": seconds,
        "days": seconds / 86_400,
        **costs(seconds),
        "per_million_tokens": costs(seconds * _MILLION / tokens),
    }
